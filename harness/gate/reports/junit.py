"""JUnit XML: a test case for each record and for each red finding that no failed record shows.

The form is the one that Jenkins, GitLab, GitHub's actions and pytest's own reports agree on; facts
that it has no place for are properties of the test case.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape as escaped
from xml.sax.saxutils import quoteattr

from harness.cells import Outcome, Verdict
from harness.gate.holes import FAILURES, Hole, Status
from harness.gate.reports import matrix, red
from harness.gate.reports.text import clean, line, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged, Run
    from harness.gate.judge import Finding, Judgement
    from harness.record import Record

_Cell = tuple[str, str, str]  # kernel, arch, layer
_Judged = tuple[str, str, str, str]  # what a verdict is for: a cell and a dtype

_MESSAGE: Final = 4_000  # characters of one failure
_NOT_ASKED_FOR: Final = matrix.words_of(Status.NOT_ASKED_FOR)


def render(judgement: Judgement, merged: Merged, changes: Sequence[Drift]) -> str:
    """The whole document: a suite for each run and arch, and one for what the gate itself says."""
    failing = {_judged(f) for f in judgement.findings if _is_of_records(f)}
    judged = {_judged(f)[:3] for f in judgement.findings}
    suites = [
        _of_arch(run, *each, failing, judged) for run in merged.runs for each in _by_arch(run)
    ]
    told = {_judged(record) for record in merged.records if record.verdict == Verdict.FAILED}
    suites.append(_of_gate(judgement, changes, red.Commands(merged), told))
    counts = sum((suite.counts for suite in suites), Counter[str]())
    seconds = sum(suite.seconds for suite in suites)
    head = f'<testsuites name="kernel-parity"{_counted(counts)} time="{seconds:.3f}">'
    body = "".join(suite.text for suite in suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}\n{body}</testsuites>\n'


def _is_of_records(finding: Finding) -> bool:
    """Whether it is of failed records, if there are any: what expired may be a skip as well."""
    return finding.status is Status.RED and finding.hole in {*FAILURES, Hole.EXPIRED}


def _judged(found: Finding | Record | Drift) -> _Judged:
    return found.kernel, found.arch, found.layer, found.dtype


class _Suite:
    """A test suite in the making, and its counts."""

    def __init__(self, name: str, properties: Iterable[tuple[str, object]], started: str) -> None:
        self._name, self._started = name, started
        self._properties = _properties(properties)
        self._cases: list[str] = []
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0

    def add(
        self, place: str, name: str, *, kind: str = "", inside: str = "", seconds: float = 0.0
    ) -> None:
        """Add a test case; ``kind`` is one of failures, errors and skipped, or nothing."""
        self.counts += Counter({"tests": 1, kind: 1} if kind else {"tests": 1})
        self.seconds += seconds
        self._cases.append(
            f"<testcase classname={_attribute(place)} name={_attribute(name)} "
            f'time="{seconds:.3f}">{inside}</testcase>\n'
        )

    @property
    def text(self) -> str:
        """The element."""
        started = f" timestamp={_attribute(self._started)}" if self._started else ""
        return (
            f"<testsuite name={_attribute(self._name)}{_counted(self.counts)} "
            f'time="{self.seconds:.3f}"{started}>\n'
            f"{self._properties}{''.join(self._cases)}</testsuite>\n"
        )


def _by_arch(run: Run) -> list[tuple[str, list[Record]]]:
    archs: dict[str, list[Record]] = defaultdict(list)
    for record in run.records:
        archs[record.arch].append(record)
    return sorted(archs.items())


def _of_arch(
    run: Run,
    arch: str,
    records: Sequence[Record],
    failing: AbstractSet[_Judged],
    judged: AbstractSet[_Cell],
) -> _Suite:
    facts = [("run", run.manifest.run), ("seed", run.manifest.seed), ("arch", arch)]
    facts += [*run.manifest.versions.items(), *run.manifest.device.items()]
    suite = _Suite(f"kernel-parity {arch}", facts, _local(run.manifest.started))
    for record in records:
        why = "does not gate" if _judged(record)[:3] in judged else _NOT_ASKED_FOR
        _add(suite, record, why="" if _judged(record) in failing else why)
    return suite


def _add(suite: _Suite, record: Record, *, why: str) -> None:
    """Add a record's test case; ``why`` it is none of the verdict's failures, empty if it is."""
    facts = {
        "evidence": record.evidence,
        "outcome": record.outcome,
        "cases": record.cases or None,
        "worst_in_budget": record.figures.get("worst_in_budget"),
        "launched": ", ".join(map(str, record.launched)),
        "source": record.source,
    }
    inside = _properties((name, value) for name, value in facts.items() if value not in {None, ""})
    kind, element = _result(record, why)
    place = f"{record.kernel}.{record.arch}.{record.layer}"
    suite.add(place, record.check, kind=kind, inside=inside + element, seconds=record.seconds)


def _result(record: Record, why: str) -> tuple[str, str]:
    """The count that a record adds to, and its element; an error is what was not judged.

    A failure that does not gate is skipped, or a CI system would call a green gate red.
    """
    words = shortened(clean(record.message), _MESSAGE)
    if record.verdict == Verdict.PASSED:
        return "", ""
    if record.verdict == Verdict.SKIPPED or why:
        reason = "" if record.verdict == Verdict.SKIPPED else f"{why}: "
        return "skipped", f"<skipped message={_attribute(reason + line(words))}/>"
    if record.outcome == Outcome.WRONG:
        return "failures", _failure("failure", record.outcome, words)
    return "errors", _failure("error", record.outcome, words)


def _failure(element: str, kind: str, words: str) -> str:
    text = escaped(clean(words))
    return (
        f"<{element} type={_attribute(kind)} message={_attribute(line(words))}>{text}</{element}>"
    )


def _of_gate(
    judgement: Judgement,
    changes: Iterable[Drift],
    commands: red.Commands,
    told: AbstractSet[_Judged],
) -> _Suite:
    """The verdict as a test case, each red finding that no failed record tells, other drift."""
    suite = _Suite("kernel-parity gate", [("archs", ", ".join(judgement.archs))], "")
    gating = {_judged(f) for f in judgement.findings if f.hole is Hole.DRIFT}
    for finding in judgement.findings:
        untold = not _is_of_records(finding) or _judged(finding) not in told
        if finding.status is Status.RED and untold:
            _add_finding(suite, finding, commands)
    if judgement.green:
        suite.add("gate", "verdict")
    for drift in changes:
        if drift.flagged and _judged(drift) not in gating:
            place = f"gate.drift.{drift.kernel}.{drift.arch}.{drift.layer}"
            said = f"<system-out>{escaped(clean(drift.words))}</system-out>"
            suite.add(place, f"{drift.check} {drift.dtype} {drift.measure}".strip(), inside=said)
    return suite


def _add_finding(suite: _Suite, finding: Finding, commands: red.Commands) -> None:
    place = (
        f"gate.{finding.kernel}.{finding.arch}.{finding.layer}" if finding.kernel else "gate.run"
    )
    name = " ".join(filter(None, (matrix.words_of(finding.hole or "red"), finding.dtype)))
    way = red.WAYS_OUT.get(finding.hole, "") if finding.hole else ""
    words = "\n".join(filter(None, (finding.words, finding.reference, commands.of(finding), way)))
    inside = _failure("failure", finding.hole or "red", shortened(words, _MESSAGE))
    suite.add(place, name, kind="failures", inside=inside)


def _properties(facts: Iterable[tuple[str, object]]) -> str:
    elements = "".join(
        f"<property name={_attribute(name)} value={_attribute(value)}/>" for name, value in facts
    )
    return f"<properties>{elements}</properties>" if elements else ""


def _counted(counts: Counter[str]) -> str:
    return "".join(
        f' {name}="{counts[name]}"' for name in ("tests", "failures", "errors", "skipped")
    )


def _attribute(value: object) -> str:
    """A quoted attribute; line ends stay line ends where a parser would make them blanks."""
    return _quoted(str(value))


@lru_cache(4096)
def _quoted(text: str) -> str:
    return quoteattr(shortened(clean(text), _MESSAGE), {"\n": "&#10;", "\t": "&#9;"})


def _local(started: str) -> str:
    """A time without its zone and fraction, as the schema has it."""
    return started.partition("+")[0].rstrip("Z").partition(".")[0]
