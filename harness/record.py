"""Records: one line of JSON for one check of a cell, with all that is needed to judge it later.

The schema is documented in docs/records.md; ``SCHEMA`` changes whenever a field does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import TYPE_CHECKING, Final

from harness import __version__, documents
from harness.cells import Cell, Evidence, Layer, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = 2  # of records and of manifests
AGAIN: Final = "make the records again"


class InvalidRecord(ValueError):
    """A line that is no record, or of another schema; the message names file, line and field."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one check of one cell.

    ``outcome`` says how the verdict came about; ``run`` is the id in the run's manifest;
    ``started`` is in UTC, ISO 8601; ``backend`` is what the kernel declares, ``launched`` what was
    seen of it, each as ``backend:module.name``.
    """

    kernel: str
    arch: str
    layer: str
    check: str
    verdict: str
    outcome: str
    evidence: str
    dtype: str = ""
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
        """One line of JSON, keys sorted, no newline."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)


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
    "seed": int,
    "schema": int,
    "seconds": (int, float),
}


def _check(record: Record, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        if not isinstance(value, _KINDS.get(name, str)):
            msg = f"{name}={value!r} is a {type(value).__name__}"
            raise TypeError(msg)
    Layer(record.layer), Evidence(record.evidence)
    if Verdict(record.verdict) is Verdict.UNCOVERED:
        msg = "verdict='uncovered' is what a cell without records has; no check writes it"
        raise ValueError(msg)
    if Outcome(record.outcome).verdict != record.verdict:
        msg = f"outcome={record.outcome!r} is none of verdict={record.verdict!r}"
        raise ValueError(msg)


_NAMES: Final = tuple(sorted(each.name for each in fields(Record)))
_TYPES: Final = tuple(
    tuple(seconds if name == "seconds" else _KINDS.get(name, str) for name in _NAMES)
    for seconds in (float, int)
)
_VERDICTS: Final = {str(outcome): str(outcome.verdict) for outcome in Outcome}
_LAYERS: Final = frozenset(map(str, Layer))
_EVIDENCES: Final = frozenset(map(str, Evidence))
# Fields that nearly all records of a run have in common, and what follows each in `to_json`.
_COMMON: Final = {"versions": "worker", "device": "dtype"}


def read_all(path: Path) -> tuple[tuple[Record, ...], bool]:
    """All records of a file, made for 100,000 lines, and whether its last line is half written.

    What is said of ``read`` holds, but for a last line without its end, which a killed run leaves.
    """
    text = path.read_bytes().decode("utf-8", "backslashreplace")
    whole, _, last = text.rpartition("\n")
    found = tuple(_from_text(whole, path)) if whole or last != text else ()
    try:
        rest = (from_json(last, where=f"{path}:{len(found) + 1}"),) if last else ()
    except InvalidRecord:
        return found, True
    return (*found, *rest), False


def _from_text(text: str, path: Path) -> Iterator[Record]:
    """The records of a text, a line each: parsed as one array, which takes half the time."""
    common = {name: found for name in _COMMON if (found := _common(text, name))}
    short = text
    for name, (said, _) in common.items():
        short = short.replace(said, f'"{name}": 0, "{_COMMON[name]}"')
    try:
        parsed = json.loads("[{}]".format(short.replace("\n", ",")))
    except json.JSONDecodeError:
        parsed = []
    if len(parsed) != text.count("\n") + 1:  # one by one, to find the line that is wrong
        parsed = text.split("\n")
    values = {name: value for name, (_, value) in common.items()}
    lines: list[str] = []
    for number, each in enumerate(parsed):
        record = _known(each, values)
        if record is None:  # another hand wrote it, or something is wrong with it
            lines = lines or text.split("\n")
            record = from_json(lines[number], where=f"{path}:{number + 1}")
        yield record


def _common(text: str, name: str) -> tuple[str, object] | None:
    """How the text says a field first, with what follows, and its value.

    It cannot stand within a string, where its quotes would be escaped.
    """
    start = text.find(f'"{name}": {{"')
    said = text[start : text.find("}", start) + 1] if start >= 0 else ""
    try:
        return f'{said}, "{_COMMON[name]}"', json.loads(f"{{{said}}}")[name]
    except (json.JSONDecodeError, KeyError):
        return None


def _known(values: object, common: Mapping[str, object]) -> Record | None:
    """The record of values that look as ``to_json`` writes them; made without its constructor."""
    if type(values) is not dict or tuple(values) != _NAMES:
        return None
    for name, value in common.items():
        if values[name] == 0:
            values[name] = value
    if (
        tuple(map(type, values.values())) not in _TYPES
        or values["schema"] != SCHEMA
        or _VERDICTS.get(values["outcome"]) != values["verdict"]
        or values["layer"] not in _LAYERS
        or values["evidence"] not in _EVIDENCES
    ):
        return None
    record = object.__new__(Record)
    object.__setattr__(record, "__dict__", values)
    return record


def read(path: Path) -> Iterator[Record]:
    """All records of a file; raises InvalidRecord for a broken line, OSError without the file."""
    with path.open(encoding="utf-8", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, 1):
            yield from_json(line, where=f"{path}:{number}")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, without importing any of it."""
    found = {"kernel-parity": __version__}
    for name in ("torch", "triton", "cuda-core", "nvidia-cutlass-dsl", "hypothesis"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
