"""Probes of a check: all run, and what is missing for one hides no failure of another.

And generated cases: the same on every GPU, their errors kept one by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import kernel, op, registry, size
from harness.arch import CPU
from harness.case_errors import key_of
from harness.cells import Cell, Layer
from harness.check import Check, Scope, Settings
from harness.compare import Comparison
from harness.judge import Judgement, ParityFailure
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.case import Case


def same(x: Tensor) -> Tensor:
    return x


@pytest.fixture
def check() -> Iterator[Check]:
    with registry.scratch():
        op(inputs={"x": "n"}, outputs={"y": "n"}, domain={"n": size()}, dtypes=("float32",))(same)
        kernel("same", backend="cuda", arch=">=sm80")(same)
        cell = Cell("same.cuda", CPU, Layer.E2E)
        yield Check(cell=cell, dtype=None, settings=Settings(), reproduce=str)


def absent() -> str:
    msg = "the model is not here; pip install it"
    raise Unavailable(msg)


def wrong() -> str:
    return "it is wrong"


def right() -> str:
    return ""


@pytest.mark.parametrize("order", [("absent", "wrong"), ("wrong", "absent")])
def test_what_is_missing_hides_no_failure(check: Check, order: tuple[str, str]) -> None:
    probes = {"absent": absent, "wrong": wrong}

    with pytest.raises(ParityFailure, match="probe=wrong"):
        check.each({name: probes[name] for name in order})


def test_what_is_missing_is_said_once_the_others_passed(check: Check) -> None:
    with pytest.raises(Unavailable, match="the model is not here"):
        check.each({"absent": absent, "right": right})

    assert check.counts["cases"] == 2


def judged(worst: float, rms: float = 0.0) -> Judgement:
    return Judgement((), {"y": Comparison("budget", 1, worst=worst, rms=rms)})


def on(check: Check, arch: str, dtype: str = "float32") -> Check:
    return replace(check, cell=replace(check.cell, arch=arch), dtype=dtype, figures={}, errors={})


def cases_of(check: Check) -> list[str]:
    seen: list[str] = []

    def note(case: Case) -> Judgement:
        seen.append(case.id)
        return judged(0.5)

    check.explore(note)
    return seen


def test_every_gpu_meets_the_same_cases_of_a_seed(check: Check) -> None:
    sm90 = cases_of(on(check, "sm90"))
    assert len(sm90) > 20
    assert sm90 == cases_of(on(check, "sm100"))
    assert sm90 != cases_of(on(check, CPU))


def test_the_errors_of_each_compared_case_are_kept(check: Check) -> None:
    errors = iter((0.5, 0.12345, 0.0, float("inf")))
    seen: list[str] = []

    def judge(case: Case) -> Judgement:
        seen.append(case.id)
        return judged(next(errors, 0.25), rms=0.3 if len(seen) == 2 else 0.0)

    check.explore(judge, Scope(examples=8))
    kept = check.figures["errors"]
    assert isinstance(kept, dict)
    assert [kept[key_of(case)] for case in seen[:4]] == [0.5, 0.123, 0.0, 1e300]
    assert check.figures["rms_errors"] == {key_of(seen[1]): 0.3}
    assert check.figures["worst_in_budget"] == 1e300


def test_a_check_that_compares_nothing_keeps_no_errors(check: Check) -> None:
    check.explore(lambda _: Judgement((), {}), Scope(examples=3))
    assert not {"errors", "rms_errors"} & set(check.figures)
