"""SVDQuant's W4A4 GEMM with an activation: applied in fp32 after all sums, before the rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness import Expected, op, output, size, tensor
from references import svdq_activation, svdq_scales
from references.svdq_gemm import out_dtype_of
from references.svdq_sums import before_activation, error_of

if TYPE_CHECKING:
    from torch import Tensor


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
        "activation": svdq_activation.ACTIVATIONS,
        "alpha": (1.0, 0.75),
        "act_unsigned": (False, True),
        "out_dtype": {"same": None, "float16": torch.float16, "bfloat16": torch.bfloat16},
    },
    terms=svdq_activation.TERMS,
    families=svdq_activation.FAMILIES | svdq_scales.FAMILIES,
    independent=("m", "n"),
    refuses={
        "activation": ("relu", "gelu", None),
        "alpha": (math.nan, math.inf, "1"),
        "act_unsigned": (None, 1),
        "out_dtype": (torch.float32, torch.int8, "float16"),
    },
)
def svdq_gemm_w4a4_activated(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    wcscales: Tensor | None,
    activation: str,
    alpha: float,
    act_unsigned: bool,
    out_dtype: torch.dtype | None,
    dtype: torch.dtype,
) -> Expected:
    """``activation(svdq_gemm_w4a4(...))`` without the rounding in between, saturated after it."""
    sums, rule = before_activation(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, wcscales, alpha, act_unsigned
    )
    y = svdq_activation.activated(sums, activation, error=error_of(sums, rule))
    if (out_dtype or dtype) is not torch.float16:
        return y
    return replace(y, value=y.value.clamp(-65504, 65504))
