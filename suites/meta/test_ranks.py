"""Tests by ranks against counting every sign, against laws, and against tables."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate.ranks import (
    EXACT,
    doubled_ranks,
    holm,
    rank_sum,
    signed_rank,
    telling,
)
from suites.meta.laws import LAW

FEWER = settings(LAW, max_examples=40)
small = st.integers(-4, 4).map(float)  # so that ties are common


def counted(differences: list[float]) -> float:
    """The share of all signs that are as much above zero, by trying each."""
    moved = [d for d in differences if d]
    ranks = doubled_ranks([abs(d) for d in moved])
    above = sum(rank for rank, d in zip(ranks, moved, strict=True) if d > 0)
    signs = product((False, True), repeat=len(moved))
    sums = [sum(r for r, s in zip(ranks, one, strict=True) if s) for one in signs]
    return sum(found >= above for found in sums) / len(sums)


def test_equal_values_share_their_mean_rank() -> None:
    assert doubled_ranks([3.0, 1.0, 1.0, 5.0]) == [6, 3, 3, 8]


@given(st.lists(small, max_size=9))
@FEWER
def test_the_signed_rank_test_is_the_count_of_all_signs(differences: list[float]) -> None:
    assert signed_rank(differences).p == pytest.approx(counted(differences))


def below_zero(wanted: int, count: int) -> list[float]:
    """Differences of ranks 1 to ``count`` of which those below zero sum to ``wanted``."""
    below: set[int] = set()
    for rank in range(count, 0, -1):
        if rank <= wanted - sum(below):
            below.add(rank)
    return [float(-rank if rank in below else rank) for rank in range(1, count + 1)]


@pytest.mark.parametrize(("critical", "level"), [(30, 0.05), (25, 0.025), (19, 0.01), (15, 0.005)])
def test_the_signed_rank_test_agrees_with_the_printed_table(critical: int, level: float) -> None:
    # Of 15 pairs: F. Wilcoxon, "Some rapid approximate statistical procedures" (1964), table 2.
    assert signed_rank(below_zero(critical, 15)).p <= level
    assert signed_rank(below_zero(critical + 1, 15)).p > level


@pytest.mark.parametrize("below", [250, 500, 700, 915, 1200])
def test_beyond_the_exact_the_normal_is_close_and_on_the_safe_side(below: int) -> None:
    count, ways = EXACT + 10, Counter({0: 1})
    for rank in range(1, count + 1):
        ways = Counter(ways) + Counter({total + rank: n for total, n in ways.items()})
    exact = sum(n for total, n in ways.items() if total <= below) / 2**count
    found = signed_rank(below_zero(below, count)).p
    assert 0.98 * exact <= found <= (1.05 if exact > 1e-3 else 10) * exact


def test_the_normal_is_on_the_safe_side_where_it_counts() -> None:
    up = [float(i) for i in range(1, EXACT + 2)]
    assert 2.0 ** -len(up) < signed_rank(up).p < 1e-9


@given(st.lists(small, max_size=60))
@FEWER
def test_what_lies_above_zero_one_way_lies_below_it_the_other(differences: list[float]) -> None:
    up, down = signed_rank(differences), signed_rank([-d for d in differences])
    assert up.p + down.p >= 1 - 1e-9
    assert up.moved == down.moved == sum(d != 0 for d in differences)


def test_without_a_difference_there_is_nothing_to_tell() -> None:
    assert signed_rank([0.0] * 30) == signed_rank([])
    assert signed_rank([]).p == 1


@given(st.lists(small, min_size=1, max_size=20), st.lists(small, min_size=1, max_size=20))
@FEWER
def test_the_rank_sum_test_knows_no_side(before: list[float], after: list[float]) -> None:
    up, down = rank_sum(before, after), rank_sum(after, before)
    assert 0 < up.p <= 1
    assert up.p + down.p >= 1 - 1e-9


def test_the_rank_sum_test_sees_a_shift() -> None:
    before = [float(i) for i in range(20)]
    assert rank_sum(before, [b + 15 for b in before]).p < 1e-4
    assert rank_sum(before, before).p > 0.4
    assert rank_sum([], before).p == rank_sum([1.0, 1.0], [1.0]).p == 1


def test_few_data_take_no_share_of_the_level() -> None:
    assert telling([2.0**-20, 0.5, 0.5], 0.01) == [True, False, False]
    assert telling([], 0.01) == []
    # Each of 20 could reach 0.01 alone, and a twentieth of it none.
    assert telling([2.0**-7] * 20, 0.01) == [False] * 20
    assert telling([2.0**-12] * 20, 0.01) == [True] * 20


def test_holm_corrects_for_how_many_there_are() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
@FEWER
def test_holm_keeps_the_order_and_lowers_nothing(probabilities: list[float]) -> None:
    corrected = holm(probabilities)
    assert all(p <= c <= 1 for p, c in zip(probabilities, corrected, strict=True))
    order = sorted(range(len(corrected)), key=probabilities.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
