"""Mutants and what became of them, made up for tests of matrices and reports."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from harness.power.isolation import Ending, Finished
from harness.power.matrix import Kill, Looked, Matrix, Rejections, Row, Status
from harness.power.mutation import written
from harness.power.session import Concluded, Known, TryMutant
from harness.power.trace import Key, Step
from harness.power.witness import Difference, original

if TYPE_CHECKING:
    from harness.power.witness import Original

SOURCE: Final = "def scale(x):\n    return x * 2\n"
MUTATION: Final = written(
    "op.triton", "package.op", SOURCE, family="arithmetic", rule="sum", anchor="*", after="+"
)


def step(
    name: str = "case 1",
    *,
    check: str = "matches_the_reference",
    layer: str = "numeric",
    **rest: object,
) -> Step:
    """A step of the default run that passed, unless ``rest`` says otherwise."""
    made = Step(key=Key(layer, check, "float16", name), family="normal", config="default")
    return replace(made, **rest)  # type: ignore[arg-type]


def seen(*steps: Step) -> Original:
    """An original whose steps all passed where the mutant's did not."""
    return original([replace(each, oracles=(), words="", foreign=(), outcome="") for each in steps])


def finished(
    *messages: object,
    difference: Difference | None = Difference.WITNESSED,
    ending: Ending = Ending.DONE,
) -> Finished[TryMutant]:
    """What comes back of a mutant's child; ``difference`` None if it did not get that far."""
    ends = [] if difference is None else [Concluded(difference, "y differs")]
    task = TryMutant(MUTATION, SOURCE, Known({}, (), seen()), wrapper=False)
    return Finished(task, [*messages, *ends], ending, "printed", 1.5)


KILL: Final = Kill("numeric", "matches_the_reference", "normal", "budget", 3, "case 1", "y: wrong")
ROW: Final = Row(
    id="op.triton/sum@12345678",
    kernel="op.triton",
    module="package.op",
    family="arithmetic",
    rule="sum",
    line=2,
    before="*",
    after="+",
    held_out=False,
    status=Status.KILLED,
    witness="y differs",
    kills=(KILL,),
    curve={"float16/default": 1},
    foreign={"all families": ("allclose 0.1",), "few shapes": (), "one shape": ()},
    by_habit=("all families", "few shapes"),
    ending="done",
    words="",
    seconds=2.0,
    steps=30,
)
LOOKED: Final = Looked(
    kernel="op.triton",
    examples=24,
    configs=6,
    cases=30,
    searched=60,
    seconds={"numeric/matches_the_reference": 1.5},
    by_position={0: 0.25, 1: 0.5, 2: 0.75},
    fails=(),
    own={"all families": 0},
    foreign={"all families": {"allclose 0.1": 1}},
    asked={"all families": 10},
)
REJECTIONS: Final = Rejections(
    results=300,
    by_op={"op": 300},
    asked={"all families": 300},
    foreign={"all families": {"allclose 0.1": 4}},
)
RUN: Final = {
    "arch": "cpu",
    "device": {"device": "cpu"},
    "cores": 2,
    "jobs": 2,
    "quick": False,
    "seed": 0,
    "cases": None,
    "versions": {"torch": "2"},
    "wall_seconds": 10.0,
    "key": "abc",
}


def matrix(*rows: Row, **changes: object) -> Matrix:
    """A run with these rows."""
    run = RUN | {"mutants": len(rows)}
    made = Matrix(rows=rows, originals=(LOOKED,), rejections=REJECTIONS, run=run)
    return replace(made, **changes)  # type: ignore[arg-type]
