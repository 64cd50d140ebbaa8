"""Correct variants of SVDQuant's W4A4 GEMM: fp32 sums in other orders, scales at other places.

Codes are integers below 16, a group's sum of products below 2^13, and a scale has at most 11 bits:
a group's sum is exact in fp32, and so is its product with one scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from harness.variants import variant
from suites.variants.orders import ORDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from suites.variants.orders import Order

OP: Final = "svdq_gemm_w4a4"
GROUP: Final = 64
_FP16_MAX: Final = 65504.0
_STEP: Final = 2**22  # terms held at once


@dataclass(frozen=True)
class Operands:
    """What the main product needs: codes as fp32 integers ``[groups, rows, 64]``, scales fp32."""

    acts: Tensor
    weights: Tensor
    ascales: Tensor
    wscales: Tensor

    def group_sums(self) -> Tensor:
        """Exact sums of integer products, ``[groups, m, n]``."""
        return self.acts @ self.weights.transpose(1, 2)

    def terms(self) -> Tensor:
        """What a group adds: its sum times the product of its scales, which is exact in fp32."""
        scales: Tensor = self.ascales[:, :, None] * self.wscales[:, None]
        return self.group_sums() * scales


def unpacked(packed: Tensor, *, signed: bool) -> Tensor:
    """Codes as fp32 integers ``[groups, rows, 64]``."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), 2).flatten(1).to(torch.int8)
    wide = (nibbles ^ 8) - 8 if signed else nibbles
    grouped: Tensor = wide.unflatten(1, (-1, GROUP)).transpose(0, 1)
    return grouped.float()


def _declare(
    name: str,
    product: Callable[[Operands], Tensor],
    *,
    epilogue: str = "after",
    devices: str = "any",
) -> None:
    @variant(op=OP, name=name, devices=devices)
    def gemm(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        lora_act: Tensor | None,
        lora_up: Tensor | None,
        bias: Tensor | None,
        wcscales: Tensor | None,
        alpha: float,
        act_unsigned: bool,  # noqa: FBT001
        out_dtype: torch.dtype | None,
    ) -> Tensor:
        target, precise = out_dtype or ascales.dtype, name == "float64"
        wide = torch.float64 if precise else torch.float32
        weights = unpacked(wcodes, signed=True)
        acts = unpacked(codes, signed=not act_unsigned)
        ascales, wscales = ascales.to(wide), wscales.to(wide)
        channels = torch.full((len(wcodes),), alpha, dtype=wide, device=codes.device)
        if wcscales is not None:
            channels = channels * wcscales.to(wide)
        if epilogue == "folded":
            wscales = wscales * channels
        operands = Operands(acts.to(wide), weights.to(wide), ascales, wscales)
        rest = torch.zeros(len(codes), len(wcodes), dtype=wide, device=codes.device)
        if lora_act is not None and lora_up is not None:
            rest = lora_act.to(wide) @ lora_up.to(wide).T
        if bias is not None:
            rest = rest + bias.to(wide)
        main = product(operands)
        y = (main if epilogue == "folded" else main * channels) + rest
        return (y.clamp(-_FP16_MAX, _FP16_MAX) if target is torch.float16 else y).to(target)


def _in_order(order: Order) -> Callable[[Operands], Tensor]:
    return lambda of: order(of.terms().movedim(0, -1))


def _one_scale_after_the_other(of: Operands) -> Tensor:
    """``(sum * ascale) * wscale``: the first product is exact too."""
    return (of.group_sums() * of.ascales[:, :, None] * of.wscales[:, None]).sum(0)


def _weights_scaled_first(of: Operands) -> Tensor:
    """Weights are dequantized, activations stay integers: 13 + 11 bits, still exact in a group."""
    weights = of.weights * of.wscales[:, :, None]
    return ((of.acts @ weights.transpose(1, 2)) * of.ascales[:, :, None]).sum(0)


def _dequantized(of: Operands) -> Tensor:
    """Both operands are dequantized, which is exact, and multiplied by the vendor over all of k.

    The 64 products of a group now round, each to ``u`` of itself, and so do their sums.
    """
    acts = (of.acts * of.ascales[:, :, None]).transpose(0, 1).flatten(1)
    weights = (of.weights * of.wscales[:, :, None]).transpose(0, 1).flatten(1)
    return acts @ weights.T


def _through_bf16(of: Operands) -> Tensor:
    """Integer codes are exact in bf16, and sums of their products in fp32 accumulators."""
    parts = [
        torch.mm(acts.bfloat16(), weights.bfloat16().T, out_dtype=torch.float32)
        for acts, weights in zip(of.acts, of.weights, strict=True)
    ]
    return (torch.stack(parts) * (of.ascales[:, :, None] * of.wscales[:, None])).sum(0)


for _name, _order in ORDERS.items():
    _declare(_name, _in_order(_order))
_declare("float64", lambda of: of.terms().sum(0))
_declare("scales one by one", _one_scale_after_the_other)
_declare("weights scaled first", _weights_scaled_first)
_declare("channel scales folded", lambda of: of.terms().sum(0), epilogue="folded")
_declare("dequantized", _dequantized)
_declare("groups on bf16 tensor cores", _through_bf16, devices="cuda")
