"""Correct variants of SwiGLU's product: every operation in fp32 or better, one rounding last.

An exponent that is rounded once is wrong by ``|g| u``, and so is its exponential; the reference's
magnitude carries just that. Left out, because it is *not* correct to that accuracy: the tanh form
``g / 2 * (1 + tanh(g / 2))``, whose sum cancels where g is far below 0 (at g = -20 it gives 0).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid, silu

from harness.variants import variant

if TYPE_CHECKING:
    from torch import Tensor


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = x.float().chunk(2, dim=1)
    return gate, up


@variant(op="silu_and_mul", name="torch.nn.functional")
def functional(x: Tensor) -> Tensor:
    """The framework's implementation on fp32."""
    gate, up = _halves(x)
    return (silu(gate) * up).to(x.dtype)


@variant(op="silu_and_mul", name="sigmoid")
def by_sigmoid(x: Tensor) -> Tensor:
    """``g * sigmoid(g) * up``."""
    gate, up = _halves(x)
    return (gate * gate.sigmoid() * up).to(x.dtype)


@variant(op="silu_and_mul", name="division")
def by_division(x: Tensor) -> Tensor:
    """``g / (1 + exp(-g)) * up``, as most published kernels have it."""
    gate, up = _halves(x)
    return (gate / (1 + (-gate).exp()) * up).to(x.dtype)


@variant(op="silu_and_mul", name="exp2")
def by_exp2(x: Tensor) -> Tensor:
    """The exponential as hardware has it, of ``-g log2(e)``: its factor and product round too."""
    gate, up = _halves(x)
    return (gate / (1 + torch.exp2(gate * -math.log2(math.e))) * up).to(x.dtype)


@variant(op="silu_and_mul", name="by sides")
def by_sides(x: Tensor) -> Tensor:
    """``exp(-|g|)``, which never overflows, on either side of 0."""
    gate, up = _halves(x)
    decay = (-gate.abs()).exp()
    return (gate * (torch.where(gate < 0, decay, 1.0) / (1 + decay)) * up).to(x.dtype)


@variant(op="silu_and_mul", name="logarithm")
def by_logarithm(x: Tensor) -> Tensor:
    """``g * exp(log(sigmoid(g))) * up``."""
    gate, up = _halves(x)
    return (gate * logsigmoid(gate).exp() * up).to(x.dtype)


@variant(op="silu_and_mul", name="exponential in halves")
def in_halves(x: Tensor) -> Tensor:
    """``exp(-|g| / 2)`` enters twice, once beside each factor, so that nothing underflows early."""
    gate, up = _halves(x)
    half = (gate.abs() * -0.5).exp()
    decay = torch.where(gate < 0, half, 1.0)
    return (gate * decay / (1 + half.square()) * (decay * up)).to(x.dtype)


@variant(op="silu_and_mul", name="float64")
def in_float64(x: Tensor) -> Tensor:
    """Float64 throughout."""
    gate, up = x.double().chunk(2, dim=1)
    return (gate * gate.sigmoid() * up).to(x.dtype)
