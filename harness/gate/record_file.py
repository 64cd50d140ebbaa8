"""The records of a file, made for 100,000 of them: what its manifest vouches for is not checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from harness import documents
from harness.record import FIGURES, InvalidRecord, Record, from_json

if TYPE_CHECKING:
    from pathlib import Path

# Fields that nearly all records of a run have in common, and what follows each in `to_json`.
_COMMON: Final = {"versions": "worker", "device": "dtype"}

_FIELDS: Final = len(fields(Record))


class Unread(Mapping[str, object]):
    """The figures on a line, parsed when one is first asked for: most never are."""

    __slots__ = ("_found", "_line")

    def __init__(self, line: str) -> None:
        self._line = line

    def _read(self) -> dict[str, object]:
        if not hasattr(self, "_found"):
            text = self._line.partition(FIGURES)[2]
            self._found: dict[str, object] = documents.DECODER.decode(text[:-1])
        return self._found

    def __getitem__(self, name: str) -> object:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def checked(content: bytes, path: Path) -> tuple[Record, ...]:
    """All records, each of them checked, without a last line that a killed run left half written.

    Raises InvalidRecord for any other line that is broken.
    """
    whole, end, last = content.decode("utf-8", "backslashreplace").rpartition("\n")
    lines = whole.split("\n") if end else []
    found = [from_json(line, where=f"{path}:{n}") for n, line in enumerate(lines, 1)]
    with suppress(InvalidRecord):
        found.append(from_json(last))
    return tuple(found)


def vouched_for(content: bytes, path: Path) -> tuple[Record, ...]:
    """All records of a file that is as its run left it: parsed at once, but for their figures.

    Raises InvalidRecord, naming the file and no line, where that cannot be done after all.
    """
    try:
        return _at_once(content)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        msg = (
            f"{path}: these are no records, though the manifest beside it has their digest: "
            f"{type(error).__name__}: {error}; make them again"
        )
        raise InvalidRecord(msg) from error


def _at_once(content: bytes) -> tuple[Record, ...]:
    lines = content.decode().split("\n")[:-1]
    text = "}, ".join([line[: line.find(FIGURES)] for line in lines])
    common = {name: found for name in _COMMON if (found := _common(text, name))}
    for name, (said, _) in common.items():
        text = text.replace(said, f'"{name}": 0, "{_COMMON[name]}"')
    values = {name: value for name, (_, value) in common.items()}
    parsed = documents.DECODER.decode(f"[{text}}}]" if lines else "[]")
    if not {_FIELDS - 1}.issuperset(map(len, parsed)):  # figures are added
        msg = f"a record has not the {_FIELDS} fields of docs/records.md"
        raise ValueError(msg)
    return tuple(_record(each, line, values) for each, line in zip(parsed, lines, strict=True))


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


def _record(values: dict[str, object], line: str, common: Mapping[str, object]) -> Record:
    """The record of these values, made without its constructor."""
    for name in common:
        if values[name] == 0:
            values[name] = common[name]
    values["figures"] = Unread(line)
    record = _new(Record)
    _set(record, "__dict__", values)
    return record


_new, _set = object.__new__, object.__setattr__
