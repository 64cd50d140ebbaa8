"""The second half of NVFP4's mixture of experts: down, and the weighted sum over its experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Expected, op, output, size, tensor
from harness.values import Family
from references.nvfp4_experts import FAMILIES, PLAIN, routed
from references.nvfp4_format import Padding
from references.nvfp4_gemm import dequantized, every_scale, out_dtype_of

if TYPE_CHECKING:
    from torch import Tensor


@op(
    inputs={
        "codes": tensor("m t i//2", dtype="uint8", role="code"),
        "wcodes": tensor("e h i//2", dtype="uint8", role="code"),
        "ascales": tensor(
            "(m*t+127)//128*128 (i//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("m*t", "i//16"),
        ),
        "wscales": tensor(
            "e (h+127)//128*128 (i//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("h", "i//16"),
        ),
        "topk_ids": tensor("m t", dtype="int32", role="index", below="e"),
        "topk_weights": tensor("m t", dtype="float32", role="weight"),
        "alphas": tensor("e", dtype="float32", role="scale"),
    },
    outputs={"y": output("m h", dtype=out_dtype_of, sums_over="t i")},
    domain={
        "m": size(0, 2**20),
        "t": size(1, 8),
        "e": size(1, 256),
        "h": size(8, 65536, multiple_of=8),
        "i": size(32, 32768, multiple_of=32),
    },
    dtypes=("bfloat16",),
    params={"out_dtype": {"bfloat16": torch.bfloat16, "float16": torch.float16}},
    excludes=PLAIN,
    families=FAMILIES | {"every_scale": Family(make=every_scale)},
    # Codes are multiples of 1/2, scales and weights integers; in a probe scales and alphas too are
    # multiples of 1/2.
    exact={"exact": 1 / 4, "probe": 1 / 32},
    independent=("m", "h"),
    refuses={"out_dtype": (torch.float32, torch.int8, "bfloat16", None)},
)
def nvfp4_moe_down(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    alphas: Tensor,
    out_dtype: torch.dtype,
) -> Expected:
    """``sum_j w_j alpha_e sum_k (qa_k as_k) (qw_k ws_k)`` over a token's experts e, rounded once.

    ``alphas`` are ``1 / (g_a g_w)``, an expert's own. Slots of tokens and the layout of their
    scales are those of ``nvfp4_moe_up``; the same expert twice counts twice.
    """
    del out_dtype
    m, t = topk_ids.shape
    a = dequantized(codes.flatten(0, 1), ascales)
    parts = torch.zeros(3, m * t, wcodes.shape[1], dtype=torch.float64, device=codes.device)
    for expert, places, w in routed(topk_ids, wcodes, wscales):
        rows, alpha = a[places], alphas[expert]
        parts[0, places] = alpha * (rows @ w.T)
        parts[1, places] = alpha * (rows.abs() @ w.abs().T)
        parts[2, places] = alpha.square() * (rows.square() @ w.square().T)
    values, magnitudes, squares = parts.unflatten(1, (m, t))
    weights = topk_weights[:, :, None]
    return Expected(
        (weights * values).sum(1),
        (weights.abs() * magnitudes).sum(1),
        (weights.square() * squares).sum(1),
    )
