"""Plain matrix products of known rounding behaviour: data of every sign structure, many orders.

Operands are bfloat16 or float16 values, so that a product of two is exact in float32 and all error
is that of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness.emulation import emulate
from suites.calibrate.chains import TILINGS, one_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Generator, Tensor

    Product = Callable[[Tensor, Tensor], Tensor]

STEP: Final = 16
EMULATED_K: Final = 256  # Triton's interpreter takes a second for more


@dataclass(frozen=True, kw_only=True)
class Data:
    """Operands of a product, and whether partial sums of any order stay random walks."""

    kind: str
    a: Tensor
    b: Tensor
    independent: bool


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to multiply: its accumulation mode and the longest K that it may take."""

    name: str
    accumulates: str
    multiply: Product
    max_k: int = 2**17


def data(size: int, k: int, dtype: torch.dtype, generator: Generator) -> Iterator[Data]:
    """Operands ``[size, k]`` and ``[k, size]`` of every kind."""

    def draw() -> tuple[Tensor, Tensor]:
        a = torch.randn(size, k, generator=generator)
        return a, torch.randn(k, size, generator=generator)

    def of(kind: str, a: Tensor, b: Tensor, *, independent: bool = True) -> Data:
        return Data(kind=kind, a=a.to(dtype), b=b.to(dtype), independent=independent)

    a, b = draw()
    places = torch.arange(k)
    yield of("normal", a, b)
    yield of("positive", a.abs(), b.abs())
    yield of("shifted", a + 0.5, b + 0.5)
    yield of("outlier", a * torch.where(places % 16 == 3, 64.0, 1.0), b)
    pairs = a.clone()
    pairs[:, 1::2] = -pairs[:, 0::2][:, : k // 2] * (1 + 2.0**-6)
    yield of("cancelling", pairs, b)
    for kind, sign in (
        ("first half positive", places < k // 2),
        ("even terms positive", places % 2 == 0),
        ("blocks of 16 alternate", places // 16 % 2 == 0),
    ):
        signed = a.abs() * torch.where(sign, 1.0, -1.0)
        yield of(kind, signed, b.abs(), independent=False)
    rising = a.sort(1).values
    yield of("sorted", rising, torch.ones_like(b), independent=False)


def methods(device: torch.device) -> tuple[Method, ...]:
    """Every way to multiply that ``device`` has."""
    fp32 = partial(Method, accumulates="fp32")
    found = [
        fp32(name="vendor fp32", multiply=_fp32),
        fp32(name="vendor fp32, K in 4", multiply=partial(_split, _fp32, parts=4)),
        fp32(name="vendor fp32, backwards", multiply=_backwards),
        fp32(name="chain of 1", multiply=partial(_chain, step=1), max_k=2**13),
        fp32(name="chain of 16", multiply=partial(_chain, step=STEP), max_k=2**15),
        fp32(name="32 lanes", multiply=_lanes, max_k=2**16),
    ]
    return (*found, *(_on_cuda() if device.type == "cuda" else _emulated()))


def _on_cuda() -> Iterator[Method]:
    tensor_core = partial(Method, accumulates="tensor_core")
    yield tensor_core(name="vendor tensor cores", multiply=_vendor)
    yield tensor_core(
        name="vendor tensor cores, K in 4", multiply=partial(_split, _vendor, parts=4)
    )
    for name, tiling in TILINGS.items():
        yield tensor_core(
            name=f"one Triton chain {name}", multiply=partial(one_chain, tiling=tiling)
        )
    yield Method(name="one fp32 Triton chain", accumulates="fp32", multiply=_widened_chain)


def _emulated() -> Iterator[Method]:
    for name in TILINGS:
        yield Method(
            name=f"one emulated chain {name}",
            accumulates="tensor_core",
            multiply=partial(_emulated_chain, tiling=name),
            max_k=EMULATED_K,
        )


def _fp32(a: Tensor, b: Tensor) -> Tensor:
    return a.float() @ b.float()


def _vendor(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out_dtype=torch.float32)


def _widened_chain(a: Tensor, b: Tensor) -> Tensor:
    return one_chain(a.float(), b.float(), TILINGS["m64n64k16"])


def _emulated_chain(a: Tensor, b: Tensor, tiling: str) -> Tensor:
    with emulate():
        return one_chain(a, b, TILINGS[tiling])


def _backwards(a: Tensor, b: Tensor) -> Tensor:
    return _fp32(a.flip(1), b.flip(0))


def _split(multiply: Product, a: Tensor, b: Tensor, *, parts: int) -> Tensor:
    total = torch.zeros(len(a), b.shape[1], device=a.device)
    for left, right in zip(a.chunk(parts, 1), b.chunk(parts), strict=True):
        total = total + multiply(left.contiguous(), right.contiguous())
    return total


def _chain(a: Tensor, b: Tensor, *, step: int) -> Tensor:
    total = torch.zeros(len(a), b.shape[1], device=a.device)
    for left, right in zip(a.float().split(step, 1), b.float().split(step), strict=True):
        total += left @ right
    return total


def _lanes(a: Tensor, b: Tensor) -> Tensor:
    """32 chains of every 32nd term, then their sum."""
    lanes = [_chain(a[:, lane::32], b[lane::32], step=STEP) for lane in range(min(32, a.shape[1]))]
    return torch.stack(lanes).sum(0)
