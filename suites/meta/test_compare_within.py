"""What is made of an inexact intermediate may be what its error allows, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import Expected, Within, kernel, op, output, registry, size
from harness.case import Case
from harness.compare import InvalidReference
from harness.compare_within import compare_within
from harness.execute import execute
from harness.fairness import without_unfair
from harness.judge import judge
from harness.launches import Launch, report_launch
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.compare import Comparison

MIDDLE = torch.tensor([[0x21, 0x43], [0x65, 0x07]], dtype=torch.uint8)


def nibbles(packed: Tensor) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), 2).double()


def compared(actual: Tensor, *, free: tuple[int, ...] = (), to: float = 1) -> Comparison:
    """The comparison with MIDDLE, of which the nibbles of the numbers ``free`` may move up."""
    low, high = nibbles(MIDDLE), nibbles(MIDDLE)
    for flat in free:
        high.view(-1)[flat] += to
    return compare_within(actual, MIDDLE, Within(low, high, nibbles))


def changed(index: tuple[int, int], by: int) -> Tensor:
    actual = MIDDLE.clone()
    actual[index] += by
    return actual


def test_what_is_expected_is_right() -> None:
    assert compared(MIDDLE.clone()).passed
    assert compared(MIDDLE.clone(), free=(2,)).passed
    empty = MIDDLE[:0]
    assert compare_within(empty, empty, Within(nibbles(empty), nibbles(empty), nibbles)).passed


def test_a_code_may_move_where_it_is_free_and_nowhere_else() -> None:
    assert compared(changed((0, 1), 1), free=(2,)).passed
    assert compared(changed((0, 1), 16), free=(3,)).passed
    for index, by, free in (((0, 1), 1, 3), ((0, 1), 2, 2), ((0, 1), -1, 2), ((1, 0), 1, 2)):
        found = compared(changed(index, by), free=(free,))
        assert (found.oracle, found.violations, found.index) == ("within", 1, index)
        assert "within: 1 of 4 elements wrong; worst at" in str(found)


def test_the_worst_is_the_one_farthest_outside() -> None:
    actual = changed((0, 0), 1)
    actual[1, 1] += 5 * 16
    found = compared(actual)
    assert (found.violations, found.index, found.worst) == (2, (1, 1), 6)
    assert (found.actual, found.expected) == (0x57, 0x07)


def test_numbers_that_are_none_stand_where_the_range_has_none() -> None:
    right = torch.tensor([1.0, math.nan, math.inf, 2.0])
    ends = (right.double(), torch.tensor([1.0, math.nan, math.inf, math.inf]).double())
    within = Within(*ends, Tensor.double)
    assert compare_within(right.clone(), right, within).passed
    assert compare_within(torch.tensor([1.0, math.nan, math.inf, 9.0]), right, within).passed
    for index, wrong in ((0, math.nan), (1, 1.0), (2, 1.0), (2, -math.inf), (3, math.nan)):
        actual = right.clone()
        actual[index] = wrong
        found = compare_within(actual, right, within)
        assert (found.violations, found.index) == (1, (index,))
    assert compare_within(right.half(), right, within).oracle == "metadata"


def test_a_range_of_another_shape_is_an_error_of_the_reference() -> None:
    low = nibbles(MIDDLE)
    with pytest.raises(InvalidReference, match=r"low \(2, 2\), high .* reads \(2, 2, 2\)"):
        compare_within(changed((0, 0), 1), MIDDLE, Within(low[..., 0], low[..., 0], nibbles))


def test_a_range_of_an_output_that_is_not_exact_is_refused() -> None:
    def reference(x: Tensor) -> Expected:
        total = x.sum(1)
        return Expected(total, total.abs(), within=Within(total, total, Tensor.double))

    with registry.scratch(), pytest.raises(InvalidReference, match="declare it exact=True"):
        _judged(reference, lambda x: x, exact=False)


# An op that rounds sums of rows: two results are right where a sum lies near a midpoint.


def rounded_sums(x: Tensor) -> dict[str, Expected]:
    total, reach = x.sum(1), x.abs().sum(1) * 2.0**-20
    ends = Within((total - reach).round(), (total + reach).round(), Tensor.double)
    return {"y": Expected(total.round().to(torch.int32), reach, within=ends)}


def _judged(
    reference: Callable[..., object], function: Callable[[Tensor], Tensor], *, exact: bool = True
) -> list[str]:
    def launched(x: Tensor) -> Tensor:
        report_launch(Launch("cuda", "toy", "", None, (1,), {}))
        return function(x)

    dtype = "int32" if exact else None
    with registry.scratch():
        op(
            inputs={"x": "m n"},
            outputs={"y": output("m", dtype=dtype, exact=exact)},
            domain={"m": size(1, 8), "n": size(1, 64)},
            dtypes=("float32",),
        )(reference)
        of = registry.op(reference.__name__)
        kernel(of.name, backend="cuda", arch="sm90")(launched)
        subject = registry.kernel(f"{of.name}.cuda")
    sizes = (("m", 3), ("n", 16))
    case = Case(kernel=subject.name, sizes=sizes, dtype="float32", seed=2)
    call, seen = execute(of, subject, case, torch.device("cpu"))
    call_truths = evaluate(of, subject, case, call.tensors)
    found = judge(of, seen, call_truths)
    kept = without_unfair(of, case, call.tensors, call_truths, found)
    return [finding.oracle for finding in kept.findings]


def test_a_kernel_is_judged_by_the_range() -> None:
    assert _judged(rounded_sums, lambda x: x.flip(1).sum(1).round().int()) == []
    assert _judged(rounded_sums, lambda x: x[:, 1:].sum(1).mul(9).int()) == ["within"]


def test_the_range_is_what_lets_a_moved_result_pass() -> None:
    def wide(x: Tensor) -> dict[str, Expected]:
        (made,) = rounded_sums(x).values()
        assert made.within is not None
        return {"y": replace(made, within=replace(made.within, high=made.within.high + 1))}

    def one_more(x: Tensor) -> Tensor:
        return x.sum(1).round().int() + 1

    assert _judged(wide, one_more) == []
    assert _judged(rounded_sums, one_more) == ["within"]
