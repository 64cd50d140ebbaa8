"""SVDQuant's W4A4 GEMM: the exactly dequantized product, with scales, bias and low-rank branch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness import Expected, Upstream, op, output, size, tensor
from references import svdq_gemm_upstream as original
from references import svdq_scales

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

GROUP = 64


def out_dtype_of(dtype: torch.dtype, params: Mapping[str, object]) -> torch.dtype:
    """The dtype of the result: the parameter, or that of the scales."""
    chosen = params["out_dtype"]
    return chosen if isinstance(chosen, torch.dtype) else dtype


@op(
    inputs={
        "codes": tensor("m k//2", dtype="uint8", role="code"),
        "wcodes": tensor("n k//2", dtype="uint8", role="code"),
        "ascales": tensor("k//64 m", role="scale"),
        "wscales": tensor("k//64 n", role="scale"),
        "lora_act": tensor("m r", dtype="float32", optional="lora"),
        "lora_up": tensor("n r", role="weight", optional="lora"),
        "bias": tensor("n", role="weight", optional="bias"),
        "wcscales": tensor("n", role="scale", optional="wcscales"),
    },
    outputs={"y": output("m n", dtype=out_dtype_of, sums_over="k//64+r")},
    domain={
        "m": size(0, 2**20),
        "n": size(8, 65536, multiple_of=8),
        "k": size(64, 65536, multiple_of=64),
        "r": size(16, 256, multiple_of=16),
    },
    dtypes=("float16", "bfloat16"),
    params={
        "alpha": (1.0, 0.75),
        "act_unsigned": (False, True),
        "out_dtype": {"same": None, "float16": torch.float16, "bfloat16": torch.bfloat16},
    },
    # All are integers but alpha, a multiple of 1/4, and a probe's three scales, multiples of 1/2.
    exact={"exact": 1 / 4, "probe": 1 / 32},
    independent=("m", "n"),
    families=svdq_scales.FAMILIES,
    # 1.00 at most was measured, over families whose sums are exact in either arithmetic.
    upstream=Upstream(function=original.svdq_gemm_w4a4, source=original.SOURCE, at_most=1.01),
    refuses={
        "alpha": (math.nan, math.inf, "1"),
        "act_unsigned": (None, 1),
        "out_dtype": (torch.float32, torch.int8, "float16"),
    },
)
def svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    wcscales: Tensor | None,
    alpha: float,
    act_unsigned: bool,
    out_dtype: torch.dtype | None,
    dtype: torch.dtype,
) -> Expected:
    """``alpha * sum_g as_g ws_g (qa . qw)_g``, times wcscales, plus bias and the low-rank product.

    Magnitude and squares are of single products, as of a kernel that dequantizes both operands to
    fp32 first; only groups count as terms, since most kernels sum a group's integers exactly. A
    float16 result saturates at +-65504.
    """
    acts, weights = _unpack(codes, signed=not act_unsigned), _unpack(wcodes, signed=True)
    value = torch.zeros(len(codes), len(wcodes), dtype=torch.float64, device=codes.device)
    magnitude, squares = torch.zeros_like(value), torch.zeros_like(value)
    for group in range(len(ascales)):
        span = slice(group * GROUP, (group + 1) * GROUP)
        scale = alpha * ascales[group][:, None] * wscales[group]
        a, w = acts[:, span], weights[:, span].T
        value += scale * (a @ w)
        magnitude += scale.abs() * (a.abs() @ w.abs())
        squares += scale.square() * (a.square() @ w.square())
    if wcscales is not None:
        value, magnitude = value * wcscales, magnitude * wcscales.abs()
        squares *= wcscales.square()
    if bias is not None:
        value, magnitude = value + bias, magnitude + bias.abs()
        squares += bias.square()
    if lora_act is not None and lora_up is not None:
        value += lora_act @ lora_up.T
        magnitude += lora_act.abs() @ lora_up.abs().T
        squares += lora_act.square() @ lora_up.square().T
    if (out_dtype or dtype) is torch.float16:
        magnitude.masked_fill_(value.isinf(), 0.0)  # an infinity saturates exactly
        value = value.clamp(-65504, 65504)
    return Expected(value, magnitude, squares)


def _unpack(packed: Tensor, *, signed: bool) -> Tensor:
    """Two codes a byte, even k in the low nibble, as float64 integers."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1).double()
    return torch.where(nibbles > 7, nibbles - 16, nibbles) if signed else nibbles
