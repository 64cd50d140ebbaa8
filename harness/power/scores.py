"""Figures of a kill matrix: scores and denominators, bounds, the kill curve, who alone kills."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.power import foreign
from harness.power.matrix import HABITS, Status
from harness.power.session import MAIN, OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.power.matrix import Looked, Matrix, Rejections, Row

CONFIDENCE: Final = 0.95
_BISECTIONS: Final = 60


@dataclass(frozen=True)
class Score:
    """How many of the witnessed mutants were killed."""

    killed: int
    of: int

    @property
    def share(self) -> float:
        """Between 0 and 1; NaN of none."""
        return self.killed / self.of if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.killed} of {self.of} ({100 * self.share:.1f} %)" if self.of else "none"


def score(rows: Iterable[Row], killed: Callable[[Row], bool] | None = None) -> Score:
    """The score over the witnessed mutants among ``rows``; ``killed`` None means by the run."""
    counted = [row for row in rows if row.witnessed]
    catches = killed or (lambda row: row.status is Status.KILLED)
    return Score(sum(map(catches, counted)), len(counted))


def grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by a key, in its order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))


def upper_bound(failures: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper bound of a share (Clopper, Pearson, 1934); 1 of none.

    The largest probability under which so few failures or fewer are not less likely than
    ``1 - confidence``; about 3 / n without a failure. Raises ValueError for impossible counts.
    """
    if not 0 <= failures <= of:
        msg = (
            f"failures={failures!r} of={of!r}: there can be neither fewer than 0 nor more than all"
        )
        raise ValueError(msg)
    if failures == of:
        return 1.0
    low, high = failures / of, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _at_most(failures, of, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(failures: int, of: int, share: float) -> float:
    """The probability of at most ``failures`` of ``of``."""
    terms = (
        math.lgamma(of + 1)
        - math.lgamma(k + 1)
        - math.lgamma(of - k + 1)
        + k * math.log(share or 1e-300)
        + (of - k) * math.log1p(-min(share, 1 - 1e-16))
        for k in range(failures + 1)
    )
    return math.fsum(map(math.exp, terms))


@dataclass(frozen=True)
class Catcher:
    """Something that kills: how many mutants, and how many that nothing else kills."""

    name: str
    killed: int
    alone: int


def catchers(rows: Iterable[Row], names: Callable[[Row], set[str]]) -> list[Catcher]:
    """Who kills how many of the witnessed mutants, most first; ``names`` says who kills one."""
    found: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for row in rows:
        if row.status is Status.KILLED:
            by = names(row)
            found.update(by)
            alone.update(by if len(by) == 1 else ())
    return [Catcher(name, n, alone[name]) for name, n in found.most_common()]


def layers_of(row: Row) -> set[str]:
    """The layers that kill a mutant."""
    return {kill.layer for kill in row.kills}


def checks_of(row: Row) -> set[str]:
    """The checks that kill a mutant."""
    return {f"{kill.layer}: {kill.check}" for kill in row.kills}


def oracles_of(row: Row) -> set[str]:
    """The oracles that kill a mutant, with their layer."""
    return {f"{kill.layer}: {kill.oracle}" for kill in row.kills}


def families_of(row: Row) -> set[str]:
    """The value families in which a mutant is killed; empty if only a probe kills it."""
    return {kill.family for kill in row.kills if kill.family not in {"", "probe"}}


def pairs_of(row: Row) -> set[str]:
    """Layer, family and oracle that kill a mutant."""
    return {f"{kill.layer}, {kill.family or '-'}, {kill.oracle}" for kill in row.kills}


@dataclass(frozen=True)
class Point:
    """The score with so many cases per configuration and dtype, and what they cost."""

    cases: int  # per configuration
    score: Score  # of all layers
    numeric: Score  # of these cases alone
    seconds: float  # of these cases, on the originals


def curve(matrix: Matrix) -> list[Point]:
    """Kills as a function of the number of generated cases: prefixes of the default run's."""
    rows = [row for row in matrix.rows if row.witnessed]
    longest = max((max(each.by_position, default=-1) for each in matrix.originals), default=-1) + 1
    points = []
    for cases in _steps(longest):
        seconds = sum(
            cost
            for each in matrix.originals
            for place, cost in each.by_position.items()
            if place < cases
        )
        points.append(
            Point(
                cases,
                score(rows, lambda row, n=cases: _within(row, n) or _otherwise(row)),  # type: ignore[misc]
                score(rows, lambda row, n=cases: _within(row, n)),  # type: ignore[misc]
                seconds,
            )
        )
    return points


def _steps(longest: int) -> list[int]:
    fine = [n for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64) if n < longest]
    return [*fine, longest] if longest else []


def _within(row: Row, cases: int) -> bool:
    return any(position < cases for position in row.curve.values())


def _otherwise(row: Row) -> bool:
    """Whether anything but the cases of the curve kills it."""
    return any(kill.check != MAIN for kill in row.kills)


@dataclass(frozen=True)
class RuleScore:
    """A way to compare, on one kind of inputs: what it kills, and which correct results it rejects.

    ``asked`` counts the results of correct variants and of the originals together.
    """

    rule: str
    inputs: str
    score: Score
    precision: Score
    rejected: int
    asked: int


OWN: Final = "this harness, numeric cases"


def rules(matrix: Matrix) -> list[RuleScore]:
    """The rules of others beside the harness's own, on the same results."""
    # Mutants of a wrapper leave the kernel alone, and have no results that a rule could look at.
    rows = [row for row in matrix.rows if row.witnessed and row.foreign]
    precise = [row for row in rows if row.family == "precision"]
    found = []
    for inputs in (OURS, *HABITS):
        for rule in (OWN, *foreign.RULES):
            kills = _own_kill(inputs) if rule == OWN else _kill_by(rule, inputs)
            rejected, asked = _rejected(matrix, rule, inputs)
            found.append(
                RuleScore(rule, inputs, score(rows, kills), score(precise, kills), rejected, asked)
            )
    return found


def _own_kill(inputs: str) -> Callable[[Row], bool]:
    return lambda row: inputs in row.by_habit


def _kill_by(rule: str, inputs: str) -> Callable[[Row], bool]:
    return lambda row: rule in row.foreign.get(inputs, ())


def _rejected(matrix: Matrix, rule: str, inputs: str) -> tuple[int, int]:
    rejected = asked = 0
    judged: tuple[Rejections | Looked, ...] = (matrix.rejections, *matrix.originals)
    for each in judged:
        counts = each.own if rule == OWN else each.foreign.get(inputs, {})
        rejected += counts.get(inputs if rule == OWN else rule, 0)
        asked += each.asked.get(inputs, 0)
    return rejected, asked


def seconds_per_kill(rows: Sequence[Row]) -> float:
    """Seconds of children over mutants killed; NaN without a kill."""
    killed = score(rows).killed
    return sum(row.seconds for row in rows) / killed if killed else math.nan


def statuses(rows: Iterable[Row]) -> Mapping[str, int]:
    """How many mutants became what."""
    counts = Counter(str(row.status) for row in rows)
    return {str(status): counts[str(status)] for status in Status}
