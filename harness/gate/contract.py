"""The contract: what gates a release, what is retained without gating, which failures are known.

It is the table ``[tool.kernel-parity.gate]`` of a TOML file; docs/release-gates.md documents it.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import reprlib
import tomllib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from harness.cells import Evidence, Layer
from harness.gate.holes import EXCEPTIONS, FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

TABLE: Final = "tool.kernel-parity.gate"
GATING: Final = "gating"
RETAINED: Final = "retained"
GATE: Final = "gate"  # what drift may do: turn the gate red, or be reported only
REPORT: Final = "report"
_PATTERN: Final = ("kernel", "arch", "layer", "dtype", "check")
_REASONS: Final = ("because", "reference", "expires")
_KEYS: Final = {
    "rules": ("policy", *_PATTERN, "evidence", "cases", *_REASONS),
    "exceptions": (*_PATTERN, "holes", *_REASONS),
    "known-failures": (*_PATTERN, *_REASONS),
}
_HEADER: Final = re.compile(r"^\s*\[", re.MULTILINE)  # of a table; values have their key before it
_REFERENCE: Final = re.compile(r"#\d+|://\S|\b[A-Z][A-Z0-9]*-\d+")


class InvalidContract(ValueError):
    """A contract with a mistake; the message names the key, where it stands, the nearest known."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which checks an entry is about: patterns of names, of which one has to match in each."""

    kernel: tuple[str, ...] = ("*",)
    arch: tuple[str, ...] = ("*",)
    layer: tuple[str, ...] = ("*",)
    dtype: tuple[str, ...] = ("*",)
    check: tuple[str, ...] = ("*",)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is asked of the checks that match; of several rules the last that says it decides."""

    pattern: Pattern
    where: str  # file and line, for messages
    gating: bool | None = None
    evidence: str | None = None
    cases: int | None = None
    because: str = ""
    reference: str = ""
    expires: dt.date | None = None


@dataclass(frozen=True, kw_only=True)
class Excuse:
    """An exception for holes of some kinds, or a known failure; either has a reference."""

    pattern: Pattern
    where: str
    holes: frozenset[str]
    because: str
    reference: str
    expires: dt.date | None = None


@dataclass(frozen=True)
class Contract:
    """Rules in order, exceptions, known failures; what no rule is about gates.

    ``drift`` is ``gate`` or ``report``: whether errors that grew since a baseline are red.
    """

    rules: tuple[Rule, ...] = ()
    exceptions: tuple[Excuse, ...] = ()
    known_failures: tuple[Excuse, ...] = ()
    drift: str = GATE

    @property
    def entries(self) -> tuple[Rule | Excuse, ...]:
        """All that is about some kernels."""
        return (*self.rules, *self.exceptions, *self.known_failures)


def nearest(word: str, known: Iterable[str]) -> str:
    """``nearest: 'kernel'; known: arch, ...``, for the end of a message."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    said = f"nearest: {near[0]!r}; " if near else ""
    return f"{said}known: {', '.join(names) or 'none'}"


