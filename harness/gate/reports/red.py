"""What makes a judgement red, grouped by hole and cause, each with the command or the way out."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from harness import reproduction
from harness.cells import Verdict
from harness.gate.holes import Hole, Status
from harness.gate.reports.text import clean, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.gate.evidence import Merged
    from harness.gate.judge import Finding, Judgement
    from harness.record import Record

_PRINTED: Final = "  reproduce  "  # the line of a failure's report
_COMMAND: Final = f"{reproduction.PYTEST} "
# The check that a cause is told of first, and how many more of the cell's have the same.
_OF_CHECK: Final = re.compile(r"^test_\w+(?:\[[^\]]*\])?: |; \d+ \w+ more$")
_BESIDE: Final = ("  case  ", "  reproduce  ", "  picture  ")

WAYS_OUT: Final[Mapping[Hole, str]] = {
    Hole.FAILED: "repair the kernel; a known failure needs an entry with a reference",
    Hole.CRASHED: "run the case alone; the first cell that crashed has the blame",
    Hole.HUNG: "run the case alone; a cell that only needs longer needs a longer limit",
    Hole.SKIPPED: "run it where its arch, its packages and its model are",
    Hole.DESELECTED: "run it without the options that dropped it",
    Hole.LOST: "run it again: it was collected, and left no record",
    Hole.UNCOVERED: "no run collected it: run its arch and layer, or change the contract",
    Hole.NO_CASES: "nothing was checked: look for an empty domain or a --case of another cell",
    Hole.TOO_FEW_CASES: "run it with more --cases, or ask for fewer in the contract",
    Hole.OTHER_BACKEND: "a fallback ran: find out why the kernel did not",
    Hole.WEAK_EVIDENCE: "run it on its arch, or ask for less evidence in the contract",
    Hole.EXPIRED: "repair it, or renew the exception and its reference",
    Hole.DRIFT: "find what made it worse; a change that is wanted needs a new baseline",
    Hole.UNEXPECTED_PASS: "take the known failure out of the contract",
    Hole.UNFINISHED: "run it again: the run was killed",
}


@dataclass(frozen=True)
class Group:
    """Findings of one hole that have the same cause; where there are several, not each check's."""

    hole: Hole | None
    cause: str
    findings: tuple[Finding, ...]

    @property
    def way_out(self) -> str:
        """What to do about it, in a sentence."""
        return "" if self.hole is None else WAYS_OUT.get(self.hole, "")

    @property
    def reference(self) -> str:
        """The references of its findings, each once."""
        return ", ".join(dict.fromkeys(f.reference for f in self.findings if f.reference))


def groups(judgement: Judgement) -> list[Group]:
    """All red findings: holes in the order of their declaration, the same cause told once."""
    found: dict[tuple[Hole | None, str], list[Finding]] = defaultdict(list)
    for finding in judgement.findings:
        if finding.status is Status.RED:
            found[finding.hole, _OF_CHECK.sub("", finding.words)].append(finding)
    order = [*Hole, None]
    ordered = sorted(found, key=lambda each: order.index(each[0]))
    return [_group(each[0], each[1], found[each]) for each in ordered]


def _group(hole: Hole | None, cause: str, findings: Sequence[Finding]) -> Group:
    """Without what the reports show beside it: the case, the command, a picture."""
    lines = (cause if len(findings) > 1 else findings[0].words).splitlines()
    kept = "\n".join(each for each in lines if not each.startswith(_BESIDE))
    return Group(hole, kept, tuple(findings))


def by_hole(found: Iterable[Group]) -> dict[Hole | None, list[Group]]:
    """The groups of each hole."""
    holes: dict[Hole | None, list[Group]] = defaultdict(list)
    for group in found:
        holes[group.hole].append(group)
    return holes


def place(finding: Finding) -> str:
    """``rms_norm.triton on sm90, numeric, bfloat16``."""
    if not finding.kernel:
        return f"all of {line(finding.arch)}" if finding.arch else "a whole run"
    dtype = f", {finding.dtype}" if finding.dtype else ""
    return line(f"{finding.kernel} on {finding.arch}, {finding.layer}{dtype}")


def places(findings: Sequence[Finding], most: int) -> str:
    """The first places in a line, and how many more there are."""
    named = "; ".join(dict.fromkeys(place(finding) for finding in findings[:most]))
    left = len(findings) - most
    return f"{named}; and {left:,} more" if left > 0 else named


class Commands:
    """The command that repeats a finding, from the record of the check if there is one."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged

    @cached_property  # no green judgement asks
    def _failed(self) -> Mapping[tuple[str, str, str], list[Record]]:
        found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
        for record in self._merged.records:
            if record.verdict == Verdict.FAILED:
                found[record.kernel, record.arch, record.layer].append(record)
        return found

    def of(self, finding: Finding) -> str:
        """The command for the case that failed, else for the finding's cell; none for a run."""
        if not finding.kernel:
            return ""
        failed = self._failed.get((finding.kernel, finding.arch, finding.layer), [])
        same = [record for record in failed if record.dtype == finding.dtype]
        for record in same or failed:
            return of_record(record)
        return reproduction.of_cell(finding.kernel, finding.arch, finding.layer)


def of_record(record: Record) -> str:
    """What the failure itself printed, else the command of the record's cell."""
    return next(_printed(record.message), None) or reproduction.of_cell(
        record.kernel, record.arch, record.layer, seed=record.seed
    )


def _printed(message: str) -> Iterator[str]:
    """The command in a failure's report; only one that a shell would take for one command.

    A record may come from anywhere, and people paste what a report tells them to.
    """
    for each in clean(message).splitlines():
        words = each.removeprefix(_PRINTED).strip()
        if each.startswith(_PRINTED) and words.startswith(_COMMAND) and _is_plain(words):
            yield words


def _is_plain(words: str) -> bool:
    try:
        return shlex.join(shlex.split(words)) == words
    except ValueError:  # a quotation without an end
        return False
