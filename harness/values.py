"""Value families: what numbers the inputs of a case hold, reproducible from a generator alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from harness.declare import Op

    Maker = Callable[[tuple[int, ...], torch.dtype, Generator], Tensor]

_SPECIAL: Final = (math.nan, math.inf, -math.inf, -0.0)
GROUP: Final = 64  # zero groups and crafted ties span whole quantization groups of this length


@dataclass(frozen=True)
class Family:
    """How the inputs of a case are made in one family.

    ``make`` takes an input's name, role, shape, dtype and generator; None means ``normal``.
    ``random`` says that elements are independent draws.
    """

    make: Callable[[str, str, tuple[int, ...], torch.dtype, Generator], Tensor | None]
    random: bool = False


class UnknownFamily(LookupError):
    """A value family that does not exist; the message lists the known ones."""


def is_random(op: Op, family: str) -> bool:
    """Whether elements of the inputs are independent draws in ``family``."""
    own = op.families.get(family)
    return own.random if own else family in _RANDOM


def make(
    role: str, family: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor:
    """A CPU tensor for an input of ``role`` in ``family``; raises UnknownFamily.

    Every family is asymmetric between rows and columns, so that a transpose shows.
    """
    if family not in FAMILIES:
        msg = f"values={family!r} is unknown; families: {', '.join(FAMILIES)}"
        raise UnknownFamily(msg)
    if role == "code":
        return _codes(family, shape, generator)
    if role == "scale":
        return _scales(family, shape, generator).to(dtype)
    if role == "weight" and family in _DATA_ONLY:
        family = "normal"
    return FAMILIES[family](shape, dtype, generator).to(dtype)


def _normal(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _exact(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    return torch.randint(-3, 4, shape, generator=generator).float()


def _constant(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    return torch.full(shape, 0.75 + float(torch.randint(0, 8, (), generator=generator)))


def _probe(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    """One non-zero a row at a random column, of a magnitude that tells its row."""
    probe = torch.zeros(shape)
    if not probe.numel():
        return probe
    rows = probe.reshape(-1, shape[-1])
    columns = torch.randint(0, shape[-1], (rows.shape[0],), generator=generator)
    index = torch.arange(rows.shape[0])
    rows[index, columns] = 1.0 + (index % 61).float()
    return probe


def _outlier(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    channels = torch.rand(shape[-1:], generator=generator) < 1 / 16
    return torch.randn(shape, generator=generator) * torch.where(channels, 64.0, 1.0)


def _tiny(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    exponent = torch.randint(10, 21, (), generator=generator)
    return torch.randn(shape, generator=generator) * torch.exp2(-exponent)


def _huge(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Near overflow of fp16; elsewhere 2^55, whose squares still sum in float32."""
    top = min(torch.finfo(dtype).max / 8, 2.0**55)
    signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    return signs * top * (0.5 + torch.rand(shape, generator=generator) / 2)


def _cancelling(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    """Neighbours of opposite sign that nearly cancel."""
    values = torch.randn(shape, generator=generator)
    flat = values.reshape(-1)
    odd = flat[1::2]
    flat[1::2] = -flat[0::2][: odd.numel()] * (1 + odd * 2.0**-8)
    return values


def _ties(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    """Half-integers below 7 with a 7 in each group: exact midpoints of a symmetric int4 code."""
    values = torch.randint(-7, 7, shape, generator=generator) + 0.5
    values.reshape(-1)[:: GROUP // 4] = 7.0
    return values


def _zero(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    """Zero groups among normal ones; wholly zero one time in four."""
    values = torch.randn(shape, generator=generator)
    if float(torch.rand((), generator=generator)) < 1 / 4:
        return torch.zeros(shape)
    flat = values.reshape(-1)
    keep = torch.rand(math.ceil(flat.numel() / GROUP), generator=generator) < 1 / 2
    return (flat * keep.repeat_interleave(GROUP)[: flat.numel()]).reshape(shape)


def _special(shape: tuple[int, ...], _: torch.dtype, generator: Generator) -> Tensor:
    """Normal, with NaN, infinities and -0 at about one place in 64 each."""
    values = torch.randn(shape, generator=generator)
    place = torch.randint(0, 16 * len(_SPECIAL), shape, generator=generator)
    for index, special in enumerate(_SPECIAL):
        values[place == index] = special
    return values


FAMILIES: Final[dict[str, Maker]] = {
    "normal": _normal,
    "exact": _exact,
    "constant": _constant,
    "zero": _zero,
    "probe": _probe,
    "outlier": _outlier,
    "tiny": _tiny,
    "huge": _huge,
    "cancelling": _cancelling,
    "ties": _ties,
    "special": _special,
}
_RANDOM: Final = frozenset({"normal", "outlier", "cancelling"})
_DATA_ONLY: Final = frozenset({"huge", "tiny", "special", "zero"})


def _codes(family: str, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Any byte; in ``probe`` a single code a row, in the low or the high nibble."""
    if family == "zero":
        return torch.zeros(shape, dtype=torch.uint8)
    if family != "probe":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    places = _probe(shape, torch.float32, generator) != 0
    nibbles = torch.where(torch.rand(shape, generator=generator) < 1 / 2, 3, 5 << 4)
    return torch.where(places, nibbles, 0).to(torch.uint8)


def _scales(family: str, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Positive, within 2^-2..2^2; powers of two where results should be exact, 1 for ties."""
    if family == "ties":
        return torch.ones(shape)
    exponents = torch.rand(shape, generator=generator) * 4 - 2
    return torch.exp2(exponents.round() if family in {"exact", "probe"} else exponents)
