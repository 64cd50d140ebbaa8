"""Comparison of one output with its reference: tensors in, a Comparison out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.budget import ulp
from harness.locate import describe

if TYPE_CHECKING:
    from harness.budget import Budget


class InvalidReference(ValueError):
    """A reference whose result has a shape, dtype or magnitude that cannot be compared with."""


@dataclass(frozen=True)
class Comparison:
    """The verdict on one output, with the worst element and where the bad ones lie."""

    oracle: str
    total: int
    violations: int = 0
    worst: float = 0.0  # error of the worst element in units of its budget
    index: tuple[int, ...] = ()
    actual: float = 0.0
    expected: float = 0.0
    bias: float = 0.0  # mean signed error over mean absolute error: -1 always low, +1 always high
    where: str = ""
    message: str = field(default="")

    @property
    def passed(self) -> bool:
        """Whether every element is within its budget and nothing else is wrong."""
        return not self.violations and not self.message

    def __str__(self) -> str:
        if self.message:
            return f"{self.oracle}: {self.message}"
        text = f"{self.oracle}: {self.violations} of {self.total} elements"
        if not self.violations:
            return f"{text} wrong, worst at {self.worst:.2f} of its budget"
        units = "" if self.oracle == "exact" else f", {self.worst:.3g} x its budget"
        return (
            f"{text} wrong; worst at {list(self.index)}: actual {self.actual:.9g}, "
            f"expected {self.expected:.9g}{units}; {self.where}"
        )


def compare_exact(actual: Tensor, expected: Tensor, *, signed_zero: bool = True) -> Comparison:
    """Compare bit for bit; a NaN equals any NaN, its payload being free.

    Without ``signed_zero`` -0 equals 0: the sign of a sum that cancels depends on its order. The
    oracle is then called ``bitwise``, not ``exact``.
    """
    if mismatch := _metadata(actual, expected):
        return Comparison("metadata", actual.numel(), message=mismatch)
    wrong = (_bits(actual) != _bits(expected)) & ~(actual.isnan() & expected.isnan())
    if not signed_zero:
        wrong &= actual != expected
    size = (actual.double() - expected.double()).abs().nan_to_num(torch.inf)
    oracle = "exact" if signed_zero else "bitwise"
    return _comparison(oracle, actual, expected.double(), wrong, torch.where(wrong, size + 1, 0))


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have one shape, one dtype and the same bits."""
    return not _metadata(actual, expected) and torch.equal(_bits(actual), _bits(expected))


def compare(
    actual: Tensor,
    expected: Tensor,
    magnitude: Tensor,
    budget: Budget,
    *,
    near_ties: Tensor | None = None,
    random: bool = False,
) -> Comparison:
    """Compare ``actual`` with float64 ``expected``, each element within its budget.

    NaN and infinities must stand where the reference, rounded to the output dtype, has them; a
    result within its budget of the overflow threshold may stand on either side of it. Raises
    InvalidReference for a magnitude of another shape, a negative one, and one that bounds nothing:
    NaN or infinite where the reference is finite.
    """
    if mismatch := _metadata(actual, expected, dtype=budget.dtype):
        return Comparison("metadata", actual.numel(), message=mismatch)
    _check_magnitude(expected, magnitude)
    del random
    allowed = budget.allowed(expected, magnitude)
    if near_ties is not None:
        allowed = allowed + near_ties
    value = actual.double()
    error = value - expected
    units = torch.where(error == 0, 0.0, error.abs() / allowed)
    finite = value.isfinite() & expected.isfinite()
    same_class = (value == expected) | (value.isnan() & expected.isnan())
    same_class |= value.isinf() & _may_overflow(expected, allowed, value, budget.dtype)
    units = torch.where(finite, units, torch.where(same_class, 0.0, torch.inf))
    wrong = ~(units <= 1)
    result = _comparison("budget", actual, expected, wrong, units)
    return result if result.violations else _with_bias(result, error[finite])


def _may_overflow(expected: Tensor, allowed: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    # What rounds to infinity lies half a spacing beyond the largest; ``allowed`` has that half.
    largest = torch.tensor(torch.finfo(dtype).max, dtype=torch.float64)
    reach = expected.abs() + allowed >= float(largest + ulp(largest, dtype))
    return reach & (expected.sign() == value.sign()) & ~expected.isnan()


def _with_bias(result: Comparison, error: Tensor) -> Comparison:
    size = error.abs().sum()
    bias = float(error.sum() / size) if size > 0 else 0.0
    return Comparison(
        result.oracle, result.total, worst=result.worst, index=result.index, bias=bias
    )


def _comparison(
    oracle: str, actual: Tensor, expected: Tensor, wrong: Tensor, units: Tensor
) -> Comparison:
    total = actual.numel()
    if not total:
        return Comparison(oracle, 0)
    flat = int(units.reshape(-1).argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), actual.shape))
    violations = int(wrong.sum())
    return Comparison(
        oracle,
        total,
        violations,
        float(units[index]),
        index,
        float(actual[index]),
        float(expected[index]),
        where=describe(wrong.cpu()) if violations else "",
    )


def _metadata(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> str:
    dtype = dtype or expected.dtype
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if actual.dtype != dtype:
        return f"dtype {actual.dtype}, expected {dtype}"
    return ""


def _check_magnitude(expected: Tensor, magnitude: Tensor) -> None:
    if magnitude.shape != expected.shape:
        msg = f"magnitude has shape {tuple(magnitude.shape)}, expected {tuple(expected.shape)}"
        raise InvalidReference(msg)
    if bool((magnitude < 0).any()):
        msg = f"magnitude has a negative value {float(magnitude.min())}; sum absolute values"
        raise InvalidReference(msg)
    if bool((expected.isfinite() & ~magnitude.isfinite()).any()):
        msg = "magnitude is NaN or infinite where expected is finite; that bounds nothing"
        raise InvalidReference(msg)


def _bits(values: Tensor) -> Tensor:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(integers[values.element_size()])
