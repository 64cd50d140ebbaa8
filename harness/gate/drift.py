"""Drift: how the errors of each check moved since a baseline, and whether they grew beyond chance.

The same seed makes the same cases, so errors are compared case by case: Wilcoxon's signed-rank test
of the logarithms of their ratios, exact for few cases. With another seed nothing pairs, and the
rank-sum test is used. A worsening is flagged when it is both significant, after the correction for
all rows of the comparison, and large enough to matter; however far within the budget.
docs/drift.md has the reasons, and how often this is wrong.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final

from harness.case_errors import RMS, WORST
from harness.gate.ranks import NOTHING, Significance, holm, rank_sum, signed_rank, telling
from harness.gate.samples import MEASURES, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.gate.baseline import Baseline
    from harness.gate.samples import Sample
    from harness.manifest import Asked

ALPHA: Final = 0.01  # how often a comparison of all cells may flag anything where nothing changed
EFFECT: Final = 1.1  # times by which errors must have grown: less is no reason to hold a release
FLOOR: Final = 1e-3  # of a budget or an ulp: errors below it count as this, being nobody's concern
_NAMED: Final = 3  # checks of a side that share nothing with the other
ALL: Final = "all"  # the dtype of a row of all dtypes of a check that alone are too few


class NothingToCompare(ValueError):
    """A baseline that has nothing in common with the records; the message says what each has."""


@dataclass(frozen=True)
class Errors:
    """The errors of one side: how many cases, their median and the worst."""

    cases: int
    median: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How one check's errors moved: ``errors`` in budget units, or ``rms_errors`` in ulps.

    ``pairs`` counts cases that both sides have, 0 where they are not paired; ``moved`` those whose
    errors differ. ``ratio`` is the median growth of what moved. ``p`` is the probability of so much
    growth by chance, ``corrected`` the same for all rows at once; ``few`` says that no growth could
    have shown in it. ``dtypes`` are those that the row is of, where its ``dtype`` is ``all``.
    ``points`` are errors before and after, of the pairs. A benchmark's row
    (`harness.gate.slowdown`) has ratios for errors.
    """

    kernel: str
    arch: str
    layer: str
    check: str
    dtype: str
    measure: str
    before: Errors | None
    after: Errors | None
    pairs: int = 0
    moved: int = 0
    ratio: float = 1.0
    p: float = 1.0
    corrected: float = 1.0
    few: bool = False
    flagged: bool = False
    words: str = ""
    points: tuple[tuple[float, float], ...] = ()
    dtypes: tuple[str, ...] = ()

    @property
    def compared(self) -> bool:
        """Whether both sides have it."""
        return self.before is not None and self.after is not None


@dataclass(frozen=True)
class _Row:
    """A drift in the making: its test, and the logarithms of growth that it is of."""

    drift: Drift
    test: Significance
    growths: tuple[float, ...]  # of each pair; empty where nothing is paired
    since: str

    @property
    def group(self) -> tuple[str, ...]:
        """Rows that differ in dtype only."""
        drift = self.drift
        return drift.kernel, drift.arch, drift.layer, _test(drift), drift.measure


def _test(drift: Drift) -> str:
    """A check's name without the dtype that it was asked for."""
    return drift.check.removesuffix(f"[{drift.dtype}]")


def compare(baseline: Baseline, samples: Iterable[Sample]) -> tuple[Drift, ...]:
    """How the errors in ``samples`` moved since the baseline, flagged or not.

    There is a row for each check, dtype and measure that either side has errors of, on the archs
    that ``samples`` are of; and one of all dtypes of a check that alone are too few to tell.
    """
    before = {sample.key: sample for sample in baseline.samples}
    after = {sample.key: sample for sample in samples}
    archs = {key.arch for key in after}
    keys = dict.fromkeys([*after, *(key for key in before if key.arch in archs)])
    rows = [
        row
        for key in keys
        for measure in MEASURES
        for row in _rows(before.get(key), after.get(key), measure)
    ]
    rows += _pooled(rows)
    return tuple(_judged(rows, baseline.name))


def refuse_nothing(found: Iterable[Drift], baseline: Baseline, samples: Iterable[Sample]) -> None:
    """Raise NothingToCompare if no row has two sides: such a comparison would always be green."""
    if not any(drift.compared for drift in found):
        msg = (
            f"release {baseline.name!r} of the baseline and these records have errors of no check "
            f"in common: {_named(baseline.samples)} there, {_named(samples)} here; name a release "
            "of the same kernels and archs, or leave --baseline out"
        )
        raise NothingToCompare(msg)


def _named(samples: Iterable[Sample]) -> str:
    """The checks that have errors, the first of them by name."""
    names = [words_of(sample.key) for sample in samples if any(map(sample.errors, MEASURES))]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'; '.join(names[:_NAMED]) or 'none'}{more}"


def _rows(before: Sample | None, after: Sample | None, measure: str) -> Iterator[_Row]:
    """The row of one check in one measure; none where neither side has errors."""
    old = before.errors(measure) if before else {}
    new = after.errors(measure) if after else {}
    known = after or before
    if known is None or not (old or new):
        return
    drift = _blank(known.key, measure, errors_in(old.values()), errors_in(new.values()))
    if before is None or after is None or not (old and new):
        which = "the baseline has" if not old else "these records have"
        yield _Row(replace(drift, words=f"{which} no errors of it"), NOTHING, (), "")
        return
    since = _since(before, after)
    common = [key for key in old if key in new] if before.seed == after.seed else []
    if not common:
        yield _Row(drift, _unpaired(old.values(), new.values()), (), since)
        return
    points = tuple((old[key], new[key]) for key in common)
    growths = tuple(growth_of(*point) for point in points)
    drift = replace(drift, pairs=len(points), points=points, moved=sum(map(bool, growths)))
    yield _Row(drift, signed_rank(growths), growths, since)


