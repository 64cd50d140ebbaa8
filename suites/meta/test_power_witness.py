"""A mutant is witnessed by facts and by errors beyond rounding, and by nothing less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.power.trace import Errors, Key, Result, Step
from harness.power.witness import Comparer, Difference, original

CLOSE = Result(bits="a", rounded=Errors(4096, 1365.0, 1.0), summed=Errors(4096, 400.0, 1.2))
EXACT = Result(bits="a", exact=True)
STEP = Step(
    key=Key("numeric", "matches", "bfloat16", "case 1"),
    family="normal",
    outcome="returns y having launched k",
    results={"y": CLOSE, "codes": EXACT},
)
OTHER = replace(STEP, key=STEP.key._replace(name="case 2"))


def compared(*steps: Step, to: tuple[Step, ...] = (STEP, OTHER)) -> Comparer:
    """A comparer that was given ``steps``, and has concluded."""
    comparer = Comparer(original(to))
    for step in steps:
        comparer.add(step)
    comparer.conclude()
    return comparer


def with_y(**changes: object) -> Step:
    """The step with another result of y, of other bits."""
    changed = replace(CLOSE, bits="b", **changes)  # type: ignore[arg-type]
    return replace(STEP, results={"y": changed, "codes": EXACT})


def test_the_same_steps_are_equivalent() -> None:
    assert compared(STEP, OTHER).difference is Difference.NONE


def test_other_bits_that_are_no_worse_are_benign() -> None:
    better = with_y(rounded=Errors(4096, 1300.0, 0.99), summed=Errors(4096, 500.0, 1.6))
    found = compared(better, OTHER)
    assert found.difference is Difference.BITS
    assert not found.words


@pytest.mark.parametrize(
    "outcome",
    ["raises ValueError having launched nothing", "returns y having launched nothing", "fails"],
)
def test_another_outcome_is_a_witness(outcome: str) -> None:
    found = compared(replace(STEP, outcome=outcome, results={}))
    assert found.difference is Difference.WITNESSED
    assert found.words.startswith("case 1: ")
    assert outcome in found.words


def test_other_bits_of_what_must_be_exact_are_a_witness() -> None:
    changed = {"y": CLOSE, "codes": replace(EXACT, bits="b")}
    found = compared(replace(STEP, results=changed))
    assert found.difference is Difference.WITNESSED
    assert "codes has other bits" in found.words


def test_a_nan_out_of_place_is_a_witness() -> None:
    assert "3 NaN" in compared(with_y(misplaced=3)).words


@pytest.mark.parametrize(
    "worse",
    [
        with_y(rounded=Errors(4096, 1365.0, 1.12)),
        with_y(summed=Errors(4096, 400.0, 4.9)),
    ],
    ids=["rounded", "summed"],
)
def test_an_error_beyond_all_of_the_originals_is_a_witness(worse: Step) -> None:
    found = compared(worse)
    assert found.difference is Difference.WITNESSED
    assert "original at most" in found.words


@pytest.mark.parametrize(
    "harmless",
    [
        with_y(rounded=Errors(4096, 1365.0, 1.09)),
        with_y(summed=Errors(4096, 400.0, 4.7)),
    ],
    ids=["rounded", "summed"],
)
def test_an_error_that_rounding_explains_is_none(harmless: Step) -> None:
    assert compared(harmless).difference is Difference.BITS


def test_errors_that_grow_throughout_are_a_witness_together() -> None:
    worse = with_y(rounded=Errors(4096, 1365.0 * 1.3, 1.0))
    found = compared(worse)
    assert found.difference is Difference.WITNESSED
    assert "rms error" in found.words
    few = Errors(16, 5.3, 1.0), Errors(16, 5.3 * 1.3, 1.0)
    before = replace(STEP, results={"y": replace(CLOSE, rounded=few[0])})
    after = replace(STEP, results={"y": replace(CLOSE, bits="b", rounded=few[1])})
    assert compared(after, to=(before,)).difference is Difference.BITS


def test_the_largest_error_is_that_of_the_family_in_every_case() -> None:
    loud = replace(OTHER, results={"y": replace(CLOSE, rounded=Errors(9, 20.0, 3.0))})
    worse = with_y(rounded=Errors(4096, 1365.0, 2.5))
    assert compared(worse, to=(STEP, loud)).difference is Difference.BITS
    elsewhere = replace(loud, family="huge")
    assert compared(worse, to=(STEP, elsewhere)).difference is Difference.WITNESSED


def test_a_step_that_the_original_never_took_says_nothing() -> None:
    unknown = replace(STEP, key=STEP.key._replace(name="case 3"), outcome="fails")
    assert compared(unknown).difference is Difference.NONE
