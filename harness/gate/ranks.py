"""Tests by ranks: whether errors grew, from pairs of the same case or from two groups of cases.

They assume no distribution, only that without a change an error is as likely the one before as the
one after. All are one-sided, for growth. F. Wilcoxon, "Individual comparisons by ranking methods",
Biometrics Bulletin 1 (1945); S. Holm, "A simple sequentially rejective multiple test procedure",
Scand. J. Statistics 6 (1979); R. E. Tarone, "A modified Bonferroni method for discrete data",
Biometrics 46 (1990).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

EXACT: Final = 50  # so many differences are counted out; beyond, the normal is on the safe side


@dataclass(frozen=True)
class Significance:
    """Probability of so much growth by chance, and the least that so much data can show.

    ``moved`` counts the data that tell: pairs that differ, or the smaller of two groups.
    """

    p: float
    least: float
    moved: int


NOTHING: Final = Significance(1.0, 1.0, 0)


def signed_rank(differences: Sequence[float]) -> Significance:
    """Wilcoxon's signed-rank test that differences of pairs lie above zero; zeros tell nothing.

    Exact, given the ties, for up to 50 differences; beyond by the normal approximation, corrected
    for ties and continuity.
    """
    moved = [d for d in differences if d]
    if not moved:
        return NOTHING
    ranks = doubled_ranks([abs(d) for d in moved])
    above = sum(rank for rank, d in zip(ranks, moved, strict=True) if d > 0)
    p = _exact(ranks, above) if len(moved) <= EXACT else _approximate(ranks, above)
    return Significance(p, 2.0 ** -len(moved), len(moved))


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 1 on; equal values share their mean, so twice is whole."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    place = 0
    for _, tied in groupby(order, key=values.__getitem__):
        same = list(tied)
        for index in same:
            ranks[index] = 2 * place + len(same) + 1
        place += len(same)
    return ranks


def _exact(ranks: Sequence[int], above: int) -> float:
    """The share of all signs whose positive ranks sum to ``above`` or more.

    A polynomial whose coefficients are digits of one large number counts the sums; no coefficient,
    nor their total of 2^n, fills a digit of n + 1 bits, so that a remainder adds the digits up.
    """
    width = len(ranks) + 1
    sums = 1
    for rank in ranks:
        sums += sums << (rank * width)
    reached = (sums >> (above * width)) % ((1 << width) - 1)
    return reached / (1 << len(ranks))


def _approximate(ranks: Sequence[int], above: int) -> float:
    mean, variance = sum(ranks) / 2, sum(rank * rank for rank in ranks) / 4
    return _tail((above - 1 - mean) / math.sqrt(variance))


def rank_sum(before: Sequence[float], after: Sequence[float]) -> Significance:
    """Wilcoxon's rank-sum test that ``after`` lies above ``before``, which are no pairs.

    By the normal approximation, corrected for ties and continuity.
    """
    few, total = min(len(before), len(after)), len(before) + len(after)
    if not few:
        return NOTHING
    ranks = doubled_ranks([*before, *after])
    mean = sum(ranks) / total
    variance = sum((rank - mean) ** 2 for rank in ranks) / total / (total - 1)
    variance *= len(before) * len(after)
    if not variance:
        return NOTHING
    above = sum(ranks[len(before) :]) - len(after) * mean
    return Significance(_tail((above - 1) / math.sqrt(variance)), 1 / math.comb(total, few), few)


def _tail(sigmas: float) -> float:
    """Probability that a normal variable is beyond so many standard deviations."""
    return NormalDist().cdf(-sigmas)


def telling(least: Sequence[float], level: float) -> list[bool]:
    """Which of several tests could reach significance at all, corrected for their number.

    The others need no share of ``level`` (Tarone): what they can show at most is known before it is
    known which way anything moved.
    """
    ordered, count = sorted(least), 1
    while bisect_right(ordered, level / count) > count:
        count += 1
    return [one <= level / count for one in least]


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each probability corrected for their number: what is below a level is so for all at once."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    corrected, most = [1.0] * len(probabilities), 0.0
    for done, index in enumerate(order):
        most = max(most, min(1.0, (len(order) - done) * probabilities[index]))
        corrected[index] = most
    return corrected
