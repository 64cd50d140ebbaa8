"""An element's verdict, in float64: the definition, which faster comparisons agree with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness.budget import smallest_subnormal, ulp
from harness.tally import LARGEST_STEP

if TYPE_CHECKING:
    from harness.tally import Operands

_HIGHEST: Final = {torch.float16: 15, torch.float64: 1023}  # binade of the largest value; else 127


@dataclass(frozen=True)
class Judged:
    """Elements judged one by one, in float64."""

    units: Tensor  # |error| in units of the budget; infinite where NaN or infinities differ
    wrong: Tensor
    finite: Tensor
    mismatch: Tensor
    error: Tensor  # in ulps, at most LARGEST_STEP; 0 where not finite
    step: Tensor
    reach: Tensor  # what accumulation may do, in ulps


def judged(part: Operands) -> Judged:
    """Judge every element of ``part``; memory is some dozen times that of float64 elements."""
    dtype, value, expected = part.budget.dtype, part.actual.double(), part.expected.double()
    size = expected.abs()
    reach = part.budget.accumulation(expected, _magnitude(part))
    if part.near_ties is not None:
        reach = reach + part.near_ties
    total = reach
    if part.reference_is_rounded:
        least = max(torch.finfo(t).smallest_normal for t in (dtype, part.expected.dtype))
        total = reach + ulp(size.clamp_min(least), part.expected.dtype) / 2
    allowed = ulp(size + total, dtype) / 2 + total + smallest_subnormal(dtype)
    error = value - expected
    finite = value.isfinite() & expected.isfinite()
    same = (value == expected) | (value.isnan() & expected.isnan())
    same |= value.isinf() & _may_overflow(expected, allowed, value, dtype)
    units = torch.where(error == 0, 0.0, error.abs() / allowed)
    units = torch.where(finite, units, torch.where(same, 0.0, torch.inf))
    spacing, most = ulp(size, dtype), torch.finfo(dtype).max
    rounded = expected.to(dtype).double() if part.steps_need_rounding else expected
    step = torch.where(finite, (value - rounded.clamp(-most, most)) / spacing, 0.0)
    return Judged(
        units=units,
        wrong=~(units <= 1),
        finite=finite,
        mismatch=~finite & ~same,
        error=torch.where(finite, error / spacing, 0.0).clamp(-LARGEST_STEP, LARGEST_STEP),
        step=step.clamp(-LARGEST_STEP, LARGEST_STEP),
        reach=reach / spacing,
    )


def _magnitude(part: Operands) -> Tensor:
    return part.expected.double().abs() if part.magnitude is None else part.magnitude.double()


def _may_overflow(expected: Tensor, allowed: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    # What rounds to infinity lies half a spacing beyond the largest; ``allowed`` has that half.
    beyond = 2.0 ** _HIGHEST.get(dtype, 127)  # half of it: all of float64's would be infinite
    reach = expected.abs() / 2 + allowed / 2 >= beyond
    return reach & (expected.sign() == value.sign()) & ~expected.isnan()
