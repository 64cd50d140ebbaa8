"""The first half of NVFP4's mixture of experts: gate and up, SiLU, and NVFP4 again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Within, op, output, size, tensor
from harness.budget import UNIT_ROUNDOFF, Budget, Expected
from references.nvfp4_experts import FAMILIES, PLAIN, routed
from references.nvfp4_format import BLOCK, Padding, encode_e2m1, swizzled
from references.nvfp4_gemm import dequantized
from references.nvfp4_recipes import vllm_factor, vllm_scale

if TYPE_CHECKING:
    from torch import Tensor

_LOWEST = -1.278464542761074  # of the minimum of SiLU
_SUBNORMAL = -86.0  # exp of less is subnormal in fp32, or is 0 where those are flushed
_SMALLEST_E4M3 = 2.0**-9
_SMALLEST_FP32 = 2.0**-149
_ROUNDINGS = 16  # half ulps: an approximate exponential and quotient, two products and a sum


@op(
    inputs={
        "codes": tensor("m k//2", dtype="uint8", role="code"),
        "wcodes": tensor("e 2*i k//2", dtype="uint8", role="code"),
        "ascales": tensor(
            "(m+127)//128*128 (k//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("m", "k//16"),
        ),
        "wscales": tensor(
            "e (2*i+127)//128*128 (k//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("2*i", "k//16"),
        ),
        "topk_ids": tensor("m t", dtype="int32", role="index", below="e"),
        "alphas": tensor("e 2", dtype="float32", role="scale"),
        "next_global_encode_scale": tensor("e", dtype="float32", role="scale"),
    },
    outputs={
        "next_codes": output("m t i//2", dtype="uint8", exact=True),
        "next_scales": output(
            "(m*t+127)//128*128 (i//16+3)//4*4", dtype="float8_e4m3fn", exact=True
        ),
    },
    domain={
        "m": size(0, 2**20),
        "t": size(1, 8),
        "e": size(1, 256),
        "i": size(32, 32768, multiple_of=32),
        "k": size(32, 65536, multiple_of=32),
    },
    dtypes=("bfloat16",),
    params={"intermediate_dtype": {"bfloat16": torch.bfloat16, "float16": torch.float16}},
    excludes=PLAIN,
    families=FAMILIES,
    independent=("m",),
    refuses={"intermediate_dtype": (torch.float32, torch.int8, "bfloat16", None)},
)
def nvfp4_moe_up(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    alphas: Tensor,
    next_global_encode_scale: Tensor,
    intermediate_dtype: torch.dtype,
) -> dict[str, Expected]:
    """Per slot, a token and one of its experts: NVFP4 of ``half(silu(gate) * up)``, recipe vllm.

    The first i rows of an expert's weights are gate, the others up; ``alphas`` are ``1 / (g_a
    g_gate)`` and ``1 / (g_a g_up)``, the quantizer's global scale that of the slot's expert. Slots
    are in the order of ``topk_ids``, and are the rows of ``next_scales`` too; the same expert twice
    is two slots. The layout 128x4 begins anew with each expert; padding is zero, or not read.

    An op of its own, so that bytes are judged as bytes: the second half then begins with codes that
    are given, and no code near a rounding blurs its sums.

    A correct kernel's sums lie within an error of the exact ones, so what is quantized is between
    two neighbours or is known: `Expected.within` has what either end makes. The rule of the error
    is taken at its widest: a reference knows neither the kernel nor the family.
    """
    t = topk_ids.shape[1]
    a = dequantized(codes, ascales)
    slots, half = topk_ids.numel(), wcodes.shape[1] // 2
    y, low, high = torch.zeros(3, slots, half, dtype=torch.float64, device=codes.device)
    rule = Budget(dtype=torch.float32, terms_summed=a.shape[1], tensor_core=True, random=False)
    for expert, places, w in routed(topk_ids, wcodes, wscales):
        rows, alpha = a[places // t], alphas[expert].repeat_interleave(half)
        sums = alpha * (rows @ w.T) + 0.0  # no zero is negative
        error = rule.accumulation(sums, alpha * (rows.abs() @ w.abs().T))
        error = torch.where(sums.isfinite(), error, 0.0)
        y[places], low[places], high[places] = _activated(sums, error)
    y, low, high = (part.to(intermediate_dtype).double() for part in (y, low, high))
    g = next_global_encode_scale[topk_ids.reshape(-1).long()][:, None]
    return _quantized(y, low, high, g, topk_ids.shape)


def _silu(v: Tensor) -> Tensor:
    return v / (1 + (-v).exp())


def _activated(sums: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``silu(gate) * up``, and the least and most that a correct kernel may have before it rounds.

    An exponent is wrong by ``|gate| u``, and so is the exponential. Where that is subnormal,
    anything from 0 to twice the value is right.
    """
    (gate, up), (gate_error, up_error) = sums.chunk(2, 1), error.chunk(2, 1)
    value = _silu(gate) * up
    dips = (gate - _LOWEST).abs() < gate_error
    turn = torch.where(dips, _LOWEST, gate)
    gates = torch.stack([_silu(v) for v in (gate - gate_error, gate + gate_error, turn)])
    tiny = gate - gate_error < _SUBNORMAL
    least = torch.where(tiny, 2 * gates.amin(0), gates.amin(0))
    most = torch.where(tiny, gates.amax(0).clamp_min(0.0), gates.amax(0))
    ends = (up - up_error, up + up_error)
    corners = torch.stack([g * u for g in (least, most) for u in ends])
    known = value.isfinite()
    part = _ROUNDINGS + 4 * gate.abs() * torch.sigmoid(-gate)
    low, high = corners.amin(0), corners.amax(0)
    low = low - (low.abs() * part * UNIT_ROUNDOFF + _SMALLEST_FP32 * (low != 0))
    high = high + (high.abs() * part * UNIT_ROUNDOFF + _SMALLEST_FP32 * (high != 0))
    return value, torch.where(known, low, value), torch.where(known, high, value)


