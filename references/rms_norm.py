"""RMSNorm: every row divided by its root mean square, then scaled by a weight per column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness import Term, op, size, tensor

if TYPE_CHECKING:
    from torch import Tensor


@op(
    inputs={"x": "m n", "weight": tensor("n", role="weight")},
    outputs={"y": "m n"},
    domain={"m": size(0, 2**20), "n": size(1, 65536)},
    dtypes=("float32", "float16", "bfloat16"),
    sums_over="n",
    params={"eps": (1e-6, 1e-5)},
    refuses={"eps": (0.0, -1e-6, math.nan, math.inf)},
    terms=(
        Term(ulps=2, because="rsqrt.approx is 2 ulp; eps, the squares and two products round too"),
    ),
)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x**2) + eps) * weight``, the mean over columns (Zhang, Sennrich, 2019)."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt() * weight
