"""What children of a power run share out among them: every step to one, about as many to each."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from harness.power.examine import Enough
from harness.power.session import Known, LookAtOriginal, Uncompiled, _Verdict
from harness.power.trace import Key, Step
from harness.power.witness import Comparer, original

KEYS = [
    Key("numeric", check, dtype, f"double.triton/m={m},n=8,dtype={dtype},seed=0")
    for check in ("matches_the_reference", "repeats_its_results")
    for dtype in ("float16", "float32")
    for m in range(50)
]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_step_of_an_original_is_taken_in_one_part(parts: int) -> None:
    tasks = [LookAtOriginal("double.triton", part, parts) for part in range(parts)]
    owners = [[task.part for task in tasks if task.takes(key, 0)] for key in KEYS]
    assert [found for found in owners if len(found) != 1] == []
    shares = Counter(part for (part,) in owners)
    assert all(shares[part] > len(KEYS) / parts / 2 for part in range(parts))


def test_a_part_is_the_same_in_every_process() -> None:
    """Not by ``hash``, which differs from process to process: children must agree."""
    tasks = [LookAtOriginal("double.triton", part, 3) for part in range(3)]
    owners = [task.part for key in KEYS[:12] for task in tasks if task.takes(key, 0)]
    assert owners == [1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 0, 0]


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("place", ["outcome", "words"])
def test_a_step_that_finds_no_program_ends_it(place: str, *, compiles: bool) -> None:
    """Of a mutant that a compiler reads at run time; another one's error is an error."""
    sent: list[object] = []
    known = Known({}, (), original([]))
    verdict = _Verdict(
        quick=False,
        comparer=Comparer(known.original),
        known=known,
        send=sent.append,
        ends=math.inf,
        cheap=math.inf,
        compiles=compiles,
    )
    said = {"outcome": "", "words": "", place: "raised CompileFailed: f oops"}
    step = Step(key=KEYS[0], oracles=("error",), outcome=said["outcome"], words=said["words"])
    if compiles:
        with pytest.raises(Enough):
            verdict.tell(step)
        assert sent == [Uncompiled(step.words)]
    else:
        verdict.tell(step)
        assert sent == [step]
