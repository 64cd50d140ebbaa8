"""Comparison of an exact output that was made of an inexact one: what is right lies in a range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.compare import Comparison, InvalidReference, compare_exact
from harness.locate import describe

if TYPE_CHECKING:
    from torch import Tensor

    from harness.budget import Within


def compare_within(actual: Tensor, expected: Tensor, within: Within) -> Comparison:
    """Compare what ``actual`` reads as with its range; elements equal to ``expected`` are right.

    An element is wrong if one of the numbers that it holds is. ``worst`` is the largest distance
    from a range in units of those numbers, plus one. Raises InvalidReference for a range whose
    shape does not begin with that of the output.
    """
    exact = compare_exact(actual, expected)
    if exact.passed or exact.oracle == "metadata":
        return exact if exact.message else Comparison("within", actual.numel())
    numbers = within.read(actual).double()
    shape = tuple(numbers.shape)
    if shape[: actual.dim()] != actual.shape or {shape} != {within.low.shape, within.high.shape}:
        msg = (
            f"within has low {tuple(within.low.shape)}, high {tuple(within.high.shape)} and reads "
            f"{shape}; all must be {tuple(actual.shape)}, and one axis or more behind"
        )
        raise InvalidReference(msg)
    beyond = _beyond(numbers, within.low.double(), within.high.double())
    worst = beyond.reshape(*actual.shape, -1).amax(-1)
    marks = worst > 0
    violations = int(marks.sum())
    if not violations:
        return Comparison("within", actual.numel())
    flat = int(worst.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), actual.shape))
    return Comparison(
        "within",
        actual.numel(),
        violations,
        float(worst.max()),
        index,
        float(actual[index]),
        float(expected[index]),
        where=describe(marks, actual=actual, expected=expected),
    )


def _beyond(numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far each number lies outside, plus one; infinity where a NaN or an infinity is wrong."""
    unknown = low.isnan() | high.isnan()
    inside = torch.where(unknown, numbers.isnan(), (numbers >= low) & (numbers <= high))
    size = torch.maximum(low - numbers, numbers - high).nan_to_num(torch.inf, torch.inf, torch.inf)
    return torch.where(inside, 0.0, size + 1)
