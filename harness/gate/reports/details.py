"""What lies behind the cells of the page, as data: red ones whole, the rest while there is room.

A page that does not open tells nobody anything. So its size is bounded, whatever the number of
records; what is left out is said where it would have stood.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.cells import Verdict
from harness.gate.holes import FAILURES, Status
from harness.gate.reports import matrix, red
from harness.gate.reports.text import clean, count, line, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged
    from harness.gate.judge import Finding
    from harness.gate.reports.matrix import Shown
    from harness.record import Record

ROOM: Final = 3_000_000  # bytes of JSON for all cells
CHECKS: Final = 40  # of one cell
PICTURES: Final = 12  # PNG files of the whole page
PICTURE_BYTES: Final = 150_000
BINS: Final = 10  # of the budget; one more is for what is beyond it
_LEAST: Final = 2_000  # bytes: with less room, trying whether a cell fits only takes time
_MESSAGE: Final = 6_000  # characters
_WORDS: Final = 2_000
_FIGURES: Final = 40
_POINTS: Final = 200  # of one drift
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SHOWN_APART: Final = {"worst_in_budget", "errors", "rms_errors", "error_map", "picture"}
_MAP: Final = {
    "output": str,
    "shape": list,
    "tile": list,
    "exact": bool,
    "where": str,
    "lines": list,
}
_MAP_SIDE: Final = 64  # lines and letters that a map may have
_LETTERS: Final = frozenset(".:X123456789")


@dataclass
class Details:
    """The data of cells, added until there is no room; ``left`` are those that found none."""

    commands: red.Commands
    drifts: Mapping[tuple[str, str, str], Sequence[Drift]]
    room: int = ROOM
    pictures: int = PICTURES
    cells: dict[str, object] = field(default_factory=dict)
    environments: list[Mapping[str, object]] = field(default_factory=list)
    left: int = 0
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, cell: Shown) -> None:
        """Keep what is known of a cell, if there is room for it."""
        made = self._cell(cell) if self.room > _LEAST else {}
        size = len(json.dumps(made))
        if not made or size > self.room:
            self.left += 1
            self.room = 0  # what is less grave must not take the place of what is left out
            return
        self.room -= size
        self.cells[clean(cell.key)] = made

    def _cell(self, cell: Shown) -> dict[str, object]:
        order = sorted(cell.telling, key=lambda each: (each.verdict != Verdict.FAILED, each.check))
        checks = [self._check(record) for record in order[:CHECKS]]
        return _kept(
            findings=[self._finding(f, cell) for f in cell.findings[:CHECKS] if _tells(f)],
            checks=checks,
            left=_left(cell),
            drifts=[_drift(drift) for drift in self.drifts.get(cell.key, ())],
        )

    def _finding(self, found: Finding, cell: Shown) -> dict[str, object]:
        """What the gate says; what a failed check says itself is not said twice."""
        is_red = found.status is Status.RED
        failed = any(record.verdict == Verdict.FAILED for record in cell.records)
        told = failed and found.hole in FAILURES
        return _kept(
            status=str(found.status),
            hole=line((found.hole or "").replace("_", " ")),
            dtype=line(found.dtype),
            words="" if told else shortened(clean(found.words), _WORDS),
            reference=line(found.reference),
            way=red.WAYS_OUT.get(found.hole, "") if is_red and found.hole else "",
            command=self.commands.of(found) if is_red and not told else "",
        )

    def _check(self, record: Record) -> dict[str, object]:
        figures = record.figures
        made = _kept(
            name=line(record.check),
            outcome=str(record.outcome).replace("_", " "),
            evidence=record.evidence,
            cases=record.cases or None,
            worst=figures.get("worst_in_budget"),
            message=shortened(clean(record.message), _MESSAGE),
            command=red.of_record(record),
            maps=maps_of(figures.get("error_map")),
            picture=self._picture(figures.get("picture")),
            bins=bins_of(figures.get("errors")),
            figures=_figures({"unfair": record.unfair, **figures} if record.unfair else figures),
            facts=_facts(record),
        )
        return made | {"environment": self._environment(record)}

    def _environment(self, record: Record) -> int:
        """The number of the record's versions and device, which most records share."""
        found = {**record.versions, **record.device}
        place = self._known.setdefault(repr(found), len(self.environments))
        if place == len(self.environments):
            self.environments.append({line(k): line(v) for k, v in found.items()})
        return place

    def _picture(self, path: object) -> str:
        """A PNG that a failure left, as a data URI; empty where it is not here, or large."""
        if not isinstance(path, str) or not self.pictures:
            return ""
        try:
            with Path(path).open("rb") as file:
                content = file.read(PICTURE_BYTES + 1)
        except (OSError, ValueError):  # a record of another machine, or no path at all
            return ""
        if not content.startswith(_PNG) or len(content) > PICTURE_BYTES:
            return ""
        self.pictures -= 1
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def of_cells(cells: Iterable[Shown], merged: Merged, drifts: Iterable[Drift]) -> Details:
    """Everything that fits: red cells first, then what is excused, then the rest."""
    by_cell: dict[tuple[str, str, str], list[Drift]] = {}
    for drift in drifts:
        if drift.flagged or drift.moved:
            by_cell.setdefault((drift.kernel, drift.arch, drift.layer), []).append(drift)
    details = Details(red.Commands(merged), by_cell)
    order = list(matrix.GLYPHS)
    for cell in sorted(cells, key=lambda cell: order.index(cell.status)):
        details.add(cell)
    return details


