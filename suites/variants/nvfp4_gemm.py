"""Correct variants of NVFP4's GEMM: fp32 sums in other orders, scales at other places.

A code has 2 bits and a scale 4, so a dequantized number has at most 6, the product of two at most
12: both are exact in fp32, and the former in fp16 and bf16 too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from harness.variants import variant
from suites.variants.orders import ORDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from suites.variants.orders import Order

    Product = Callable[[Tensor, Tensor], Tensor]

OP: Final = "nvfp4_gemm"
BLOCK: Final = 16
_STEP: Final = 2**22  # products held at once


def _values(packed: Tensor) -> Tensor:
    """E2M1 by its fields: ``m/2`` where the exponent is 0, else ``(1 + m/2) 2^(e-1)``."""
    codes = torch.stack((packed & 0xF, packed >> 4), 2).flatten(1).to(torch.int32)
    exponent, mantissa = codes >> 1 & 3, (codes & 1).float() / 2
    size = torch.where(exponent == 0, mantissa, (1 + mantissa) * (1 << exponent).float() / 2)
    return torch.where(codes > 7, -size, size)


def _rows(scales: Tensor, rows: int, blocks: int) -> Tensor:
    """Scales out of tiles of 128 by 4, of which 32 rows lie 16 bytes apart."""
    high, wide = scales.shape
    tiles = scales.float().reshape(high // 128, wide // 4, 32, 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).reshape(high, wide)[:rows, :blocks]


def dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """A matrix, but for its global scale, float32."""
    values: Tensor = _values(codes).unflatten(1, (-1, BLOCK))
    return (values * _rows(scales, *values.shape[:2])[:, :, None]).flatten(1)


def _declare(
    name: str,
    product: Product,
    *,
    alpha_first: bool = False,
    accumulates: str = "fp32",
    devices: str = "any",
) -> None:
    @variant(op=OP, name=name, accumulates=accumulates, devices=devices)
    def gemm(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        alpha: Tensor,
        bias: Tensor | None,
        out_dtype: torch.dtype,
    ) -> Tensor:
        acts, weights = dequantized(codes, ascales), dequantized(wcodes, wscales)
        main = product(acts * alpha if alpha_first else acts, weights)
        y = main if alpha_first else main * alpha.to(main.dtype)
        return (y if bias is None else y + bias.to(y.dtype)).to(out_dtype)


def in_order(order: Order) -> Product:
    """Sums over the last axis in an order of their own."""

    def product(acts: Tensor, weights: Tensor) -> Tensor:
        rows = max(1, _STEP // weights.numel())
        parts = [order(part[:, None] * weights) for part in acts.split(rows)]
        return torch.cat(parts) if parts else acts.new_zeros(0, len(weights))

    return product


def by_blocks(acts: Tensor, weights: Tensor) -> Tensor:
    """A block of 16 at a time, as a chain of block-scaled matrix instructions."""
    total = torch.zeros(len(acts), len(weights), device=acts.device)
    for columns, rows in zip(acts.split(BLOCK, 1), weights.split(BLOCK, 1), strict=True):
        total = total + columns @ rows.T
    return total


def _on_tensor_cores(dtype: torch.dtype) -> Product:
    def product(acts: Tensor, weights: Tensor) -> Tensor:
        return torch.mm(acts.to(dtype), weights.to(dtype).T, out_dtype=torch.float32)

    return product


for _name, _order in ORDERS.items():
    _declare(_name, in_order(_order))
_declare("vendor fp32", lambda acts, weights: acts @ weights.T)
_declare("alpha first", lambda acts, weights: acts @ weights.T, alpha_first=True)
_declare("blocks of 16", by_blocks)
_declare("float64", lambda acts, weights: acts.double() @ weights.double().T)
for _dtype in (torch.float16, torch.bfloat16):
    _declare(
        f"{str(_dtype).removeprefix('torch.')} on tensor cores",
        _on_tensor_cores(_dtype),
        accumulates="tensor_core",
        devices="cuda",
    )