def _blank(key: Asked, measure: str, before: Errors | None, after: Errors | None) -> Drift:
    return Drift(**key._asdict(), measure=measure, before=before, after=after)


def errors_in(values: Iterable[float]) -> Errors | None:
    """A side's errors in short; None without any."""
    found = list(values)
    return Errors(len(found), median(found), max(found)) if found else None


def growth_of(before: float, after: float) -> float:
    """The logarithm of how many times an error grew; 0 where it is the same or below the floor."""
    return math.log(max(after, FLOOR)) - math.log(max(before, FLOOR)) if before != after else 0.0


def _unpaired(before: Iterable[float], after: Iterable[float]) -> Significance:
    return rank_sum([max(e, FLOOR) for e in before], [max(e, FLOOR) for e in after])


def _since(before: Sample, after: Sample) -> str:
    """What else is not what it was, in words."""
    words = ["the kernel's source"] if before.source != after.source else []
    for old, new in ((before.versions, after.versions), (before.device, after.device)):
        names = sorted({*old, *new})
        words += [
            f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
            for name in names
            if old.get(name) != new.get(name)
        ]
    if before.seed != after.seed:
        words.append(f"seed {before.seed} -> {after.seed}")
    if before.cases != after.cases:
        words.append(f"{before.cases} -> {after.cases} cases")
    if before.verdict != after.verdict:
        words.append(f"{before.verdict} -> {after.verdict}")
    return f"changed since: {', '.join(words)}" if words else "nothing else changed"


def _pooled(rows: Sequence[_Row]) -> list[_Row]:
    """A row of the dtypes of each check of which one alone is too few to tell."""
    tells = telling([row.test.least for row in rows], ALPHA)
    groups: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row, tell in zip(rows, tells, strict=True):
        if row.drift.moved and not tell:
            groups[row.group].append(row)
    return [_pool(group) for group in groups.values() if len(group) > 1]


def _pool(rows: Sequence[_Row]) -> _Row:
    points = tuple(point for row in rows for point in row.drift.points)
    growths = tuple(growth for row in rows for growth in row.growths)
    drift = replace(
        rows[0].drift,
        check=_test(rows[0].drift),
        dtype=ALL,
        dtypes=tuple(row.drift.dtype for row in rows),
        before=errors_in(old for old, _ in points),
        after=errors_in(new for _, new in points),
        pairs=len(points),
        moved=sum(map(bool, growths)),
        points=points,
    )
    return _Row(drift, signed_rank(growths), growths, rows[0].since)


def _judged(rows: Sequence[_Row], release: str) -> Iterator[Drift]:
    """Every row with its probability, corrected for all that could show anything at all."""
    tells = telling([row.test.least for row in rows], ALPHA)
    family = [index for index, tell in enumerate(tells) if tell]
    corrected = dict(zip(family, holm([rows[i].test.p for i in family]), strict=True))
    for index, row in enumerate(rows):
        yield _finished(row, corrected.get(index), len(family), release)


def _finished(row: _Row, corrected: float | None, family: int, release: str) -> Drift:
    """The row as its reader gets it; ``corrected`` None means that it is too few to tell."""
    if row.drift.words:
        return row.drift
    ratio = _ratio(row)
    flagged = corrected is not None and corrected <= ALPHA and ratio >= EFFECT
    drift = replace(
        row.drift,
        ratio=ratio,
        p=row.test.p,
        corrected=1.0 if corrected is None else corrected,
        few=corrected is None and not (row.drift.pairs and not row.drift.moved),
        flagged=flagged,
    )
    words = [_movement(drift, release), *_verdict(row, drift, family), row.since]
    return replace(drift, words="; ".join(words))


def _ratio(row: _Row) -> float:
    """How many times what moved grew, in the median; of the medians where nothing is paired."""
    moved = [growth for growth in row.growths if growth]
    if moved:
        return math.exp(median(moved))
    before, after = row.drift.before, row.drift.after
    if row.growths or before is None or after is None:
        return 1.0
    return math.exp(growth_of(before.median, after.median))


def _movement(drift: Drift, release: str) -> str:
    before, after = drift.before, drift.after
    if before is None or after is None:
        return ""
    if drift.pairs and not drift.moved:
        return f"as in {release} in all {drift.pairs} pairs"
    name = {WORST: "errors", RMS: "rms errors"}[drift.measure]
    worst = f"the worst {before.worst:.3g} -> {after.worst:.3g} {MEASURES[drift.measure]}"
    how = f"{drift.ratio:.3g} x those of {release}"
    if not drift.pairs:
        return f"unpaired, since no case is in both: the median of {name} is {how}, {worst}"
    up = sum(old < new for old, new in drift.points)
    return (
        f"{name} are {how} in the median of the {drift.moved} of {drift.pairs} pairs that moved"
        f" ({up} up), {worst}"
    )


def _verdict(row: _Row, drift: Drift, family: int) -> Iterator[str]:
    """What the test says of it, where anything moved."""
    if drift.pairs and not drift.moved:
        return
    if drift.few:
        yield f"too few to tell ({row.test.moved}; p cannot get below {row.test.least:.2g})"
    elif drift.flagged:
        yield f"worse beyond chance: p = {drift.p:.2g}, {drift.corrected:.2g} over {family} rows"
    elif drift.corrected <= ALPHA:
        yield f"beyond chance (p = {drift.p:.2g}), but below {EFFECT:g} x"
    else:
        yield f"may be chance (p = {drift.p:.2g} over {family} rows)"
