"""Value families of SVDQuant's GEMMs whose activation scales lie where a dtype ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from harness import draws
from harness.values import Family

if TYPE_CHECKING:
    from torch import Generator, Tensor

# Exponents of large scales of either operand: their products are ordinary again.
_LARGE: Final = {torch.float16: range(12, 16), torch.bfloat16: range(100, 124)}
_SMALL: Final = {torch.float16: range(-14, -10), torch.bfloat16: range(-112, -108)}
_SHARES: Final = (1, 4, 64)  # of the activation scales one in so many is large
_RARE: Final = 256  # places for one that is no number, so that most rows have none


def large(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Activation scales up to the largest of the dtype, as of rows with an outlier.

    A bfloat16 scale times the integer sum of a group may be beyond float32, where its product with
    the weight's scale is not: what a kernel multiplies first shows.
    """
    del role
    if name == "wscales":
        return draws.positive(_SMALL[dtype], shape, generator)
    if name != "ascales":
        return None
    share = _SHARES[draws.choice(len(_SHARES), generator)]
    chosen = torch.randint(0, share, shape, generator=generator) == 0
    ordinary = draws.positive(range(-2, 2), shape, generator)
    return torch.where(chosen, draws.positive(_LARGE[dtype], shape, generator), ordinary)


def special(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """NaN and infinities among the activation scales, and in the low-rank operand as usual."""
    del role
    if name == "lora_act":
        return draws.special(shape, dtype, generator)
    if name != "ascales":
        return None
    made = draws.positive(range(-2, 2), shape, generator)
    place = torch.randint(0, _RARE, shape, generator=generator)
    for index, value in enumerate((math.nan, math.inf, -math.inf)):
        made[place == index] = value
    return made


FAMILIES: Final = {"large_scale": Family(large), "special": Family(special)}
