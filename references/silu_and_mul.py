"""SwiGLU's product: the SiLU of the left half of every row times the right half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Expected, Term, op, size

if TYPE_CHECKING:
    from torch import Tensor


@op(
    inputs={"x": "m n*2"},
    outputs={"y": "m n"},
    domain={"m": size(0, 2**20), "n": size(1, 65536)},
    dtypes=("float32", "float16", "bfloat16"),
    terms=(Term(ulps=6, because="ex2.approx is 2 ulp and may enter squared; div.full is 2 ulp"),),
)
def silu_and_mul(x: Tensor) -> Expected:
    """``silu(x[:, :n]) * x[:, n:]`` with ``silu(g) = g / (1 + exp(-g))``.

    The magnitude carries silu's relative condition number, ``1 + |g| (1 - sigmoid(g))``: in
    fp32 an exponent is wrong by ``|g| u``, and so is ``exp(g)``, the whole of silu far below 0.
    """
    gate, up = x.chunk(2, dim=1)
    decay = (-gate).exp()
    value = gate / (1 + decay) * up
    condition = 1 + gate.abs() * decay / (1 + decay)
    return Expected(value, value.abs() * condition.nan_to_num(nan=1.0))
