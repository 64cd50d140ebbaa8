"""The first line of every report, and the facts that stand under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.gate.holes import Status
from harness.gate.reports import matrix
from harness.gate.reports.text import count, line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.gate.evidence import Merged
    from harness.gate.judge import Judgement


def headline(judgement: Judgement) -> str:
    """``RED: 3 findings against sm90`` or ``GREEN: sm90``."""
    archs = ", ".join(line(arch) for arch in judgement.archs) or "all archs"
    red = sum(finding.status is Status.RED for finding in judgement.findings)
    if judgement.green:
        return f"GREEN: {archs}"
    return f"RED: {count(red, 'finding')} against {archs}"


def totals(statuses: Iterable[Status]) -> str:
    """``340 cells: ✗ 3 red, ! 1 excused, ✓ 300 green, ○ 36 retained``."""
    found = matrix.totals(statuses)
    words = ", ".join(f"{matrix.GLYPHS[status]} {n:,} {status}" for status, n in found.items())
    return f"{count(sum(found.values()), 'cell')}: {words}"


def checked(merged: Merged) -> str:
    """How much was looked at: checks, cases, and the time that they took."""
    records = [*merged.records]
    cases = sum(record.cases for record in records)
    seconds = sum(record.seconds for record in records)
    return (
        f"{count(len(merged.runs), 'run')}, {count(len(records), 'check')}, "
        f"{count(cases, 'case')}, {seconds / 60:,.1f} minutes of checking"
    )
