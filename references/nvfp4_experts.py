"""What the two halves of NVFP4's mixture of experts share: who is routed where, and test values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.draws import any_index, choice, positive
from harness.values import Family
from references.nvfp4_format import BLOCK
from references.nvfp4_gemm import dequantized, special

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Generator, Tensor

    Shape = tuple[int, ...]

PLAIN = {
    "outlier": "no input is data, so that it would be normal",
    "cancelling": "no input is data, so that it would be normal",
}
_SQUARE = 8.5625  # of an E2M1 number, on average; so is the root of that of a product of two


def routed(ids: Tensor, wcodes: Tensor, wscales: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each expert that is asked, its slots ``token * t + j`` and its dequantized weights."""
    flat = ids.reshape(-1)
    for expert in flat.unique().tolist():
        slots = (flat == expert).nonzero().reshape(-1)
        yield expert, slots, dequantized(wcodes[expert], wscales[expert])


def near_the_bend(
    name: str, role: str, shape: Shape, dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Block scales with which sums are of the order of 1: beyond, SiLU is the identity, or is 0."""
    del name, role
    if dtype is not torch.float8_e4m3fn:
        return None
    sums = _SQUARE * math.sqrt(BLOCK * shape[-1])
    return positive(range(-1, 1), shape, generator) / math.sqrt(sums)


def _by(draw: Callable[[Shape, Generator], Tensor]) -> Family:
    """Values near the bend, and tokens routed in a way of its own."""

    def make(
        name: str, role: str, shape: Shape, dtype: torch.dtype, generator: Generator
    ) -> Tensor | None:
        if role == "index":
            return draw(shape, generator)
        return near_the_bend(name, role, shape, dtype, generator)

    return Family(make=make)


def _to_one(shape: Shape, generator: Generator) -> Tensor:
    return any_index((1, 1), generator).expand(shape)


def _to_few(shape: Shape, generator: Generator) -> Tensor:
    """To two experts: the others are empty."""
    some = any_index((2,), generator)
    return some[torch.randint(0, 2, shape, generator=generator)]


def _twice(shape: Shape, generator: Generator) -> Tensor:
    """Each token to one expert as often as it has any."""
    return any_index((shape[0], 1), generator).expand(shape)


def _apart(shape: Shape, generator: Generator) -> Tensor:
    """Each token to different experts, as a router's top k."""
    step = 1 + 2 * choice(2, generator)
    return any_index((shape[0], 1), generator) + step * torch.arange(shape[1])


FAMILIES = {
    "normal": Family(make=near_the_bend, random=True),
    "one_expert": _by(_to_one),
    "few_experts": _by(_to_few),
    "twice": _by(_twice),
    "apart": _by(_apart),
    "special": Family(make=special),
}
