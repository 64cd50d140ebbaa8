"""Records: one line of JSON for one check of a cell, with all that is needed to judge it later.

The schema is documented in docs/records.md; ``SCHEMA`` changes whenever a field does.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from harness import __version__, documents
from harness.cells import Cell, Evidence, Layer, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = 3  # of records and of manifests
AGAIN: Final = "make the records again"
_LONGEST: Final = 1e9  # seconds that a check may take: 30 years, so that sums of them are numbers
FIGURES: Final = ', "figures": '  # what stands between the other fields of a line and the figures


class InvalidRecord(ValueError):
    """A line that is no record, or of another schema; the message names file, line and field."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one check of one cell.

    ``outcome`` says how the verdict came about; of ``cases``, ``unfair`` ones were not held against
    the kernel; ``run`` is the id in the run's manifest; ``started`` is in UTC, ISO 8601;
    ``backend`` is what the kernel declares, ``launched`` what was seen of it, each as
    ``backend:module.name``; ``figures`` are details, which no verdict needs.
    """

    kernel: str
    arch: str
    layer: str
    check: str
    verdict: str
    outcome: str
    evidence: str
    dtype: str = ""
    cases: int = 0
    unfair: int = 0
    figures: Mapping[str, object] = field(default_factory=dict)
    case: str = ""
    message: str = ""
    seed: int = 0
    run: str = ""
    worker: str = ""
    started: str = ""
    backend: str = ""
    launched: Sequence[str] = field(default_factory=list)
    source: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    schema: int = SCHEMA

    @property
    def cell(self) -> Cell:
        """The cell that was checked."""
        return Cell(self.kernel, self.arch, Layer(self.layer))

    def to_json(self) -> str:
        """One line of JSON, no newline: keys sorted, but the figures last, as they are long."""
        values = asdict(self)
        figures = _json(values.pop("figures"))
        return f"{_json(values)[:-1]}{FIGURES}{figures}}}"


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, sort_keys=True, allow_nan=False)


def from_json(line: str, *, where: str = "record") -> Record:
    """The record on ``line``; raises InvalidRecord, saying ``where`` it stands."""
    fields = documents.parsed(line, where=where, schema=SCHEMA, invalid=InvalidRecord, again=AGAIN)
    try:
        record = Record(**fields)
        _check(record, fields)
    except (TypeError, ValueError) as error:
        msg = f"{where}: {error}; see docs/records.md for the fields"
        raise InvalidRecord(msg) from error
    return record


_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "figures": dict,
    "versions": dict,
    "device": dict,
    "launched": list,
    "cases": int,
    "unfair": int,
    "seed": int,
    "schema": int,
    "seconds": (int, float),
}


def _check(record: Record, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        if not isinstance(value, _KINDS.get(name, str)):
            msg = f"{name}={reprlib.repr(value)} is a {type(value).__name__}"
            raise TypeError(msg)
    _check_words(record)
    Layer(record.layer), Evidence(record.evidence)
    if Verdict(record.verdict) is Verdict.UNCOVERED:
        msg = "verdict='uncovered' is what a cell without records has; no check writes it"
        raise ValueError(msg)
    if Outcome(record.outcome).verdict != record.verdict:
        msg = f"outcome={record.outcome!r} is none of verdict={record.verdict!r}"
        raise ValueError(msg)
    if not 0 <= record.unfair <= record.cases:
        msg = f"unfair={record.unfair} is not between 0 and cases={record.cases}"
        raise ValueError(msg)
    if not 0 <= record.seconds <= _LONGEST:
        msg = f"seconds={reprlib.repr(record.seconds)} is not between 0 and {_LONGEST:.0g}"
        raise ValueError(msg)


def _check_words(record: Record) -> None:
    words = {"launched": record.launched}
    words |= {name: getattr(record, name).values() for name in ("versions", "device")}
    for name, found in words.items():
        if not documents.all_words(found):
            msg = f"{name}={reprlib.repr(getattr(record, name))} holds what is no string"
            raise TypeError(msg)


def read(path: Path) -> Iterator[Record]:
    """All records of a file; raises InvalidRecord for a broken line, OSError without the file."""
    with path.open(encoding="utf-8", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, 1):
            yield from_json(line, where=f"{path}:{number}")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, without importing any of it."""
    from importlib import metadata

    found = {"kernel-parity": __version__}
    for name in ("torch", "triton", "cuda-core", "nvidia-cutlass-dsl", "hypothesis"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