def _quantized(
    y: Tensor, low: Tensor, high: Tensor, g: Tensor, shape: torch.Size
) -> dict[str, Expected]:
    """Codes and scales of ``y``, with those that all of ``low`` to ``high`` may lead to.

    A scale never falls where the largest element grows. A code is monotone in the element and,
    while a scale is not zero, in the scale: the extremes lie at the ends.
    """
    nearest = torch.where(low * high > 0, torch.minimum(low.abs(), high.abs()), 0.0)
    nearest = torch.where(low == high, low.abs(), nearest)
    nearest = torch.where(low.isnan() | high.isnan(), torch.nan, nearest)
    farthest = torch.maximum(low.abs(), high.abs())
    scale, least, most = (
        vllm_scale(part.unflatten(1, (-1, BLOCK)).amax(2), g)
        for part in (y.abs(), nearest, farthest)
    )
    beside_zero = torch.where((least == 0) & (most > 0), _SMALLEST_E4M3, least)
    codes = _encoded(y, scale, g)
    corners = [_encoded(end, s, g) for end in (low, high) for s in (least, beside_zero, most)]
    either = torch.stack([_in_order(part) for part in (codes, *corners)])
    first, last = (found.unflatten(0, shape) for found in (either.amin(0), either.amax(0)))
    lowest, highest = (_octets(swizzled(part).to(torch.float8_e4m3fn)) for part in (least, most))
    packed, scales = codes.unflatten(0, shape), swizzled(scale)
    return {
        "next_codes": Expected(
            packed, torch.zeros_like(packed), within=Within(first, last, _in_order)
        ),
        "next_scales": Expected(scales, scales.abs(), within=Within(lowest, highest, _octets)),
    }


def _encoded(values: Tensor, scale: Tensor, g: Tensor) -> Tensor:
    blocks: Tensor = values.unflatten(1, (-1, BLOCK))
    scaled = (blocks * vllm_factor(scale, g).unsqueeze(2)).float().double()
    return encode_e2m1(scaled.flatten(1))


def _in_order(packed: Tensor) -> Tensor:
    """The two codes of a byte as integers in the order of their numbers: -0 is -1, and 0 is 0."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=-1).double()
    return torch.where(nibbles > 7, 7 - nibbles, nibbles)


def _octets(scales: Tensor) -> Tensor:
    return scales.view(torch.uint8).double()
