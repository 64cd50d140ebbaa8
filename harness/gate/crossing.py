"""Across archs: the same seed on another arch, and where its verdicts or errors are others.

GPUs of every arch meet the same cases of a seed. That their errors differ is no fault in itself:
tensor cores of another generation add in another way. So nothing here turns a gate red; it names
where to look.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.arch import ARCHES, CPU
from harness.gate.drift import ALPHA, EFFECT, Errors, errors_in, growth_of
from harness.gate.ranks import NOTHING, Significance, holm, signed_rank
from harness.gate.samples import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.gate.samples import Sample

NAMED: Final = 3  # cases that a row names, those that differ most
APART: Final = 1.5  # times by which a case's errors differ that is worth a name


class CaseApart(NamedTuple):
    """A case on which two archs err differently; by its id where a record has it, or its key."""

    case: str
    here: float
    there: float


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One check on two archs: both verdicts, both sides' errors, and the cases furthest apart.

    ``ratio`` is the median of the second arch's errors over the first's, of the ``moved`` pairs
    that differ. ``differs`` says that the verdicts do, or the errors beyond chance and 1.1 x.
    """

    kernel: str
    layer: str
    check: str
    dtype: str
    measure: str
    archs: tuple[str, str]
    verdicts: tuple[str, str]
    errors: tuple[Errors | None, Errors | None]
    pairs: int
    moved: int
    ratio: float
    p: float
    corrected: float
    differs: bool
    cases: tuple[CaseApart, ...]
    words: str


@dataclass(frozen=True)
class _Pair:
    """Two samples of one check on two archs, in one measure."""

    here: Sample
    there: Sample
    measure: str

    @property
    def points(self) -> Mapping[str, tuple[float, float]]:
        """Both errors by key of case; empty unless both are of one seed."""
        if self.here.seed != self.there.seed:
            return {}
        old, new = self.here.errors(self.measure), self.there.errors(self.measure)
        return {key: (old[key], new[key]) for key in old if key in new}

    @property
    def growths(self) -> list[float]:
        """Logarithms of the second error over the first."""
        return [growth_of(*point) for point in self.points.values()]


def across(samples: Iterable[Sample]) -> tuple[Crossing, ...]:
    """Each check on the first of its archs beside each other one.

    A row has errors of both, or verdicts that differ. Archs are in the order of `harness.arch`,
    the CPU last: its cases are smaller, so that only verdicts can be compared.
    """
    groups: dict[tuple[str, ...], dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        kernel, arch, *rest = sample.key
        groups[kernel, *rest][arch] = sample
    pairs = [pair for group in groups.values() for pair in _pairs(group)]
    tests = [_two_sided(pair.growths) for pair in pairs]
    corrected = holm([test.p for test in tests])
    return tuple(map(_crossing, pairs, tests, corrected))


def _pairs(group: Mapping[str, Sample]) -> Iterator[_Pair]:
    order = {arch: place for place, arch in enumerate((*ARCHES, CPU))}
    first, *others = sorted(group, key=lambda arch: order.get(arch, len(order)))
    for other in others:
        here, there = group[first], group[other]
        found = [_Pair(here, there, measure) for measure in MEASURES]
        compared = [pair for pair in found if pair.points]
        yield from compared or ([] if here.verdict == there.verdict else found[:1])


def _two_sided(growths: Sequence[float]) -> Significance:
    up, down = signed_rank(growths), signed_rank([-growth for growth in growths])
    return (
        Significance(min(1.0, 2 * min(up.p, down.p)), up.least, up.moved) if up.moved else NOTHING
    )


def _crossing(pair: _Pair, test: Significance, corrected: float) -> Crossing:
    here, there = pair.here, pair.there
    moved = [growth for growth in pair.growths if growth]
    ratio = math.exp(median(moved)) if moved else 1.0
    apart = corrected <= ALPHA and max(ratio, 1 / ratio) >= EFFECT
    cases = tuple(_apart(pair))
    kernel, _, layer, check, dtype = here.key
    sides = [errors_in(sample.errors(pair.measure).values()) for sample in (here, there)]
    return Crossing(
        kernel=kernel,
        layer=layer,
        check=check,
        dtype=dtype,
        measure=pair.measure,
        archs=(here.key.arch, there.key.arch),
        verdicts=(here.verdict, there.verdict),
        errors=(sides[0], sides[1]),
        pairs=len(pair.points),
        moved=test.moved,
        ratio=ratio,
        p=test.p,
        corrected=corrected,
        differs=apart or here.verdict != there.verdict,
        cases=cases,
        words="; ".join(_words(pair, ratio, test, apart=apart, cases=cases)),
    )


def _apart(pair: _Pair) -> Iterator[CaseApart]:
    """The cases that differ most, the furthest first."""
    far = {key: abs(growth_of(*point)) for key, point in pair.points.items()}
    for key in sorted(far, key=lambda key: (-far[key], key))[:NAMED]:
        if far[key] >= math.log(APART):
            name = pair.there.name_of(key)
            yield CaseApart(pair.here.name_of(key) if name == key else name, *pair.points[key])


def _words(
    pair: _Pair, ratio: float, test: Significance, *, apart: bool, cases: Sequence[CaseApart]
) -> Iterator[str]:
    here, there = pair.here, pair.there
    if here.verdict != there.verdict:
        failed = there if there.verdict == "failed" else here
        of = f", by {failed.case}" if failed.case else ""
        yield f"{here.verdict} on {here.key.arch}, {there.verdict} on {there.key.arch}{of}"
    if here.seed != there.seed:
        yield f"errors are not compared: seed {here.seed} there, {there.seed} here"
    elif pair.points and not test.moved:
        yield f"equal in all {len(pair.points)} cases"
    elif pair.points:
        chance = "beyond chance" if apart else "which may be chance, or little"
        yield (
            f"{there.key.arch} errs {ratio:.3g} x as much as {here.key.arch} in the median of "
            f"{test.moved} of {len(pair.points)} cases that differ, {chance} (p = {test.p:.2g})"
        )
    for case in cases:
        unit = MEASURES[pair.measure]
        yield f"case {case.case}: {case.here:.3g} and {case.there:.3g} {unit}"
