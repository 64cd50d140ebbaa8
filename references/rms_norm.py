"""RMSNorm: every row divided by its root mean square, then scaled by a weight per column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from harness import Term, op, size, tensor
from harness.values import Family

if TYPE_CHECKING:
    from torch import Generator, Tensor


_PATTERN: Final = (2.0, 1.5, 1.0, 0.5, 0.5, 0.5, 0.0, 0.0)  # its squares sum to 8


def _grid(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor:
    """Rows whose mean square is 4^k, k in 4..8, which swallows eps; weights are integers.

    So y is x / 2^k times the weight, a multiple of 1/2. An approximate rsqrt leaves it alone in
    half precision, where its error does not reach a rounding tie.
    """
    del name, dtype
    signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    if role == "weight":
        return signs * torch.randint(1, 9, shape, generator=generator)
    m, n = shape
    places = torch.rand((m, n // 8, 8), generator=generator).argsort(dim=2, stable=True)
    whole = torch.tensor(_PATTERN)[places].flatten(1)
    rows = torch.cat((whole, torch.ones(m, n % 8)), dim=1)
    return signs * rows * 2 ** torch.randint(4, 9, (m, 1), generator=generator)


@op(
    inputs={"x": "m n", "weight": tensor("n", role="weight")},
    outputs={"y": "m n"},
    domain={"m": size(0, 2**20), "n": size(1, 65536)},
    dtypes=("float32", "float16", "bfloat16"),
    sums_over="n",
    params={"eps": (1e-6, 1e-5)},
    families={"grid": Family(make=_grid)},
    exact={"grid": 1 / 2},
    independent=("m",),
    refuses={"eps": (0.0, -1e-6, math.nan, math.inf)},
    terms=(
        Term(ulps=2, because="rsqrt.approx is 2 ulp; eps, the squares and two products round too"),
    ),
)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x**2) + eps) * weight``, the mean over columns (Zhang, Sennrich, 2019)."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt() * weight
