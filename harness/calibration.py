"""The budget's constants by arch and accumulation mode, each with the measurement behind it.

``calibration.json`` holds one entry per arch and mode, written by ``python -m suites.calibrate``.
An arch without an entry gets the constants of the nearest one that has it, and says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from harness.arch import CPU, InvalidClaim, number
from harness.budget import Constants, InvalidBudget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FILE: Final = "calibration.json"
_TEXTS: Final = ("arch", "accumulates", "rule", "command", "date")
_COUNTS: Final = ("chain_depth", "results", "rejected")
_NUMBERS: Final = ("safety", "chain_roundoff", "worst")


class InvalidCalibration(ValueError):
    """A calibration file with a broken entry; the message names entry and field."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Constants for one arch and accumulation mode, and the measurement that they rest on.

    ``worst`` is the largest share of its budget that a correct float32 result used (half-precision
    results use nearly all of it by their own rounding). ``quantiles`` are of errors in units of
    ``u * sqrt(n) * scale`` (``sqrt_...``), to be held against ``safety``, and on tensor cores in
    units of ``u * ceil(n / chain_depth) * scale`` on one-signed data (``chain_...``).
    """

    arch: str
    accumulates: str
    rule: str
    safety: float
    chain_roundoff: float
    chain_depth: int
    results: int
    rejected: int
    worst: float
    quantiles: Mapping[str, float]
    variants: tuple[str, ...]
    command: str
    device: Mapping[str, str]
    versions: Mapping[str, str]
    date: str

    def __str__(self) -> str:
        return (
            f"c={self.safety:g} on {self.arch}, {self.accumulates}: {self.rejected} of "
            f"{self.results} correct results rejected, worst at {self.worst:.2f} of its budget"
        )


def constants(arch: str, accumulates: str) -> Constants:
    """The constants for ``arch`` and an accumulation mode, with their provenance in words."""
    return choose(entries(), arch, accumulates)


def choose(known: Iterable[Entry], arch: str, accumulates: str) -> Constants:
    """The constants of the entry that is nearest to ``arch``; the defaults if there is none."""
    known = [entry for entry in known if entry.accumulates == accumulates]
    if not known:
        return Constants(provenance=f"not calibrated for {accumulates}; default constants")
    entry = min(known, key=lambda entry: _distance(entry.arch, arch))
    words = str(entry)
    if entry.arch != arch:
        words = f"not calibrated on {arch}; constants of {entry.arch}: {words}"
    return Constants(
        safety=entry.safety,
        chain_roundoff=entry.chain_roundoff,
        chain_depth=entry.chain_depth,
        provenance=words,
    )


def _distance(measured: str, asked: str) -> tuple[bool, int, int]:
    """How far apart two archs are: by generation first; the CPU is farther than any GPU."""
    if CPU in {measured, asked}:
        return measured != asked, 0, 0
    (major, minor), (other, second) = number(measured), number(asked)
    return False, abs(major - other), abs(minor - second)


@cache
def entries() -> tuple[Entry, ...]:
    """The entries that the package ships; raises InvalidCalibration."""
    text = resources.files("harness").joinpath(FILE).read_text(encoding="utf-8")
    return parse(text, where=FILE)


def parse(text: str, *, where: str) -> tuple[Entry, ...]:
    """The entries of a file's ``text``; raises InvalidCalibration, saying ``where`` it stood."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{where}: not JSON ({error}); write it again with python -m suites.calibrate"
        raise InvalidCalibration(msg) from error
    if not isinstance(found, list):
        msg = f"{where}: holds a {type(found).__name__}; need a list of entries"
        raise InvalidCalibration(msg)
    return tuple(_entry(raw, f"{where}: entry {i}") for i, raw in enumerate(found))


def _entry(raw: object, where: str) -> Entry:
    names = {f.name for f in fields(Entry)}
    if not isinstance(raw, dict) or set(raw) != names:
        wrong = sorted(names.symmetric_difference(raw if isinstance(raw, dict) else ()))
        msg = f"{where}: missing or unknown fields {wrong}; needed: {sorted(names)}"
        raise InvalidCalibration(msg)
    kinds = dict.fromkeys(_TEXTS, str) | dict.fromkeys(_COUNTS, int)
    for name, kind in kinds.items():
        if not isinstance(raw[name], kind):
            msg = f"{where}: {name}={raw[name]!r} is no {kind.__name__}"
            raise InvalidCalibration(msg)
    try:
        numbers = {name: float(raw[name]) for name in _NUMBERS}
        entry = Entry(**{**raw, **numbers, "variants": tuple(raw["variants"])})
        Constants(
            safety=entry.safety,
            chain_roundoff=entry.chain_roundoff,
            chain_depth=entry.chain_depth,
            provenance=where,
        )
        if entry.arch != CPU:
            number(entry.arch)
    except (TypeError, ValueError, InvalidBudget, InvalidClaim) as error:
        msg = f"{where}: {error}"
        raise InvalidCalibration(msg) from error
    if not 0 <= entry.rejected <= entry.results:
        msg = f"{where}: rejected={entry.rejected} of results={entry.results}; need 0 <= rejected"
        raise InvalidCalibration(msg)
    return entry


def write(path: Path, new: Iterable[Entry]) -> None:
    """Put ``new`` entries into the file at ``path``, in place of those of their arch and mode."""
    old = parse(path.read_text(encoding="utf-8"), where=path.name) if path.exists() else ()
    kept = {(entry.arch, entry.accumulates): entry for entry in (*old, *new)}
    listed = [asdict(kept[key]) for key in sorted(kept)]
    path.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
