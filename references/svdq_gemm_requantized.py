"""SVDQuant's W4A4 GEMM whose result is quantized for the next layer: codes, scales, low rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness import Expected, Within, op, output, size, tensor
from references import svdq_activation, svdq_scales
from references.svdq_sums import before_activation, error_of

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64
SHIFT = 0.171875  # nunchaku's: more than gelu_tanh falls below 0, and exact in either half_t


@op(
    inputs={
        "codes": tensor("m k//2", dtype="uint8", role="code"),
        "wcodes": tensor("n k//2", dtype="uint8", role="code"),
        "ascales": tensor("k//64 m", role="scale"),
        "wscales": tensor("k//64 n", role="scale"),
        "next_smooth": tensor("n", role="scale"),
        "next_lora_down": tensor("n r2", role="weight"),
        "lora_act": tensor("m r", dtype="float32", optional="lora"),
        "lora_up": tensor("n r", role="weight", optional="lora"),
        "bias": tensor("n", role="weight", optional="bias"),
        "wcscales": tensor("n", role="scale", optional="wcscales"),
    },
    outputs={
        "next_codes": output("m n//2", dtype="uint8", exact=True),
        "next_ascales": output("n//64 m", exact=True),
        "next_lora_act": output("m r2", dtype="float32", sums_over="n"),
    },
    domain={
        "m": size(0, 2**20),
        "n": size(64, 65536, multiple_of=64),
        "k": size(64, 65536, multiple_of=64),
        "r": size(16, 256, multiple_of=16),
        "r2": size(16, 256, multiple_of=16),
    },
    dtypes=("float16", "bfloat16"),
    params={
        "activation": ("none", *svdq_activation.ACTIVATIONS),
        "alpha": (1.0, 0.75),
        "act_unsigned": (False, True),
        "next_unsigned": (False, True),
    },
    families=svdq_activation.FAMILIES | svdq_scales.FAMILIES,
    independent=("m",),
    refuses={
        "activation": ("relu", "gelu", None),
        "alpha": (math.nan, math.inf, "1"),
        "act_unsigned": (None, 1),
        "next_unsigned": (None, 1),
    },
)
def svdq_gemm_w4a4_requantized(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    wcscales: Tensor | None,
    activation: str,
    alpha: float,
    act_unsigned: bool,
    next_unsigned: bool,
    dtype: torch.dtype,
) -> dict[str, Expected]:
    """The quantizer on ``y = half(activation(svdq_gemm_w4a4(...)))``, y between its error's ends.

    Signed, as of ``svdq_quantize_w4a4_act_fuse_lora``: ``s = max|xs| / 7``, codes -7..7. Unsigned,
    ``xs = half(half(y + 0.171875) / smooth)``, ``s = max|xs| / 15``, codes 0..15. The low-rank
    product is of the raw y. A float16 y saturates.

    A correct kernel's sums lie within an error of the exact ones, so y, once rounded, is between
    two neighbours or is known: `Expected.within` and ``near_ties`` have what either end makes.
    """
    sums, rule = before_activation(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, wcscales, alpha, act_unsigned
    )
    if activation != "none":
        sums = svdq_activation.activated(sums, activation, error=error_of(sums, rule))
        rule = replace(rule, terms=svdq_activation.TERMS)
    error = error_of(sums, rule)
    y, low, high = (_rounded(sums.value + at * error, dtype) for at in (0, -1, 1))
    off = torch.where(y.isfinite(), torch.maximum(y - low, high - y).clamp_max(2.0**127), 0.0)
    down = next_lora_down
    xs, *ends = (_smoothed(end, next_smooth, next_unsigned, dtype) for end in (y, low, high))
    return _quantized(xs, ends[0], ends[1], next_unsigned, dtype) | {
        "next_lora_act": Expected(
            y @ down, y.abs() @ down.abs(), y.square() @ down.square(), off @ down.abs()
        ),
    }


def _rounded(wide: Tensor, dtype: torch.dtype) -> Tensor:
    wide = wide.clamp(-65504, 65504) if dtype is torch.float16 else wide
    return wide.to(dtype).double()


def _smoothed(y: Tensor, smooth: Tensor, unsigned: bool, dtype: torch.dtype) -> Tensor:
    """``xs`` by groups of 64, in half_t."""
    y = (y + SHIFT).to(dtype).double() if unsigned else y
    xs: Tensor = (y / smooth).to(dtype).double().unflatten(1, (-1, GROUP))
    return xs


def _quantized(
    xs: Tensor, low: Tensor, high: Tensor, unsigned: bool, dtype: torch.dtype
) -> dict[str, Expected]:
    """Codes and scales of ``xs``, with those that all of ``low`` to ``high`` may lead to.

    A scale is that of the largest element, at least and at most. A quotient is monotone in either
    operand, so its extremes lie at the four pairs of ends.
    """
    steps = 15 if unsigned else 7
    nearest = torch.where(low * high > 0, torch.minimum(low.abs(), high.abs()), 0.0)
    nearest = torch.where(low == high, low.abs(), nearest)
    nearest = torch.where(low.isnan() | high.isnan(), torch.nan, nearest)
    farthest = torch.maximum(low.abs(), high.abs())
    scale, least, most = (
        (size.amax(2, keepdim=True) / steps).float().double()
        for size in (xs.abs(), nearest, farthest)
    )
    codes = _encoded(xs, scale, unsigned)
    corners = [_encoded(end, s, unsigned) for end in (low, high) for s in (least, most)]
    either = torch.stack([codes, *corners])
    pairs = [c.flatten(1).unflatten(1, (-1, 2)) for c in (either.amin(0), either.amax(0))]
    read = _unpack_unsigned if unsigned else _unpack_signed
    stored = [s.squeeze(2).T.to(dtype).double() for s in (scale, least, most)]
    return {
        "next_codes": Expected(
            _packed(codes.flatten(1)),
            torch.zeros_like(codes.flatten(1)[:, ::2]),
            within=Within(pairs[0], pairs[1], read),
        ),
        "next_ascales": Expected(
            stored[0], stored[0].abs(), within=Within(stored[1], stored[2], torch.Tensor.double)
        ),
    }


def _encoded(xs: Tensor, scale: Tensor, unsigned: bool) -> Tensor:
    """Codes, as numbers; one of a quotient that is NaN is 0."""
    rounded = (xs / scale).float().round().nan_to_num(nan=0.0)  # half to even
    return rounded.clamp(0 if unsigned else -7, 15 if unsigned else 7).double()


def _packed(codes: Tensor) -> Tensor:
    """Two codes a byte, even n in the low nibble."""
    nibbles = (codes.to(torch.int8) & 0xF).to(torch.uint8)
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4


def _unpack_unsigned(packed: Tensor) -> Tensor:
    return torch.stack((packed & 0xF, packed >> 4), dim=2).double()


def _unpack_signed(packed: Tensor) -> Tensor:
    nibbles = _unpack_unsigned(packed)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)
