"""Comparison of one output with its reference: tensors in, a Comparison out.

One pass reads each tensor once and allocates next to nothing: `harness.compare_host` in pieces that
stay in cache, `harness.compare_device` in one fused kernel on a GPU. Only a result that fails is
read again, to say where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import compare_host
from harness.locate import describe
from harness.tally import SIGMAS, TILE, Operands, Tally, as_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.budget import Budget

_EXPECTED: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PIECE: Final = 1 << 20  # elements that a bitwise comparison holds at once


class InvalidReference(ValueError):
    """A reference whose result has a shape, dtype or magnitude that cannot be compared with."""


@dataclass(frozen=True)
class Comparison:
    """The verdict on one output, with the worst element and where the bad ones lie.

    ``bias`` and ``rms`` are in ulps of the output, over the elements that `harness.tally` counts;
    the former away from zero, against the reference rounded to the output's dtype. ``row`` and
    ``column`` are those of the greatest root mean square error in units of the budget, of the
    output as a matrix with all leading axes as rows, and given for failures alone.
    """

    oracle: str
    total: int
    violations: int = 0
    worst: float = 0.0  # error of the worst element in units of its budget
    index: tuple[int, ...] = ()
    actual: float = 0.0
    expected: float = 0.0
    bias: float = 0.0
    where: str = ""
    message: str = field(default="")
    bias_sigmas: float = 0.0  # ``bias`` in units of its standard error
    rms: float = 0.0
    mismatches: int = 0  # NaN or infinities that are not where the reference has them
    tiles: Tensor | None = field(default=None, compare=False, repr=False)  # largest of 64 x 64
    row: int | None = None
    column: int | None = None
    tile: tuple[int, int] | None = None  # the worst one's place in ``tiles``

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
        units = "" if self.oracle != "budget" else f", {self.worst:.3g} x its budget"
        return (
            f"{text} wrong; worst at {list(self.index)}: actual {self.actual:.9g}, "
            f"expected {self.expected:.9g}{units}; {self.where}{self._aggregates()}"
        )

    def _aggregates(self) -> str:
        words = []
        if 0 < self.mismatches < self.violations:
            words.append(f"{self.mismatches} of them NaN or infinite where they must not be")
        if abs(self.bias_sigmas) > SIGMAS:
            side = "away from" if self.bias > 0 else "toward"
            words.append(
                f"errors lean {side} zero by {abs(self.bias):.3g} ulp"
                f" ({abs(self.bias_sigmas):.0f} sigma)"
            )
        if self.row is not None and "row" not in self.where:
            words.append(f"worst row {self.row}, worst column {self.column}")
        return "".join(f"; {part}" for part in words)


def compare_exact(actual: Tensor, expected: Tensor, *, signed_zero: bool = True) -> Comparison:
    """Compare bit for bit; a NaN equals any NaN, its payload being free.

    Without ``signed_zero`` -0 equals 0: the sign of a sum that cancels depends on its order. The
    oracle is then called ``bitwise``, not ``exact``.
    """
    if mismatch := _metadata(actual, expected):
        return Comparison("metadata", actual.numel(), message=mismatch)
    oracle = "exact" if signed_zero else "bitwise"
    marks: Tensor | None = None
    worst, place, violations = 0.0, (0, 0), 0
    left, right = as_matrix(actual), as_matrix(expected)
    for part in _pieces(left):
        if torch.equal(_bits(left[part]), _bits(right[part])):
            continue
        wrong, size = _differences(left[part], right[part], signed_zero=signed_zero)
        if not (found := int(wrong.sum())):
            continue
        marks = torch.zeros_like(left, dtype=torch.bool) if marks is None else marks
        marks[part] = wrong
        violations += found
        if float(size.max()) > worst:
            worst, flat = float(size.max()), int(size.argmax())
            row, column = divmod(flat, size.shape[1])
            place = (part[0].start + row, part[1].start + column)
    if marks is None:
        return Comparison(oracle, actual.numel())
    return Comparison(
        oracle,
        actual.numel(),
        violations,
        worst,
        _unravel(place[0] * left.shape[1] + place[1], actual),
        float(left[place]),
        float(right[place]),
        where=describe(marks.view(actual.shape), actual=actual, expected=expected),
    )


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have one shape, one dtype and the same bits."""
    if _metadata(actual, expected):
        return False
    left, right = as_matrix(actual), as_matrix(expected)
    return all(torch.equal(_bits(left[part]), _bits(right[part])) for part in _pieces(left))


