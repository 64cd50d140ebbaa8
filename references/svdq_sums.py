"""The W4A4 GEMM's sums before they are rounded, and how far a correct kernel may miss them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.budget import Budget
from references.svdq_gemm import svdq_gemm_w4a4

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Expected


def before_activation(
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
) -> tuple[Expected, Budget]:
    """``svdq_gemm_w4a4`` as exact sums, and the rule of their error before a rounding.

    A reference does not know the kernel, nor whether its inputs are independent draws, so the rule
    is taken at its widest: tensor cores, ordered signs, the constants that are not calibrated.
    """
    found = svdq_gemm_w4a4(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, wcscales, alpha, act_unsigned,
        out_dtype=torch.bfloat16,  # which alone of the two does not saturate
        dtype=torch.bfloat16,
    )  # fmt: skip
    rank = 0 if lora_up is None else lora_up.shape[1]
    rule = Budget(
        dtype=torch.float32, terms_summed=len(ascales) + rank, tensor_core=True, random=False
    )
    return found, rule


def error_of(sums: Expected, rule: Budget) -> Tensor:
    """How far a correct kernel's sums may lie from ``sums``; 0 where these are not finite."""
    error = rule.accumulation(sums.value, sums.magnitude)
    if sums.near_ties is not None:
        error = error + sums.near_ties
    return torch.where(sums.value.isfinite(), error, 0.0)
