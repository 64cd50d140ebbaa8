"""The first line of every report, and the facts that stand under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cells import Verdict
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
    """``340 cells: ✗ 3 red, ! 1 excused, ✓ 300 green, ○ 36 retained``, of those judged."""
    found = matrix.totals(statuses)
    words = ", ".join(f"{matrix.GLYPHS[status]} {n:,} {status}" for status, n in found.items())
    return f"{count(sum(found.values()), 'cell')}: {words}"


def not_asked_for(judgement: Judgement, merged: Merged) -> str:
    """``· not asked for: 21 records of 7 cells, 1 of them failed``; empty if all was judged."""
    records = matrix.not_asked_for(judgement, merged)
    if not records:
        return ""
    cells = {(record.kernel, record.arch, record.layer) for record in records}
    failed = sum(record.verdict == Verdict.FAILED for record in records)
    glyph, words = matrix.GLYPHS[Status.NOT_ASKED_FOR], matrix.words_of(Status.NOT_ASKED_FOR)
    numbers = f"{count(len(records), 'record')} of {count(len(cells), 'cell')}"
    return f"{glyph} {words}: {numbers}, {failed or 'none'} of them failed"


def checked(merged: Merged) -> str:
    """How much was looked at: checks, cases, and the time that they took."""
    records = [*merged.records]
    cases = sum(record.cases for record in records)
    seconds = sum(record.seconds for record in records)
    return (
        f"{count(len(merged.runs), 'run')}, {count(len(records), 'check')}, "
        f"{count(cases, 'case')}, {seconds / 60:,.1f} minutes of checking"
    )
