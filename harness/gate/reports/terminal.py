"""The summary for a terminal: the verdict first, then what is red and how to see or mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.gate.reports import drifts, matrix, red, verdict
from harness.gate.reports.text import count, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged
    from harness.gate.judge import Judgement

_GROUPS: Final = 12  # of one hole
_PLACES: Final = 4
_DRIFTS: Final = 10
_NOTES: Final = 20


def render(judgement: Judgement, merged: Merged, changes: Sequence[Drift]) -> str:
    """The whole summary; ends with a newline."""
    statuses = matrix.statuses(judgement)
    lines = [
        verdict.headline(judgement),
        f"  {verdict.totals(statuses)}",
        f"  {verdict.checked(merged)}",
    ]
    if left := verdict.not_asked_for(judgement, merged):
        lines.append(f"  {left}")
    lines += _red(judgement, red.Commands(merged))
    lines += _drifts(changes)
    lines += [f"note: {line(note)}" for note in judgement.notes[:_NOTES]]
    if (more := len(judgement.notes) - _NOTES) > 0:
        lines.append(f"and {count(more, 'note')} more")
    return "\n".join(lines) + "\n"


def _red(judgement: Judgement, commands: red.Commands) -> Iterator[str]:
    for hole, groups in red.by_hole(red.groups(judgement)).items():
        yield ""
        number = sum(len(group.findings) for group in groups)
        way_out = f": {groups[0].way_out}" if groups[0].way_out else ""
        yield f"{matrix.words_of(hole or 'red')} ({number:,}){way_out}"
        for group in groups[:_GROUPS]:
            yield from _cause(group, commands)
        if (left := len(groups) - _GROUPS) > 0:
            yield f"  and {left:,} more causes; the reports have them"


def _cause(group: red.Group, commands: red.Commands) -> Iterator[str]:
    first = group.findings[0]
    reference = f" [{line(group.reference)}]" if group.reference else ""
    yield f"  {matrix.GLYPHS[first.status]} {red.places(group.findings, _PLACES)}"
    yield f"      {line(group.cause)}{reference}"
    if command := commands.of(first):
        yield f"      $ {command}"


def _drifts(changes: Sequence[Drift]) -> Iterator[str]:
    if said := drifts.summary(changes):
        yield ""
        yield f"drift: {said}"
    worse = [drift for drift in changes if drift.flagged]
    yield from (f"  {_drift(drift)}" for drift in worse[:_DRIFTS])
    if (left := len(worse) - _DRIFTS) > 0:
        yield f"  and {left:,} more"


def _drift(drift: Drift) -> str:
    dtype = f", {drift.dtype}" if drift.dtype else ""
    return line(
        f"{drift.kernel} on {drift.arch}, {drift.layer}, {drift.check}{dtype}: {drift.words}"
    )
