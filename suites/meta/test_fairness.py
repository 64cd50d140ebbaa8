"""A case beyond float32 is dropped and counted; faults are found on the fair cases all the same."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import Expected, kernel, op, output, registry, size
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, NothingChecked, Settings
from harness.fairness import mostly_unfair
from harness.judge import ParityFailure
from harness.launches import Launch, report_launch
from harness.precision import outputs_in
from harness.truths import TruthCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def length(x: Tensor) -> dict[str, Tensor | Expected]:
    """Root of a sum of fourth powers: of huge values only float64 holds the powers."""
    total = x.square().square().sum(1)
    return {"y": Expected(total.sqrt(), total.sqrt()), "signs": (x > 0).to(torch.uint8)}


def launch() -> None:
    report_launch(Launch("cuda", "length", __name__, None, (1,), {}))


def computed(x: Tensor) -> tuple[Tensor, Tensor]:
    """A correct kernel in float32."""
    launch()
    return x.float().square().square().sum(1).sqrt().to(x.dtype), (x > 0).to(torch.uint8)


def forgets_a_column(x: Tensor) -> tuple[Tensor, Tensor]:
    return computed(x[:, :-1])[0], computed(x)[1]


def swaps_signs_of_huge_values(x: Tensor) -> tuple[Tensor, Tensor]:
    y, signs = computed(x)
    return y, torch.where(x.abs() > 2.0**50, 1 - signs, signs)


def writes_before_huge_values(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() and float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) > 2.0**50:
        x.as_strided((1,), (1,), x.storage_offset() - 1).fill_(0.0)
    return computed(x)


def raises_at_huge_values(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() and float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) > 2.0**50:
        msg = "too large"
        raise ValueError(msg)
    return computed(x)


def falls_back_at_huge_values(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() and float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) > 2.0**50:
        return x.square().square().sum(1).sqrt(), (x > 0).to(torch.uint8)
    return computed(x)


@contextmanager
def checked(
    function: Callable[[Tensor], object], reference: Callable[[Tensor], object] = length
) -> Iterator[Check]:
    with registry.scratch():
        op(
            inputs={"x": "m n"},
            outputs={"y": "m", "signs": output("m n", dtype="uint8", exact=True)},
            domain={"m": size(1, 32), "n": size(2, 32)},
            dtypes=("float32",),
            sums_over="n",
            excludes={"special": "NaN has no sign", "mixed": "this test names its huge values"},
        )(reference)
        kernel("length", backend="cuda", arch="sm90")(function)
        yield Check(
            cell=Cell("length.cuda", CPU, Layer.NUMERIC),
            dtype="float32",
            settings=Settings(cases=150),
            reproduce=str,
            truths=TruthCache(),
        )


def test_a_case_beyond_float32_is_dropped_and_counted() -> None:
    with checked(computed) as check:
        check.explore(check.judge_against_reference)
    dropped, huge = check.counts["unfair"], check.counts["values_huge"]
    assert dropped == huge > 0
    assert check.figures["unfair"] == dropped < check.counts["cases"]
    assert check.figures["mostly_unfair"] == [f"huge: {huge} of {huge} cases are beyond float32"]
    assert check.worst <= 1


def test_a_fault_is_found_on_the_fair_cases() -> None:
    with checked(forgets_a_column) as check, pytest.raises(ParityFailure, match="y: budget: ") as e:
        check.explore(check.judge_against_reference)
    assert "values=huge" not in e.value.case


UNEXCUSED = {
    "exact bytes": (swaps_signs_of_huge_values, "signs: exact: "),
    "memory": (writes_before_huge_values, "memory: x: "),
    "error": (raises_at_huge_values, "raised ValueError before launch: too large"),
    "no launch": (falls_back_at_huge_values, "no launch was seen"),
}


@pytest.mark.parametrize(("function", "says"), UNEXCUSED.values(), ids=UNEXCUSED)
def test_nothing_but_rounding_is_excused(function: Callable[[Tensor], object], says: str) -> None:
    with checked(function) as check, pytest.raises(ParityFailure, match=says) as caught:
        check.explore(check.judge_against_reference)
    assert "values=huge" in caught.value.case


def test_where_no_case_is_fair_nothing_was_checked() -> None:
    def hopeless(x: Tensor) -> dict[str, Tensor | Expected]:
        value = (x.abs().sum(1) * 2.0**200 + 2.0**200).log2()
        return {"y": Expected(value, value.abs()), "signs": (x > 0).to(torch.uint8)}

    hopeless.__name__ = "length"

    def infinite(x: Tensor) -> tuple[Tensor, Tensor]:
        launch()
        return torch.full((len(x),), torch.inf), (x > 0).to(torch.uint8)

    with (
        checked(infinite, hopeless) as check,
        pytest.raises(NothingChecked, match=r"all \d+ cases are beyond float32; none was fair"),
    ):
        check.explore(check.judge_against_reference)


def test_fairness_is_asked_for_failures_alone() -> None:
    seen: list[torch.dtype] = []

    def told(x: Tensor) -> object:
        seen.append(x.dtype)
        return length(x)

    told.__name__ = "length"
    with checked(computed, told) as check:
        check.explore(check.judge_against_reference)
    assert seen.count(torch.float32) == check.counts["unfair"]


@pytest.mark.parametrize(("count", "dropped", "named"), [(8, 2, False), (8, 3, True), (1, 1, True)])
def test_more_than_a_quarter_of_a_family_is_said(
    count: int,
    dropped: int,
    named: bool,  # noqa: FBT001
) -> None:
    said = mostly_unfair({"huge": count, "normal": 9}, {"huge": dropped})
    assert said == ([f"huge: {dropped} of {count} cases are beyond float32"] if named else [])


def test_a_reference_that_makes_float64_of_its_own_is_rounded_at_every_step() -> None:
    def mixed(x: Tensor) -> dict[str, Tensor | Expected]:
        ones = torch.ones(x.shape[1], 1, dtype=torch.float64)
        return {"y": (x @ ones)[:, 0] / 3, "signs": (x > 0).to(torch.uint8)}

    mixed.__name__ = "length"
    with checked(computed, mixed) as check:
        from harness.case import Case

        case = Case(kernel="length.cuda", sizes=(("m", 2), ("n", 2)), dtype="float32")
        made = outputs_in(torch.float32, check.op, case, {"x": torch.tensor([[1.0, 0], [2, 0]])})
        low = outputs_in(torch.float16, check.op, case, {"x": torch.tensor([[1.0, 0], [2, 0]])})
    assert made["y"].tolist() == torch.tensor([1 / 3, 2 / 3]).tolist()
    assert low["y"].tolist() == torch.tensor([1 / 3, 2 / 3]).half().float().tolist()
