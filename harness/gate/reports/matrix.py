"""The cells of a judgement as the reports show them: a status, a word for it, its checks."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.arch import ARCHES, CPU
from harness.cells import Evidence, Layer, Verdict
from harness.gate.holes import Hole, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.gate.evidence import Merged, Stamp
    from harness.gate.judge import Finding, Judgement
    from harness.record import Record

# The worst first. A glyph stands beside a word wherever it is shown: nobody needs the colours, or
# the legend.
GLYPHS: Final = {
    Status.RED: "✗",
    Status.EXCUSED: "!",
    Status.GREEN: "✓",
    Status.RETAINED: "○",
    Status.NOT_ASKED_FOR: "·",
}
MEANINGS: Final = {
    Status.RED: "gating, and not shown to be right",
    Status.EXCUSED: "known, with a reference, until it expires",
    Status.GREEN: "gating, and shown to be right",
    Status.RETAINED: "recorded, not gating, by a rule of the contract",
    Status.NOT_ASKED_FOR: "recorded, not judged, as --arch or --kernel named others",
}
HEADS: Final = {Layer.IMPORT_SAFETY: "import", Layer.FAKE_SHAPE: "fake"}
_WORST: Final = tuple(GLYPHS)
_STRENGTH: Final = [str(each) for each in Evidence]
_LAYERS: Final = [str(each) for each in Layer]
_ARCHS: Final = [CPU, *ARCHES]


class Key(NamedTuple):
    """Kernel, arch and layer."""

    kernel: str
    arch: str
    layer: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass
class Shown:
    """A cell: what was found of it, and the records of its checks."""

    key: Key
    findings: list[Finding] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """The worst status of any of its findings; recorded without any, it was not judged."""
        return _worst({finding.status for finding in self.findings})

    @property
    def telling(self) -> list[Record]:
        """The records, but for skips of checks that another run made."""
        made = {r.check for r in self.records if r.verdict != Verdict.SKIPPED}
        return [r for r in self.records if r.verdict != Verdict.SKIPPED or r.check not in made]

    @property
    def evidence(self) -> str:
        """The weakest evidence among its passed checks."""
        passed = [r.evidence for r in self.records if r.verdict == Verdict.PASSED]
        return max(passed, key=_STRENGTH.index, default=str(Evidence.NONE))

    @property
    def word(self) -> str:
        """The evidence of a cell that passed; else what is wrong with it, in a word or two."""
        if self.status is Status.RED:
            hole = next(f.hole for f in self.findings if f.status is Status.RED)
            if hole not in {None, Hole.FAILED}:
                return words_of(hole)
        verdicts = {record.verdict: record.outcome for record in self.telling}
        if failed := verdicts.get(Verdict.FAILED):
            return words_of(failed)
        if self.status is Status.RED or not self.records:
            return "red" if self.status is Status.RED else "not run"
        return "skipped" if Verdict.SKIPPED in verdicts else self.evidence


def words_of(name: object) -> str:
    """``out_of_memory`` in words."""
    return str(name).replace("_", " ")


class Row(NamedTuple):
    """A line of the matrix: one kernel on one arch, its cells by layer."""

    kernel: str
    arch: str
    cells: Mapping[str, Shown]

    @property
    def status(self) -> Status:
        """The worst status in the line."""
        return min((cell.status for cell in self.cells.values()), key=_WORST.index)


def rows(judgement: Judgement, merged: Merged) -> list[Row]:
    """The matrix: kernels in the order in which they were met, archs and layers in theirs."""
    return _rows(cells(judgement, merged))


def cells(judgement: Judgement, merged: Merged) -> dict[tuple[str, str, str], Shown]:
    """Every cell that anything is known of, by kernel, arch and layer."""
    found: dict[tuple[str, str, str], Shown] = {}
    for finding in judgement.findings:
        if finding.kernel:  # else it is of a whole run
            place = _place_of(finding)
            if (cell := found.get(place)) is None:
                cell = found[place] = Shown(Key(*place))
            cell.findings.append(finding)
    for record in merged.records:
        place = _place_of(record)
        if (cell := found.get(place)) is None:
            cell = found[place] = Shown(Key(*place))
        cell.records.append(record)
    return found


def _rows(found: Mapping[tuple[str, str, str], Shown]) -> list[Row]:
    lines: dict[tuple[str, str], dict[str, Shown]] = defaultdict(dict)
    for (kernel, arch, layer), cell in found.items():
        lines[kernel, arch][layer] = cell
    places = {kernel: place for place, kernel in enumerate(dict.fromkeys(k for k, _ in lines))}
    ordered = sorted(lines, key=lambda line: (places[line[0]], _place(line[1], _ARCHS)))
    return [Row(*line, lines[line]) for line in ordered]


def layers(lines: Iterable[Row]) -> list[str]:
    """The layers that any line has a cell of, in their order."""
    seen = dict.fromkeys(layer for line in lines for layer in line.cells)
    return sorted(seen, key=lambda layer: _place(layer, _LAYERS))


def head(layer: str) -> str:
    """A short name for a layer's column."""
    return {str(key): value for key, value in HEADS.items()}.get(layer, layer)


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def statuses(judgement: Judgement) -> list[Status]:
    """The status of each cell that was judged; for who needs no more of them."""
    seen: defaultdict[tuple[str, str, str], set[Status]] = defaultdict(set)
    for finding in judgement.findings:
        if finding.kernel:
            seen[_place_of(finding)].add(finding.status)
    return list(map(_worst, seen.values()))


def _worst(seen: set[Status]) -> Status:
    """The worst; what is recorded has none if it was not judged."""
    return next((status for status in _WORST if status in seen), Status.NOT_ASKED_FOR)


def totals(found: Iterable[Status]) -> dict[Status, int]:
    """How many of the cells that were judged have each status, the worst first."""
    counts = Counter(found)
    return {status: counts[status] for status in _WORST if status is not Status.NOT_ASKED_FOR}


def not_asked_for(judgement: Judgement, merged: Merged) -> list[Record]:
    """The records of cells of which the judgement says nothing."""
    judged = {_place_of(finding) for finding in judgement.findings}
    recorded = {_place_of(stamp) for run in merged.runs for stamp in run.stamps}
    left = recorded - judged
    return [each for each in merged.records if _place_of(each) in left] if left else []


def _place_of(found: Finding | Record | Stamp) -> tuple[str, str, str]:
    return found.kernel, found.arch, found.layer
