"""SwiGLU's product: the SiLU of the left half of every row times the right half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Expected, Term, op, size

if TYPE_CHECKING:
    from torch import Tensor


@op(
    inputs={"x": "m n*2"},
    outputs={"y": "m n"},
    domain={"m": size(0, 2**20), "n": size(1, 65536)},
    dtypes=("float32", "float16", "bfloat16"),
    independent=("m",),
    terms=(Term(ulps=6, because="ex2.approx is 2 ulp and may enter squared; div.full is 2 ulp"),),
)
def silu_and_mul(x: Tensor) -> Expected:
    """``silu(x[:, :n]) * x[:, n:]`` with ``silu(g) = g / (1 + exp(-g))``.

    The magnitude carries silu's relative condition number, ``1 + |g| (1 - sigmoid(g))``: in
    fp32 an exponent is wrong by ``|g| u``, and so is ``exp(g)``, the whole of silu far below 0.
    Where ``exp(g)`` is subnormal in fp32, or ``exp(-g)`` overflows, a correct kernel may give 0 or
    what is left of the exponential's bits: anything from 0 to twice the value, below 2^-119 |up|.
    """
    gate, up = x.chunk(2, dim=1)
    decay = (-gate).exp()
    value = gate / (1 + decay) * up
    condition = 1 + gate.abs() * decay / (1 + decay)
    subnormal = (gate < -87) & value.isfinite()
    return Expected(
        value,
        value.abs() * condition.nan_to_num(nan=1.0),
        near_ties=torch.where(subnormal, value.abs(), 0.0),
    )
