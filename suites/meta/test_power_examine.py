"""Examining a kernel takes the very steps of the default run, and goes on after failures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import kernel, registry
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import Judgement
from harness.power import examine
from harness.power.examine import Enough, Plan, Unplanned, Watch, default_run, plan_of, run_cases
from harness.power.foreign import RULES, habits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.case import Case
    from harness.power.trace import Step

SILU = "silu_and_mul.triton"
WRONG = "silu_and_mul.triton.wrong"
FEW = Settings(cases=6)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


@pytest.fixture
def wrong() -> Iterator[str]:
    """A kernel whose results are 2 % too large, and that refuses one row."""
    original = registry.kernel(SILU)
    op = registry.op(original.op)
    with registry.scratch():
        registry.add_op(op)

        @kernel(op.name, backend="triton", arch=">=sm80", variant="wrong")
        def silu_and_mul(x: Tensor, *, config: str | None = None) -> Tensor:
            if x.shape[0] == 1:
                msg = "no single row"
                raise ValueError(msg)
            result: Tensor = original.function(x, config=config)  # type: ignore[assignment]
            return result * 1.02

        yield WRONG


def examined(name: str, plan: Plan, **watch: object) -> list[Step]:
    """All steps that a default run takes."""
    steps: list[Step] = []
    default_run(name, CPU, FEW, plan, Watch(tell=steps.append, **watch))  # type: ignore[arg-type]
    return steps


def test_the_plan_has_the_cases_that_pytest_generates() -> None:
    plan = plan_of(SILU, CPU, Settings())
    asked = examine.Asked("numeric", "matches_the_reference", "bfloat16", 1)
    seen: list[Case] = []

    def note(case: Case) -> Judgement:
        seen.append(case)
        return Judgement((), {})

    cell = Cell(SILU, CPU, Layer.NUMERIC)
    Check(cell=cell, dtype="bfloat16", settings=Settings(), reproduce=str).explore(note)
    assert plan[asked] == tuple(seen)
    assert len(seen) >= 18


def test_it_runs_on_after_failures(wrong: str) -> None:
    plan = plan_of(wrong, CPU, FEW)
    steps = examined(wrong, plan, rules=True)
    cases = [step for step in steps if step.key.check == "matches_the_reference"]
    assert len(cases) == sum(
        len(found) for asked, found in plan.items() if asked.check == "matches_the_reference"
    )
    assert len({step.key for step in steps}) == len(steps)
    caught = [step for step in cases if "budget" in step.oracles]
    assert len(caught) > len(cases) / 2
    assert all(step.results["y"].violations for step in caught)
    assert any("cosine > 0.97" not in s.foreign and "allclose 1e-2" in s.foreign for s in caught)
    assert {step.key.layer for step in steps} == {"numeric", "boundary"}


def test_a_refusal_of_a_legal_case_is_seen_as_such(wrong: str) -> None:
    case = next(iter(habits(wrong, CPU)["one shape"]))
    sizes = tuple((axis, 1 if axis == "m" else size) for axis, size in case.sizes)
    steps: list[Step] = []
    one = replace(case, sizes=sizes)
    run_cases(wrong, CPU, [one], Watch(tell=steps.append, rules=True), check="one row")
    (step,) = steps
    assert step.oracles == ("error",)
    assert step.outcome == "raises ValueError having launched nothing"
    assert step.foreign == tuple(RULES)
    assert step.key.check == "one row"


def test_the_original_passes_every_step() -> None:
    steps = examined(SILU, plan_of(SILU, CPU, FEW), chosen=lambda _, position: position == 0)
    assert [step.words for step in steps if not step.passed] == []
    assert {step.key.layer for step in steps} >= {"numeric", "boundary", "fake_shape"}
    assert all(step.position == 0 for step in steps)


def test_who_is_told_may_have_enough() -> None:
    taken: list[Step] = []

    def tell(step: Step) -> None:
        taken.append(step)
        if len(taken) == 3:
            raise Enough

    with pytest.raises(Enough):
        default_run(SILU, CPU, FEW, plan_of(SILU, CPU, FEW), Watch(tell=tell))
    assert len(taken) == 3


def test_what_begins_is_told_before_it_ends() -> None:
    order: list[tuple[str, object]] = []
    plan = plan_of(SILU, CPU, FEW)
    watch = Watch(
        tell=lambda step: order.append(("ends", step.key)),
        begin=lambda key: order.append(("begins", key)),
        chosen=lambda _, position: position == 0,
    )
    default_run(SILU, CPU, FEW, plan, watch, layers=("boundary",))
    begun, ended = order[0::2], order[1::2]
    assert [key for _, key in begun] == [key for _, key in ended]
    assert {word for word, _ in begun} == {"begins"}


def test_a_plan_without_what_a_check_asks_for_is_an_error_and_no_kill() -> None:
    with pytest.raises(Unplanned, match="is not in the plan of silu_and_mul"):
        examined(SILU, {})
