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
_FIGURES: Final = FIGURES.encode()
_FIELDS: Final = len(fields(Record))


class Unread(Mapping[str, object]):
    """The figures on a line, parsed when one is first asked for: most never are."""

    __slots__ = ("_content", "_end", "_found", "_start")

    def __init__(self, content: bytes, start: int, end: int) -> None:
        self._content, self._start, self._end = content, start, end

    def _read(self) -> dict[str, object]:
        if not hasattr(self, "_found"):
            text = self._content[self._start : self._end].decode()
            self._found: dict[str, object] = documents.DECODER.decode(text)
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
    heads, figures = _split(content)
    text = b"}, ".join(heads)
    common = {name: found for name in _COMMON if (found := _common(text, name))}
    for name, (said, _) in common.items():
        text = text.replace(said, b'"%s": 0, "%s"' % (name.encode(), _COMMON[name].encode()))
    values = {name: value for name, (_, value) in common.items()}
    parsed = documents.DECODER.decode(f"[{text.decode()}}}]" if heads else "[]")
    if not {_FIELDS - 1}.issuperset(map(len, parsed)):  # figures are added
        msg = f"a record has not the {_FIELDS} fields of docs/records.md"
        raise ValueError(msg)
    return tuple(_record(each, rest, values) for each, rest in zip(parsed, figures, strict=True))


def _split(content: bytes) -> tuple[list[bytes], list[Unread]]:
    """Each line up to its figures, and these."""
    heads, figures = list[bytes](), list[Unread]()
    start = 0
    while (cut := content.find(_FIGURES, start)) >= 0:
        end = content.index(b"}\n", cut)
        heads.append(content[start:cut])
        figures.append(Unread(content, cut + len(_FIGURES), end))
        start = end + 2
    if start != len(content):
        msg = f"line {len(heads) + 1} has no figures, or no end"
        raise ValueError(msg)
    return heads, figures


def _common(text: bytes, name: str) -> tuple[bytes, object] | None:
    """How the text says a field first, with what follows, and its value.

    It cannot stand within a string, where its quotes would be escaped.
    """
    start = text.find(b'"%s": {"' % name.encode())
    said = text[start : text.find(b"}", start) + 1] if start >= 0 else b""
    try:
        return b'%s, "%s"' % (said, _COMMON[name].encode()), json.loads(b"{%s}" % said)[name]
    except (json.JSONDecodeError, KeyError):
        return None


def _record(values: dict[str, object], figures: Unread, common: Mapping[str, object]) -> Record:
    """The record of these values, made without its constructor."""
    for name in common:
        if values[name] == 0:
            values[name] = common[name]
    values["figures"] = figures
    record = _new(Record)
    _set(record, "__dict__", values)
    return record


_new, _set = object.__new__, object.__setattr__
