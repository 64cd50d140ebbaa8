"""What is kept of a record to compare it with another: the check, its errors, what it ran on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness.case_errors import RMS, WORST, InvalidErrors, errors_of, key_of
from harness.cells import Verdict
from harness.manifest import Asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.record import Record

MEASURES: Final = {WORST: "of the budget", RMS: "ulp"}  # with their units


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One record's share of a comparison; ``worst`` and ``rms`` are errors by key of case.

    ``cases`` counts what the check generated, ``case`` is the id of the worst or failing one.
    """

    key: Asked
    verdict: str
    evidence: str = ""
    seed: int = 0
    cases: int = 0
    case: str = ""
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    rms: Mapping[str, float] = field(default_factory=dict)

    def errors(self, measure: str) -> Mapping[str, float]:
        """The errors in one of ``MEASURES``, of every case that was compared."""
        if measure == WORST or not self.rms:
            return self.worst if measure == WORST else {}
        return {key: self.rms.get(key, 0.0) for key in self.worst}

    def name_of(self, key: str) -> str:
        """A case by its id where the record has it, else by its key."""
        return self.case if key_of(self.case) == key else key


def words_of(key: Asked) -> str:
    """A check of a cell in one line."""
    return f"{key.kernel}-{key.arch}-{key.layer}, {key.check}"


def sample_of(record: Record) -> Sample:
    """What a comparison needs of a record; raises InvalidErrors naming its check."""
    key = Asked(record.kernel, record.arch, record.layer, record.check, record.dtype)
    try:
        worst, rms = (errors_of(record.figures, measure) for measure in (WORST, RMS))
    except InvalidErrors as error:
        msg = f"{words_of(key)}: {error}; see docs/records.md"
        raise InvalidErrors(msg) from error
    return Sample(
        key=key,
        verdict=record.verdict,
        evidence=record.evidence,
        seed=record.seed,
        cases=record.cases,
        case=record.case,
        source=record.source,
        versions=record.versions,
        device=record.device,
        worst=worst,
        rms=rms,
    )


def samples_of(records: Iterable[Record]) -> tuple[Sample, ...]:
    """What comparisons need of records, one of a check: of several the first that failed, or ran.

    What was skipped says nothing and is left out.
    """
    found: dict[Asked, Sample] = {}
    for record in records:
        if record.verdict == Verdict.SKIPPED:
            continue
        sample = sample_of(record)
        first = found.setdefault(sample.key, sample)
        if sample.verdict == Verdict.FAILED != first.verdict:
            found[sample.key] = sample
    return tuple(found.values())
