"""Scores have the right denominator, and bounds are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.power.matrix import Status
from harness.power.scores import (
    OWN,
    catchers,
    curve,
    families_of,
    layers_of,
    rules,
    score,
    seconds_per_kill,
    upper_bound,
)
from suites.meta.power_rows import KILL, ROW, matrix

MISSED = replace(ROW, id="missed", status=Status.MISSED, kills=(), curve={}, by_habit=())
OUTSIDE = [
    replace(ROW, id=status, status=status)
    for status in (Status.EQUIVALENT, Status.BENIGN, Status.ACCUSED, Status.UNKNOWN)
]


def test_only_witnessed_mutants_count() -> None:
    found = score([ROW, ROW, MISSED, *OUTSIDE])
    assert (found.killed, found.of) == (2, 3)
    assert str(found) == "2 of 3 (66.7 %)"


def test_the_score_of_none_is_no_number() -> None:
    assert math.isnan(score(OUTSIDE).share)
    assert str(score([])) == "none"


@pytest.mark.parametrize(
    ("failures", "of", "bound"),
    [
        (0, 300, 1 - 0.05 ** (1 / 300)),  # about three in n
        (0, 1, 0.95),
        (1, 10, 0.394163),
        (3, 100, 0.075711),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_the_exact_bound_of_a_share(failures: int, of: int, bound: float) -> None:
    assert upper_bound(failures, of) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize(("failures", "of"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(failures: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"failures={failures} of={of}"):
        upper_bound(failures, of)


def test_alone_means_that_nothing_else_kills_it() -> None:
    both = replace(ROW, kills=(KILL, replace(KILL, layer="boundary", family="probe")))
    found = {each.name: each for each in catchers([ROW, both, MISSED], layers_of)}
    assert (found["numeric"].killed, found["numeric"].alone) == (2, 1)
    assert (found["boundary"].killed, found["boundary"].alone) == (1, 0)
    assert [each.name for each in catchers([ROW, both], families_of)] == ["normal"]


def test_the_curve_counts_kills_within_so_many_cases() -> None:
    late = replace(ROW, id="late", curve={"float16/default": 2})
    elsewhere = replace(ROW, id="module", curve={}, kills=(replace(KILL, check="twin"),))
    points = curve(matrix(ROW, late, elsewhere, MISSED))
    assert [(p.cases, p.numeric.killed, p.score.killed) for p in points] == [
        (1, 0, 1),
        (2, 1, 2),
        (3, 2, 3),
    ]
    assert [p.seconds for p in points] == [0.25, 0.75, 1.5]


def test_rules_of_others_are_scored_on_the_same_mutants() -> None:
    wrapper = replace(ROW, id="wrapper", foreign={})
    precise = replace(ROW, id="precise", family="precision", foreign={"all families": ()})
    found = {(r.rule, r.inputs): r for r in rules(matrix(ROW, MISSED, wrapper, precise))}
    loose = found["allclose 0.1", "all families"]
    assert (loose.score.killed, loose.score.of) == (2, 3)
    assert (loose.precision.killed, loose.precision.of) == (0, 1)
    assert (loose.rejected, loose.asked) == (5, 310)
    own = found[OWN, "few shapes"]
    assert (own.score.killed, own.score.of) == (2, 3)


def test_seconds_per_kill_counts_all_children() -> None:
    assert seconds_per_kill([ROW, MISSED]) == 4.0
    assert math.isnan(seconds_per_kill([MISSED]))
