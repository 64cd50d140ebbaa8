"""Correct variants of SVDQuant's activation quantizer.

Codes and scales have one right answer; two independent ways lead to it here. The low-rank product
is a sum of products of two half-precision numbers, each exact in fp32, in any order.
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

    Result = tuple[Tensor, Tensor, Tensor]

OP: Final = "svdq_quantize_w4a4_act_fuse_lora"
GROUP: Final = 64
_STEP: Final = 2**22  # products held at once


def by_division(x: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor]:
    """The recipe in IEEE fp32: ``rint(xs / s)``, a NaN giving 0."""
    smoothed = (x.float() / smooth.float()).to(x.dtype).float().unflatten(1, (-1, GROUP))
    top = smoothed.abs().amax(2, keepdim=True)
    scale = top / torch.full_like(top, 7.0)  # by a number, a GPU multiplies by its reciprocal
    codes = (smoothed / scale).round().nan_to_num(nan=0.0).clamp(-7, 7)
    return _packed(codes.flatten(1)), scale.squeeze(2).T.to(x.dtype)


def by_reciprocal(x: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor]:
    """The recipe with divisions as hardware makes them: a reciprocal and one exact correction.

    The scale has 24 bits, so the quotient that is rounded to an integer must be the one rounded to
    fp32: exact ties of ``xs / (max / 7)`` are ties of that one only.
    """
    smoothed = _divided(x.float(), smooth.float()).to(x.dtype).float().unflatten(1, (-1, GROUP))
    largest = smoothed.abs().amax(2, keepdim=True)
    scale = _divided(largest, torch.full_like(largest, 7.0))
    codes = _divided(smoothed, scale).round().nan_to_num(nan=0.0).clamp(-7, 7)
    return _packed(codes.flatten(1)), scale.squeeze(2).T.to(x.dtype)


def _divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    guess = numerator * denominator.reciprocal()
    wide = denominator.double()
    residual = numerator.double() - guess.double() * wide  # exact: 48 bits and a few
    corrected = (guess.double() + residual / wide).float()
    # The residual of an infinity is NaN.
    return torch.where(numerator.isinf() & denominator.isfinite(), numerator, corrected)


def _packed(codes: Tensor) -> Tensor:
    nibbles = codes.to(torch.int8) & 0xF
    return (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view(torch.uint8)


def _declare(
    name: str,
    product: Callable[[Tensor, Tensor], Tensor],
    *,
    accumulates: str = "fp32",
    devices: str = "any",
) -> None:
    @variant(op=OP, name=name, accumulates=accumulates, devices=devices)
    def quantized(x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str) -> Result:
        del precision
        coded = by_reciprocal if name == "float64" else by_division
        return (*coded(x, smooth), product(x, lora_down))


def _in_order(order: Order) -> Callable[[Tensor, Tensor], Tensor]:
    def product(x: Tensor, down: Tensor) -> Tensor:
        rows = max(1, _STEP // down.numel())
        parts = [order(part.float()[:, None] * down.float().T) for part in x.split(rows)]
        return torch.cat(parts) if parts else x.new_zeros(0, down.shape[1], dtype=torch.float32)

    return product


def _by_columns(x: Tensor, down: Tensor) -> Tensor:
    """Outer products of 16 columns at a time, as a chain of matrix instructions."""
    total = torch.zeros(len(x), down.shape[1], device=x.device)
    for columns, rows in zip(x.float().split(16, 1), down.float().split(16), strict=True):
        total = total + columns @ rows
    return total


def _by_halves(x: Tensor, down: Tensor) -> Tensor:
    pairs = zip(x.float().chunk(2, 1), down.float().chunk(2), strict=True)
    first, second = (columns @ rows for columns, rows in pairs)
    return first + second


for _name, _order in ORDERS.items():
    _declare(_name, _in_order(_order))
_declare("vendor fp32", lambda x, down: x.float() @ down.float())
_declare("vendor fp32, transposed", lambda x, down: (down.float().T @ x.float().T).T.contiguous())
_declare("vendor fp32, K in 2", _by_halves)
_declare("chain of 16", _by_columns)
_declare("float64", lambda x, down: (x.double() @ down.double()).float())
_declare(
    "vendor tensor cores",
    lambda x, down: torch.mm(x, down, out_dtype=torch.float32),
    accumulates="tensor_core",
    devices="cuda",
)
