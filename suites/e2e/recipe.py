"""What a quantized layer must return, to the bit of its recipe: its state dequantized, in float64.

It composes the two dense references of the ops below the layer, on the very input that the layer
met: codes and scales of the activations by the exact recipe, the product in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Expected, registry
from harness.budget import Budget
from harness.compare import Comparison, compare
from references.svdq_gemm import svdq_gemm_w4a4
from references.svdq_quantize import svdq_quantize_w4a4_act_fuse_lora

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def expected_output(state: Mapping[str, Tensor], x: Tensor) -> Expected:
    """Float64 output [M, N] of the layer that holds ``state``, on its input x [M, K], on the CPU.

    The low-rank product reaches the GEMM as float32 sums over K; their error budget goes on with
    them, so the magnitude carries ``|x| |down| |up|`` instead of ``|x down| |up|``.
    """
    half = x.dtype
    wide = {k: v.cpu().double() if v.is_floating_point() else v.cpu() for k, v in state.items()}
    quantized = svdq_quantize_w4a4_act_fuse_lora(
        x.cpu().double(), wide["lora_down"], wide["smooth"], precision="int4", dtype=half
    )
    low_rank = _exact(quantized["lora_act"])
    result = svdq_gemm_w4a4(
        _exact(quantized["codes"]).value,
        wide["qweight"],
        _exact(quantized["ascales"]).value.to(half).double(),
        wide["wscales"],
        low_rank.value,
        wide["lora_up"],
        wide.get("bias"),
        wide.get("wcscales"),
        alpha=1.0,
        act_unsigned=False,
        out_dtype=half,
        dtype=half,
    )
    grown = low_rank.magnitude - low_rank.value.abs()
    return Expected(result.value, result.magnitude + grown @ wide["lora_up"].abs().T)


def _exact(part: Tensor | Expected) -> Expected:
    return part if isinstance(part, Expected) else Expected(part, part.abs())


def compare_layer(state: Mapping[str, Tensor], x: Tensor, actual: Tensor) -> Comparison:
    """Compare a layer's output ``actual`` [M, N] on ``x`` [M, K] with its exact recipe."""
    expected = expected_output(state, x)
    budget = Budget(
        dtype=x.dtype,
        terms_summed=x.shape[1],
        tensor_core=True,
        terms=registry.op("svdq_gemm_w4a4").terms,
    )
    return compare(actual.cpu(), expected.value, expected.magnitude, budget)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance, in float64."""
    reference = expected.double()
    return float(torch.linalg.vector_norm(actual.double() - reference) / reference.norm())