def compare(
    actual: Tensor,
    expected: Tensor,
    magnitude: Tensor | None,
    budget: Budget,
    *,
    near_ties: Tensor | None = None,
    random: bool = False,
) -> Comparison:
    """Compare ``actual`` with ``expected``, each element within its budget.

    ``magnitude`` None stands for ``|expected|``; ``near_ties`` adds to the allowed error. A float64
    ``expected`` is taken for exact; a narrower one is itself a rounded value, so half an ulp of its
    own dtype is allowed as well.

    NaN and infinities must stand where the reference, rounded to the output dtype, has them; a
    result within its budget of the overflow threshold may stand on either side of it.

    ``random`` says that the elements are independent draws. Then errors that lean to one side
    further than six standard errors and all that accumulation may do are wrong, too, however small:
    the oracle ``bias``. It asks for 1024 elements that tell, and a reference of no fewer bits than
    the output.

    Raises InvalidReference for an ``expected`` of an integer dtype, and for a ``magnitude`` or
    ``near_ties`` of another shape, negative, or NaN or infinite where the reference is finite.
    """
    if mismatch := _metadata(actual, expected, dtype=budget.dtype):
        return Comparison("metadata", actual.numel(), message=mismatch)
    _check_reference(actual, expected, magnitude, near_ties)
    if not actual.numel():
        return Comparison("budget", 0)
    operands = Operands(
        as_matrix(actual),
        as_matrix(expected),
        None if magnitude is None else as_matrix(magnitude),
        None if near_ties is None else as_matrix(near_ties),
        budget,
    )
    tally = _measure(operands)
    _check_bounds(tally, expected, magnitude, near_ties)
    counted = _counted(tally, actual)
    lean = tally.lean if random and operands.steps_tell else 0.0
    if not tally.violations and not lean:
        return counted
    survey = compare_host.survey(operands)
    failed = replace(counted, row=survey.row, column=survey.column, tile=_worst_tile(tally))
    if not tally.violations:
        return replace(failed, oracle="bias", message=_leaning(tally, lean))
    wrong = survey.wrong.view(actual.shape)
    return replace(failed, where=describe(wrong, actual=actual, expected=expected))


def _measure(operands: Operands) -> Tally:
    if operands.actual.is_cuda and find_spec("triton"):
        from harness import compare_device

        return compare_device.measure(operands)
    return compare_host.measure(operands)


def _counted(tally: Tally, actual: Tensor) -> Comparison:
    """What one pass finds out."""
    return Comparison(
        "budget",
        tally.total,
        tally.violations,
        tally.worst,
        _unravel(tally.index, actual),
        tally.actual,
        tally.expected,
        bias=tally.bias,
        bias_sigmas=tally.bias_sigmas,
        rms=tally.rms,
        mismatches=tally.mismatches,
        tiles=tally.tiles,
    )


def _leaning(tally: Tally, lean: float) -> str:
    outward = lean == tally.steps_outward / tally.counted
    low, high = ("toward zero", "away from zero") if outward else ("low", "high")
    sigmas = lean * tally.counted / math.sqrt(tally.squared_steps)
    due = tally.allowance / tally.counted
    return (
        f"every element is within its budget, but together they lean {high if lean > 0 else low}: "
        f"by {abs(lean):.3g} ulp in the mean of {tally.counted}, {abs(sigmas):.0f} standard errors,"
        f" where accumulation accounts for {due:.3g}; is a result truncated, or scaled?"
    )


def _worst_tile(tally: Tally) -> tuple[int, int]:
    row, column = divmod(tally.index, tally.columns)
    return row // TILE, column // TILE


def _metadata(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> str:
    dtype = dtype or expected.dtype
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if actual.dtype != dtype:
        return f"dtype {actual.dtype}, expected {dtype}"
    return ""


def _check_reference(
    actual: Tensor, expected: Tensor, magnitude: Tensor | None, near_ties: Tensor | None
) -> None:
    if expected.dtype not in _EXPECTED:
        msg = f"expected has dtype={expected.dtype}; a budget needs one of {_EXPECTED!r}"
        raise InvalidReference(msg)
    for name, values in (
        ("expected", expected),
        ("magnitude", magnitude),
        ("near_ties", near_ties),
    ):
        if values is None:
            continue
        if values.shape != expected.shape:
            msg = f"{name} has shape {tuple(values.shape)}, expected {tuple(expected.shape)}"
            raise InvalidReference(msg)
        if values.dtype not in _EXPECTED:
            msg = f"{name} has dtype={values.dtype}; it must be one of {_EXPECTED!r}"
            raise InvalidReference(msg)
        if values.device != actual.device:
            msg = f"{name} is on {values.device}, actual on {actual.device}; move one of them"
            raise InvalidReference(msg)


def _check_bounds(
    tally: Tally, expected: Tensor, magnitude: Tensor | None, near_ties: Tensor | None
) -> None:
    """Raise for what the pass found; which of the two it is, and its value, is looked up here."""
    for name, values in (("magnitude", magnitude), ("near_ties", near_ties)):
        if values is None or not (tally.negative or tally.unbounded):
            continue
        if bool((values < 0).any()):
            least = float(values.nan_to_num(0.0).min())
            msg = f"{name} has a negative value {least}; sum absolute values"
            raise InvalidReference(msg)
        if bool((expected.isfinite() & ~values.isfinite()).any()):
            msg = f"{name} is NaN or infinite where expected is finite; that bounds nothing"
            raise InvalidReference(msg)


def _differences(actual: Tensor, expected: Tensor, *, signed_zero: bool) -> tuple[Tensor, Tensor]:
    """Which elements differ, and by how much, plus one: what differs in a sign alone counts."""
    wrong = (_bits(actual) != _bits(expected)) & ~(actual.isnan() & expected.isnan())
    if not signed_zero:
        wrong &= actual != expected
    size = (actual.double() - expected.double()).abs().nan_to_num(torch.inf)
    return wrong, torch.where(wrong, size + 1, 0)


def _pieces(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    return compare_host.pieces(*matrix.shape, piece=_PIECE)


def _unravel(flat: int, values: Tensor) -> tuple[int, ...]:
    index = []
    for length in reversed(values.shape):
        flat, place = divmod(flat, length)
        index.append(place)
    return tuple(reversed(index))


def _bits(values: Tensor) -> Tensor:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(integers[values.element_size()])