def read(path: Path) -> Contract:
    """The contract in a TOML file; raises InvalidContract, or OSError without the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{path}: no TOML, which is text in UTF-8: {error}; save it as such"
        raise InvalidContract(msg) from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str) -> Contract:
    """The contract in ``text``; raises InvalidContract, saying ``where`` it stands."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter of "a = [[[[..."
        msg = f"{where}: no TOML: {error}"
        raise InvalidContract(msg) from error
    table = _table(found, where)
    entries = {
        name: [_Entry(name, *each, text=text, file=where) for each in _list(table, name, where)]
        for name in _KEYS
    }
    return Contract(
        tuple(map(_rule, entries["rules"])),
        tuple(map(_exception, entries["exceptions"])),
        tuple(map(_known_failure, entries["known-failures"])),
        _drift(table, where),
    )


def _table(found: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    *outer, name = TABLE.split(".")
    for part in outer:
        found = _inner(found, part, where)
    if name not in found:
        near = f"; {nearest(name, found)}" if found else ""
        msg = f"{where}: there is no table [{TABLE}], the contract{near}; see docs/release-gates.md"
        raise InvalidContract(msg)
    table = _inner(found, name, where)
    for key in table:
        if key not in {*_KEYS, "drift"}:
            msg = f"{where}: [{TABLE}]: {key!r} is unknown; {nearest(key, {*_KEYS, 'drift'})}"
            raise InvalidContract(msg)
    return table


def _inner(found: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    inner = found.get(name, {})
    if not isinstance(inner, dict):
        msg = f"{where}: {name}={reprlib.repr(inner)} is no table; write [{TABLE}], in one pair of"
        msg += " brackets, for the contract"
        raise InvalidContract(msg)
    return inner


def _drift(table: Mapping[str, Any], where: str) -> str:
    value = table.get("drift", GATE)
    if value not in (GATE, REPORT):
        msg = (
            f"{where}: [{TABLE}]: drift={value!r} is unknown; {nearest(str(value), (GATE, REPORT))}"
        )
        raise InvalidContract(msg)
    return str(value)


def _list(table: Mapping[str, Any], name: str, where: str) -> list[tuple[int, Mapping[str, Any]]]:
    entries = table.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        msg = f"{where}: {TABLE}.{name} is no array of tables; begin each with [[{TABLE}.{name}]]"
        raise InvalidContract(msg)
    return list(enumerate(entries))


@dataclass(frozen=True)
class _Entry:
    """One table of an array, that knows its place in the file."""

    name: str
    index: int
    values: Mapping[str, Any]
    text: str
    file: str

    def __post_init__(self) -> None:
        for key in self.values:
            if key not in _KEYS[self.name]:
                self.refuse(key, f"{key!r} is unknown; {nearest(key, _KEYS[self.name])}")

    def place(self, key: str = "") -> str:
        """``pyproject.toml:12``: the line of the key, or of the table."""
        header = rf"^\s*\[\[\s*{re.escape(TABLE)}\.[\"']?{self.name}[\"']?\s*\]\]"
        starts = [found.end() for found in re.finditer(header, self.text, re.MULTILINE)]
        if self.index >= len(starts):  # written inline
            return f"{self.file}: {TABLE}.{self.name}[{self.index}]"
        start = starts[self.index]
        following = _HEADER.search(self.text, start)
        end = following.start() if following else len(self.text)
        assignment = re.compile(rf"^\s*[\"']?{re.escape(key)}[\"']?\s*=", re.MULTILINE)
        at = assignment.search(self.text, start, end)
        offset = at.end() if key and at else start
        return f"{self.file}:{self.text.count(chr(10), 0, offset) + 1}"

    def refuse(self, key: str, words: str) -> NoReturn:
        """Raise InvalidContract about ``key``."""
        msg = f"{self.place(key)}: [[{TABLE}.{self.name}]] no. {self.index + 1}: {words}"
        raise InvalidContract(msg)

    def words(self, key: str) -> tuple[str, ...]:
        """One or several patterns; ``*`` where the key is absent."""
        value = self.values.get(key, "*")
        found = (value,) if isinstance(value, str) else value
        if (
            not isinstance(found, (list, tuple))
            or not found
            or not all(isinstance(word, str) and word for word in found)
        ):
            self.refuse(key, f"{key}={value!r} is neither a pattern nor a list of them")
        return tuple(found)

    def one_of(self, key: str, known: Sequence[str]) -> str | None:
        """A word of ``known``, or None where the key is absent."""
        value = self.values.get(key)
        if value is not None and value not in known:
            self.refuse(key, f"{key}={value!r} is unknown; {nearest(str(value), known)}")
        return value

    def reasons(self, *, asked: str) -> dict[str, Any]:
        """Why, the issue, until when; ``asked`` says what needs the first two, if anything does."""
        because, reference = (self.values.get(key, "") for key in ("because", "reference"))
        for key, value in (("because", because), ("reference", reference)):
            if not isinstance(value, str) or (asked and not value.strip()):
                self.refuse(key, f"{key}={value!r}: {asked or 'this'} needs words; give {key}=...")
        if reference and not _REFERENCE.search(reference):
            self.refuse("reference", f"reference={reference!r} names no issue; e.g. '#12', a URL")
        expires = self.values.get("expires")
        if expires is not None and type(expires) is not dt.date:
            self.refuse("expires", f"expires={expires!r} is no date; write 2027-01-31, no quotes")
        return {"because": because, "reference": reference, "expires": expires}


def _pattern(entry: _Entry) -> Pattern:
    for word in entry.words("layer"):
        if not set(word) & set("*?[") and word not in list(Layer):
            entry.refuse("layer", f"layer={word!r} is unknown; {nearest(word, Layer)}")
    return Pattern(**{key: entry.words(key) for key in _PATTERN})


def _rule(entry: _Entry) -> Rule:
    policy = entry.one_of("policy", (GATING, RETAINED))
    cases = entry.values.get("cases")
    if cases is not None and (type(cases) is not int or cases < 1):
        entry.refuse("cases", f"cases={cases!r} is not a whole number of at least 1")
    return Rule(
        pattern=_pattern(entry),
        where=entry.place(),
        gating=None if policy is None else policy == GATING,
        evidence=entry.one_of("evidence", [word for word in Evidence if word is not Evidence.NONE]),
        cases=cases,
        **entry.reasons(asked="what is retained" if policy == RETAINED else ""),
    )


def _excuse(entry: _Entry, holes: Iterable[str], asked: str) -> Excuse:
    if "kernel" not in entry.values:
        entry.refuse("kernel", f"{asked} names its kernel; give kernel=...")
    return Excuse(
        pattern=_pattern(entry),
        where=entry.place(),
        holes=frozenset(holes),
        **entry.reasons(asked=asked),
    )


def _exception(entry: _Entry) -> Excuse:
    if "holes" not in entry.values:
        entry.refuse("holes", f"holes is missing; known: {', '.join(EXCEPTIONS)}")
    holes = entry.words("holes")
    for hole in holes:
        if hole not in EXCEPTIONS:
            hint = "; a failure is a [[known-failures]]" if hole in FAILURES else ""
            entry.refuse("holes", f"{hole!r} cannot be excused; {nearest(hole, EXCEPTIONS)}{hint}")
    return _excuse(entry, holes, "an exception")


_known_failure: Callable[[_Entry], Excuse] = partial(
    _excuse, holes=FAILURES, asked="a known failure"
)
