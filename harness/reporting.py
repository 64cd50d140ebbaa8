"""What a run under pytest leaves behind: records, pictures of failures, the verdict table.

Records travel with the reports of tests, so that they come together in xdist's controller too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from harness.cells import Cell, Evidence, Layer, Verdict

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from harness.check import Check
    from harness.judge import ParityFailure
    from harness.record import Record
    from harness.selection import Request

_RECORD: Final = "kernel_parity_record"
_INVENTORY: Final = "kernel_parity_inventory"
_REFUSAL: Final = "kernel_parity_refusal"


@dataclass
class Run:
    """What the plugin keeps for one pytest session."""

    loaded: bool = False
    refusal: str = ""  # why nothing could be loaded
    records: list[Record] = field(default_factory=list)
    inventory: dict[Cell, None] = field(default_factory=dict)  # an ordered set
    last_progress: float = 0.0


CHECK: Final[pytest.StashKey[Check]] = pytest.StashKey()


def locate(item: pytest.Item, request: Request, failure: ParityFailure) -> None:
    """Put where a failed comparison's errors lie into its record; draw them if that is asked for.

    The case is run once more; with ``--error-images`` the report has the path of a picture.
    """
    if request.cell.layer is not Layer.NUMERIC or request.kind or not failure.compared:
        return
    try:
        _locate(item, request, failure)
    except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
        failure.picture = f"none: {type(error).__name__}: {error}"


def _locate(item: pytest.Item, request: Request, failure: ParityFailure) -> None:
    from harness import error_map, picture

    folder, check = item.config.option.error_images, item.stash[CHECK]
    panels = picture.of_failure(check, failure.case)
    if panels:
        check.figures["error_map"] = [error_map.of_panel(panel) for panel in panels]
    if panels and folder is not None:
        path = folder / f"{request.cell}-{request.dtype}.png"
        folder.mkdir(parents=True, exist_ok=True)
        picture.draw(check, failure.case, panels, path)
        failure.picture = check.figures["picture"] = str(path)


def attach_record(item: pytest.Item, request: Request, report: pytest.TestReport) -> None:
    """Let a report carry the record of its check."""
    report.user_properties.append((_RECORD, _record(item, request, report).to_json()))


def _record(item: pytest.Item, request: Request, report: pytest.TestReport) -> Record:
    from harness import record, registry
    from harness.device import describe
    from harness.execute import source_hash

    check = item.stash.get(CHECK, None)
    ran = check is not None and not report.skipped
    return record.Record(
        kernel=request.cell.kernel,
        arch=request.cell.arch,
        layer=request.cell.layer,
        check=item.name
        if request.dtype is None
        else f"{getattr(item, 'originalname', '')}[{request.dtype}]",
        verdict=Verdict(report.outcome),
        evidence=request.cell.evidence if ran else Evidence.NONE,
        figures=dict(check.figures) if check else {},
        case=check.case if check else "",
        message=_words(report),
        seed=item.config.option.parity_seed,
        source=source_hash(registry.kernel(request.cell.kernel)),
        versions=record.versions(),
        device=describe(check.device) if check and (ran and request.cell.needs_device) else {},
        seconds=round(report.duration, 3),
    )


def _words(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longreprtext)


class Collector:
    """Collects what reports and workers bring, in the only process or in xdist's controller."""

    def __init__(self, run: Run, records: Path | None) -> None:
        self._run = run
        self._records = records

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record of a check; write it with ``--records``."""
        from harness import record

        for name, value in report.user_properties:
            if name != _RECORD:
                continue
            self._run.records.append(record.from_json(str(value)))
            if self._records:
                with self._records.open("a", encoding="utf-8") as file:
                    file.write(f"{value}\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Take what a worker knew."""
        output = getattr(node, "workeroutput", {})
        cells = (Cell(k, a, Layer(v)) for k, a, v in output.get(_INVENTORY, ()))
        self._run.inventory.update(dict.fromkeys(cells))
        self._run.refusal = self._run.refusal or output.get(_REFUSAL, "")


def hand_over(run: Run, output: MutableMapping[str, object]) -> None:
    """Put what a worker knows where xdist takes it to its controller."""
    output[_REFUSAL] = run.refusal
    output[_INVENTORY] = [(cell.kernel, cell.arch, str(cell.layer)) for cell in run.inventory]


def summarize(run: Run, reporter: pytest.TerminalReporter) -> None:
    """Write the verdict table and the totals, or why there are none."""
    from harness import table

    if run.refusal:
        reporter.write_line(f"ERROR: {run.refusal}", red=True)
    if not run.records:
        return
    results = table.verdicts(run.inventory, run.records)
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    reporter.section("kernel-parity verdicts")
    for line in table.lines(results, unicode=unicode):
        for segment in line:
            markup = {segment.colour: True} if segment.colour else {}
            reporter.write(segment.text, **markup)
        reporter.write("\n")
    for words in (
        *table.skips(run.records),
        *table.unfair(run.records),
        *table.accuracies(run.records),
    ):
        reporter.write_line(words)
    reporter.write_line(table.totals(results))