def maps_of(figure: object) -> list[dict[str, object]]:
    """The error maps of a record that are what they should be; anything else is left out."""
    listed = figure if isinstance(figure, list) else []
    return [
        {**m, "output": line(m["output"]), "where": line(m["where"])} for m in listed if _is_map(m)
    ]


def _is_map(found: object) -> bool:
    if not isinstance(found, dict) or found.keys() != _MAP.keys():
        return False
    if not all(isinstance(found[name], kind) for name, kind in _MAP.items()):
        return False
    lines = found["lines"]
    return (
        0 < len(lines) <= _MAP_SIDE
        and all(isinstance(each, str) and set(each) <= _LETTERS for each in lines)
        and 0 < len(lines[0]) <= _MAP_SIDE
        and len({len(each) for each in lines}) == 1
        and all(isinstance(n, int) for n in (*found["shape"], *found["tile"]))
    )


def bins_of(figure: object) -> list[int]:
    """How many cases have their worst error in each tenth of the budget, and how many beyond."""
    errors = figure.values() if isinstance(figure, dict) else ()
    bins = [0] * (BINS + 1)
    for error in errors:
        if isinstance(error, (int, float)):
            bins[BINS if not error <= 1 else min(int(error * BINS), BINS - 1)] += 1
    return bins if any(bins) else []


def _figures(figures: Mapping[str, object]) -> dict[str, object]:
    """The figures that have no picture, each as a number or a line of text."""
    names = [name for name in figures if name not in _SHOWN_APART]
    found = {line(name, 80): _plain(figures[name]) for name in names[:_FIGURES]}
    if len(names) > _FIGURES:
        found["left out"] = count(len(names) - _FIGURES, "figure")
    return found


def _plain(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return line(value if isinstance(value, str) else json.dumps(value), 200)


def _facts(record: Record) -> dict[str, object]:
    return _kept(
        case=line(record.case, 400),
        seed=str(record.seed),
        backend=line(record.backend),
        launched=line(", ".join(map(str, record.launched)), 400),
        source=line(record.source),
        run=line(record.run),
        worker=line(record.worker),
        started=line(record.started),
        seconds=record.seconds,
    )


def _drift(drift: Drift) -> dict[str, object]:
    return _kept(
        dtype=line(drift.dtype),
        check=line(drift.check),
        measure=line(drift.measure),
        words=line(drift.words, 500),
        flagged=drift.flagged,
        points=[list(point) for point in drift.points[:_POINTS]],
    )


def _left(cell: Shown) -> str:
    """What is not shown of a cell."""
    shown = len(cell.telling)
    more, skipped = max(0, shown - CHECKS), len(cell.records) - shown
    words = [
        f"{count(more, 'more check')} of this cell: see the records" if more else "",
        f"{count(skipped, 'record')} of runs that skipped what another made" if skipped else "",
    ]
    return "; ".join(filter(None, words))


def _tells(found: Finding) -> bool:
    return found.status in {Status.RED, Status.EXCUSED} or bool(found.words)


def _kept(**values: object) -> dict[str, object]:
    """The values without those that are empty: most cells lack most of them."""
    return {k: v for k, v in values.items() if v or (v == 0 and not isinstance(v, bool))}
