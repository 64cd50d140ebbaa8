"""Rows of a baseline's tables, and what they are of; a row of the wrong kinds is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from harness.case_errors import RMS, WORST, errors_of
from harness.gate.ratios import Ratio
from harness.gate.samples import Sample
from harness.manifest import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Of the columns in their order: SQLite itself lets a column hold anything.
_OF_RECORD: Final = (*(str,) * 8, int, int, *(str,) * 6)
_OF_RATIO: Final = (str, str, float, str, float, str, str, str)


def row_of_sample(release: str, sample: Sample) -> tuple[object, ...]:
    """The row of the table ``records``."""
    figures = (sample.versions, sample.device, sample.worst, sample.rms)
    return (
        *(release, *sample.key, sample.verdict, sample.evidence, sample.seed, sample.cases),
        *(sample.case, sample.source, *map(_text, figures)),
    )


def row_of_ratio(release: str, r: Ratio) -> tuple[object, ...]:
    """The row of the table ``ratios``."""
    values = (r.name, r.ratio, r.unit, r.spread, r.better, r.device)
    return (release, *values, _text(r.environment))


def _text(values: object) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sample_of_row(row: Sequence[Any]) -> Sample:
    """What a row of ``records`` is of; raises ValueError or TypeError for one of other kinds."""
    _check(row, _OF_RECORD)
    _, kernel, arch, layer, check, dtype, verdict, evidence, seed, cases, case, source = row[:12]
    versions, device, worst, rms = row[12:]
    figures = {WORST: json.loads(worst), RMS: json.loads(rms)}
    return Sample(
        key=Asked(kernel, arch, layer, check, dtype),
        verdict=verdict,
        evidence=evidence,
        seed=seed,
        cases=cases,
        case=case,
        source=source,
        versions=_words(versions),
        device=_words(device),
        worst=errors_of(figures, WORST),
        rms=errors_of(figures, RMS),
    )


def ratio_of_row(row: Sequence[Any]) -> Ratio:
    """What a row of ``ratios`` is of; raises ValueError or TypeError for one of other kinds."""
    _check(row, _OF_RATIO)
    _, name, ratio, unit, spread, better, device, environment = row
    return Ratio(
        name=name,
        ratio=ratio,
        unit=unit,
        spread=spread,
        better=better,
        device=device,
        environment=_words(environment),
    )


def _check(row: Sequence[object], kinds: Sequence[type]) -> None:
    for place, (value, kind) in enumerate(zip(row, kinds, strict=True), 1):
        if not isinstance(value, kind):
            msg = f"column {place} of a row is {value!r}, where a {kind.__name__} is needed"
            raise TypeError(msg)


def _words(text: str) -> Mapping[str, str]:
    """Names with words, from JSON."""
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
        msg = f"{text!r} in a row maps no names to words"
        raise TypeError(msg)
    return found
