"""What compute-sanitizer's report says: text in, faults with their kernel and place out.

Forms of its tools as NVIDIA's manual and public logs of 2022 to 2026 have them. A summary that is
missing is no clean report: the tool was seen to end well without having run anything.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PREFIX: Final = "========="
_SUMMARY: Final = re.compile(r"(?:ERROR|\w+CHECK) SUMMARY: (\d+) (?:errors?|hazards?)(.*)")
_HAZARDS: Final = re.compile(r"\((\d+) errors?, (\d+) warnings?\)")
_RACE: Final = re.compile(
    r"(?:(Error|Warning): )?Race reported between (\w+ access) at (.*?)(?: \[\d+ hazards?\])?"
)
_THREAD: Final = re.compile(r"by thread (\(.*?\)) in block (\(.*?\))")
_OFFSET: Final = r"\+?0x[0-9a-fA-F]+"
_PLACES: Final = (
    # kernel(float *)+0x130 in file.cu:9, or kernel in file.cu:9, or kernel+0x130
    re.compile(rf"(?P<kernel>(?!0x)\S.*?)(?:\+0x[0-9a-f]+)? in (?P<line>\S+:\d+)(?: {_OFFSET})?"),
    re.compile(r"(?P<kernel>(?!0x)\S.*?)\+0x[0-9a-f]+"),
    # 0x130 in file.cu:9:kernel(float *), or 0x130 in kernel(float *)
    re.compile(rf"{_OFFSET} in (?P<line>\S+?:\d+):(?P<kernel>.+)"),
    re.compile(rf"{_OFFSET} in (?P<kernel>.+)"),
)
# Heads that are no finding. What else stands at the margin with details below it is one.
_NO_FINDING: Final = (
    "COMPUTE-SANITIZER",
    "Target application returned an error",
    "Program hit ",  # an API call that failed, because of a finding or for the program to handle
    "Internal Sanitizer Warning",
    "Saved host backtrace",
)


@dataclass(frozen=True)
class Fault:
    """One kind of finding at one place, how often it was printed, and where first."""

    head: str
    kernel: str
    place: str  # file and line of the source, where the machine code knows it
    thread: str
    line: int  # of the report, from 1
    warning: bool = False
    times: int = 1

    def __str__(self) -> str:
        where = f" in {self.kernel}" if self.kernel else ""
        where += f" at {self.place}" if self.place else ""
        where += f", {self.thread}" if self.thread else ""
        times = f", {self.times} times" if self.times > 1 else ""
        return f"{self.head}{where}{times} (line {self.line} of the report)"


@dataclass(frozen=True)
class Report:
    """The findings of one run, and its summary; ``errors`` is None where there is no summary."""

    faults: tuple[Fault, ...]
    errors: int | None
    warnings: int = 0

    @property
    def wrong(self) -> tuple[Fault, ...]:
        """The findings that are no warnings."""
        return tuple(fault for fault in self.faults if not fault.warning)


def parse(text: str) -> Report:
    """The report in ``text``, which may have anything else between its lines."""
    lines = [
        (number, line.removeprefix(_PREFIX))
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith(_PREFIX)
    ]
    errors, warnings = _summary([line for _, line in lines])
    found = [_fault(number, head, details) for number, head, details in _blocks(lines)]
    kinds = [fault for fault in found if fault is not None]
    times = Counter(_kind(fault) for fault in kinds)
    first = {_kind(fault): fault for fault in reversed(kinds)}
    faults = sorted(
        (replace(fault, times=times[kind]) for kind, fault in first.items()), key=lambda f: f.line
    )
    return Report(tuple(faults), errors, warnings)


def _kind(fault: Fault) -> tuple[str, str, str]:
    return fault.head, fault.kernel, fault.place


def _summary(lines: Sequence[str]) -> tuple[int | None, int]:
    errors: int | None = None
    warnings = 0
    for line in lines:
        match = _SUMMARY.fullmatch(line.strip())
        if match is None or "not printed" in line:
            continue
        hazards = _HAZARDS.search(match[2])
        errors = (errors or 0) + int(hazards[1] if hazards else match[1])
        warnings += int(hazards[2]) if hazards else 0
    return errors, warnings


def _blocks(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, list[str]]]:
    """Each line at the margin with the further indented ones below it."""
    number, head, details = 0, "", list[str]()
    for at, line in lines:
        words = line.strip()
        if words and not line.startswith("  "):
            if head:
                yield number, head, details
            number, head, details = at, words, []
        elif words:
            details.append(words)
    if head:
        yield number, head, details


def _fault(number: int, head: str, details: Sequence[str]) -> Fault | None:
    if head.startswith(_NO_FINDING) or "SUMMARY:" in head:
        return None
    if not details and not head.lower().startswith(("error", "fatal")):
        return None
    if race := _RACE.fullmatch(head):
        kernel, place = _place(race[3])
        other = next((words for words in details if words.startswith("and ")), "")
        words = f"Race reported between {race[2]}"
        _, second = _place(other.partition(" at ")[2].partition(" [")[0])
        words += f" {' '.join(other.split()[:3])}" + (f" at {second}" if second else "")
        return Fault(words, kernel, place, "", number, warning=race[1] == "Warning")
    at = next((words.removeprefix("at ") for words in details if words.startswith("at ")), "")
    kernel, place = _place(at)
    for words in details:  # the last is the kernel, into which the others were inlined
        if words.startswith("Device Frame:"):
            kernel, place = _place(words.removeprefix("Device Frame:").strip())
    thread = next((m[0] for words in details if (m := _THREAD.search(words))), "")
    warning = head.startswith("Warning")
    return Fault(head.rstrip(".:"), kernel, place, thread, number, warning=warning)


def _place(words: str) -> tuple[str, str]:
    for pattern in _PLACES:
        if match := pattern.fullmatch(words.strip()):
            return match["kernel"].strip(), match.groupdict().get("line") or ""
    return words, ""
