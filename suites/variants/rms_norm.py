"""Correct variants of RMSNorm: fp32 or better throughout, one rounding to the output dtype last.

All terms of the sum are squares, so no order of it loses anything by cancellation; the sum enters
by its square root, which halves relative errors. Each further operation rounds once. Left out,
because they are *not* correct where a row has an infinity: the variance plus the squared mean, and
dividing the row by its largest value first; both give NaN beside it, where RMSNorm gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import rms_norm

from harness.variants import variant
from suites.variants.orders import ORDERS

if TYPE_CHECKING:
    from torch import Tensor

    from suites.variants.orders import Order


def _declare_order(name: str, order: Order) -> None:
    @variant(op="rms_norm", name=name)
    def ordered(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        mean = order(wide.square())[:, None] / x.shape[1]
        return (wide * (mean + eps).rsqrt() * weight.float()).to(x.dtype)


for _name, _order in ORDERS.items():
    _declare_order(_name, _order)


@variant(op="rms_norm", name="eager")
def eager(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula in PyTorch's own order of summation."""
    wide = x.float()
    return (wide * (wide.square().mean(1, keepdim=True) + eps).rsqrt() * weight.float()).to(x.dtype)


# Its CUDA kernel (torch 2.11, H200) gives NaN all along a row that has an infinity.
@variant(op="rms_norm", name="torch.nn.functional", excludes=("special",))
def functional(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The framework's implementation, in fp32 so that it rounds once."""
    return rms_norm(x.float(), (x.shape[1],), weight.float(), eps).to(x.dtype)


@variant(op="rms_norm", name="float64")
def in_float64(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Float64 throughout, through the norm of a row."""
    wide = x.double()
    norm: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    mean = norm.square() / x.shape[1]
    return (wide / (mean + eps).sqrt() * weight.double()).to(x.dtype)


@variant(op="rms_norm", name="weight first")
def weight_first(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x * (r * weight)``: the same two roundings at other places."""
    wide = x.float()
    inverse = (wide.square().mean(1, keepdim=True) + eps).rsqrt()
    return (wide * (inverse * weight.float())).to(x.dtype)


@variant(op="rms_norm", name="root and division")
def root_and_division(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean + eps) * weight``; the root of the sum, not of the mean, scaled after."""
    wide = x.float()
    total = wide.square().sum(1, keepdim=True)
    return (wide / ((total + eps * x.shape[1]) / x.shape[1]).sqrt() * weight.float()).to(x.dtype)
