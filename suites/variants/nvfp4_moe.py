"""Correct variants of NVFP4's mixture of experts: sums, SiLU and experts in other orders, in fp32.

What is quantized in between follows the recipe's roundings, as the quantizer's variants have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from harness.variants import variant
from suites.variants.nvfp4_gemm import BLOCK, by_blocks, dequantized, in_order
from suites.variants.nvfp4_quantize import code_by_bounds, scale_by_cast, swizzled
from suites.variants.orders import ORDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Product = Callable[[Tensor, Tensor], Tensor]
    Silu = Callable[[Tensor, Tensor], Tensor]

UP: Final = "nvfp4_moe_up"
DOWN: Final = "nvfp4_moe_down"


@dataclass(frozen=True)
class Way:
    """How a variant multiplies matrices and gates, and whether it goes by token or by expert."""

    product: Product
    silu: Silu
    by_token: bool = False


def _by_sigmoid(gate: Tensor, up: Tensor) -> Tensor:
    return gate * torch.sigmoid(gate) * up


def _by_quotient(gate: Tensor, up: Tensor) -> Tensor:
    return gate / (1 + (-gate).exp()) * up


def _by_exp2(gate: Tensor, up: Tensor) -> Tensor:
    """The exponential of what is not positive, so that it does not overflow."""
    decay = torch.exp2(gate.abs() * -1.4426950408889634)
    share = torch.where(gate < 0, decay, 1.0) / (1 + decay)
    return gate * share * up


def _vendor(acts: Tensor, weights: Tensor) -> Tensor:
    return acts @ weights.T


def _wide(acts: Tensor, weights: Tensor) -> Tensor:
    return acts.double() @ weights.double().T


def _of_slots(way: Way, acts: Tensor, ids: Tensor, wcodes: Tensor, wscales: Tensor) -> Tensor:
    """The product of each slot's row of ``acts`` with its expert's weights."""
    flat, made = ids.reshape(-1), acts.new_zeros(ids.numel(), wcodes.shape[1]).double()
    if way.by_token:
        for slot, expert in enumerate(flat.tolist()):
            w = dequantized(wcodes[expert], wscales[expert])
            made[slot] = way.product(acts[slot : slot + 1], w)[0].double()
        return made
    for expert in range(len(wcodes)):
        slots = (flat == expert).nonzero().flatten()
        if len(slots):
            w = dequantized(wcodes[expert], wscales[expert])
            made[slots] = way.product(acts[slots], w).double()
    return made


def _quantized(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    grouped: Tensor = y.float().unflatten(1, (-1, BLOCK))
    sixth = torch.full_like(g, 1 / 6)  # by a number, a GPU may divide another way
    scale = scale_by_cast(g * (grouped.abs().amax(2) * sixth))
    decode = scale * (torch.ones_like(g) / g)
    factor = torch.where(decode == 0, 0.0, torch.ones_like(decode) / decode)
    scaled = (grouped * factor[:, :, None]).flatten(1)
    code = code_by_bounds(scaled.abs())
    code |= (scaled.signbit() & ~scaled.isnan()).to(torch.uint8) << 3
    return code[:, 0::2] | code[:, 1::2] << 4, swizzled(scale)


def _declare_up(name: str, way: Way, wide: torch.dtype = torch.float32) -> None:
    @variant(op=UP, name=name)
    def up(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        topk_ids: Tensor,
        alphas: Tensor,
        next_global_encode_scale: Tensor,
        intermediate_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        (_, t), flat = topk_ids.shape, topk_ids.reshape(-1).long()
        acts = dequantized(codes, ascales).repeat_interleave(t, 0)
        sums = _of_slots(way, acts, topk_ids, wcodes, wscales).to(wide)
        gate, up = sums.chunk(2, 1)
        alpha = alphas[flat].to(wide)
        y = way.silu(gate * alpha[:, :1], up * alpha[:, 1:]).to(intermediate_dtype)
        packed, scales = _quantized(y, next_global_encode_scale[flat][:, None])
        return packed.unflatten(0, topk_ids.shape), scales


def _declare_down(name: str, way: Way, *, last_first: bool = False, at_once: bool = False) -> None:
    @variant(op=DOWN, name=name)
    def down(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        alphas: Tensor,
        out_dtype: torch.dtype,
    ) -> Tensor:
        acts = dequantized(codes.flatten(0, 1), ascales)
        parts = _of_slots(way, acts, topk_ids, wcodes, wscales).float()
        alpha = alphas[topk_ids.long()]
        parts = parts.unflatten(0, topk_ids.shape)
        if at_once:  # one factor a slot
            whole: Tensor = (topk_weights * alpha)[:, :, None] * parts
            return whole.sum(1).to(out_dtype)
        y = torch.zeros_like(parts[:, 0])
        order = range(topk_ids.shape[1])
        for choice in reversed(order) if last_first else order:
            y = y + topk_weights[:, choice, None] * (alpha[:, choice, None] * parts[:, choice])
        return y.to(out_dtype)


for _name, _order in ORDERS.items():
    _declare_up(_name, Way(in_order(_order), _by_exp2))
    _declare_down(_name, Way(in_order(_order), _by_exp2))
_declare_up("vendor fp32, exp2", Way(_vendor, _by_exp2))
_declare_up("vendor fp32, sigmoid", Way(_vendor, _by_sigmoid))
_declare_up("vendor fp32, quotient, by token", Way(_vendor, _by_quotient, by_token=True))
_declare_up("blocks of 16", Way(by_blocks, _by_quotient))
_declare_up("float64", Way(_wide, _by_sigmoid), torch.float64)
_declare_down("vendor fp32", Way(_vendor, _by_exp2))
_declare_down("vendor fp32, the last expert first", Way(_vendor, _by_exp2), last_first=True)
_declare_down("vendor fp32, by token", Way(_vendor, _by_exp2, by_token=True))
_declare_down("blocks of 16, one factor a slot", Way(by_blocks, _by_exp2), at_once=True)
_declare_down("float64", Way(_wide, _by_exp2))
