"""What a run under pytest leaves behind: records, pictures of failures, the verdict table.

Records travel with the reports of tests, so that they come together in xdist's controller too.
"""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from harness.cells import Cell, Evidence, Layer, Outcome
from harness.selection import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from pathlib import Path

    from harness.check import Check
    from harness.isolate.client import Server
    from harness.judge import ParityFailure
    from harness.manifest import Asked, Manifest
    from harness.record import Record

    _Rows = Iterable[tuple[str, str, str]]

_RECORD: Final = "kernel_parity_record"
_REMEDY: Final = "--isolate=all makes such a crash the outcome of its case, and of no worker"
_PENDING: Final = "kernel_parity_pending"
_INVENTORY: Final = "kernel_parity_inventory"
_REFUSAL: Final = "kernel_parity_refusal"
RUN_ID: Final = "kernel_parity_run"


@dataclass
class Run:
    """What the plugin keeps for one pytest session; ``worker`` is xdist's name for it, or empty."""

    worker: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    loaded: bool = False
    refusal: str = ""  # why nothing could be loaded
    records: list[Record] = field(default_factory=list)
    inventory: dict[Cell, None] = field(default_factory=dict)  # an ordered set
    told: bool = False  # of a worker: whether its controller has the inventory
    last_progress: float = 0.0
    server: Server | None = None  # of isolated cells


CHECK: Final[pytest.StashKey[Check]] = pytest.StashKey()
RUN: Final = pytest.StashKey[Run]()


def locate(item: pytest.Item, request: Request, failure: ParityFailure) -> None:
    """Put where a failed comparison's errors lie into its record; draw them if that is asked for.

    With ``--error-images`` the report has the path of a picture.
    """
    if request.cell.layer is Layer.NUMERIC and not request.kind:
        from harness import picture

        picture.attach(item.stash[CHECK], failure, item.config.option.error_images)


def request_of(item: pytest.Item) -> Request | None:
    """The cell that a test item checks, if it is a check of one."""
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("parity") if callspec else None
    return found if isinstance(found, Request) else None


def outcome_of(report: pytest.TestReport, error: BaseException | None) -> Outcome:
    """What became of a check, from its report and what it raised."""
    if report.passed:
        return Outcome.PASSED
    if report.skipped:
        return Outcome.UNAVAILABLE
    if (told := getattr(error, "outcome", None)) in tuple(Outcome):
        return Outcome(told)
    if "torch" in sys.modules:
        from harness.exhaustion import is_exhaustion

        return Outcome.OUT_OF_MEMORY if is_exhaustion(error) else Outcome.REFUSED
    return Outcome.REFUSED


def attach_record(
    item: pytest.Item, request: Request, report: pytest.TestReport, outcome: Outcome
) -> None:
    """Let a report carry the record of its check."""
    report.user_properties.append((_RECORD, _record(item, request, report, outcome).to_json()))


def attach_pending(item: pytest.Item, request: Request, report: pytest.TestReport) -> None:
    """Let the report of a set-up carry the record that stands if this worker dies of the check."""
    record = _record(item, request, report, Outcome.CRASHED)
    report.user_properties.append((_PENDING, record.to_json()))


def attach_inventory(run: Run, report: pytest.TestReport) -> None:
    """Let a worker's first report of a check carry what is claimed.

    Not what it leaves at its end: a run that is interrupted has none, and counts cells too.
    """
    if run.worker and not run.told:
        run.told = True
        rows = [(cell.kernel, cell.arch, str(cell.layer)) for cell in run.inventory]
        report.user_properties.append((_INVENTORY, rows))


def asked(item: pytest.Item, request: Request) -> Asked:
    """The check that an item is, by the words of its record.

    What else a test is a parameter of stands between its name and the dtype.
    """
    from harness.layers import named
    from harness.manifest import Asked

    callspec = getattr(item, "callspec", None)
    other = callspec.id.replace(request.id, "").strip("-") if callspec else ""
    test = named(str(getattr(item, "originalname", item.name)), other)
    cell, dtype = request.cell, request.dtype or ""
    return Asked(cell.kernel, cell.arch, str(cell.layer), named(test, dtype), dtype)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _record(
    item: pytest.Item, request: Request, report: pytest.TestReport, outcome: Outcome
) -> Record:
    from harness import record, registry
    from harness.sources import source_hash

    check = item.stash.get(CHECK, None)
    ran = check is not None and not report.skipped
    kernel, run = registry.kernel(request.cell.kernel), item.config.stash[RUN]
    figures: dict[str, Any] = dict(check.figures) if check else {}
    return record.Record(
        **asked(item, request)._asdict(),
        verdict=outcome.verdict,
        outcome=outcome,
        evidence=request.cell.evidence if ran else Evidence.NONE,
        cases=figures.pop("cases", 0),
        unfair=figures.pop("unfair", 0),
        figures=figures,
        case=check.case if check else "",
        message=_words(report),
        seed=item.config.option.parity_seed,
        run=run.id,
        worker=run.worker,
        started=_utc(report.start),
        backend=kernel.backend,
        launched=sorted(check.launched) if check else [],
        source=source_hash(kernel),
        versions=record.versions(),
        device=_device(check) if check and (ran and request.cell.needs_device) else {},
        seconds=round(report.duration, 3),
    )


def _device(check: Check) -> Mapping[str, str]:
    from harness.device import describe

    return describe(check.device) if check.device_words is None else check.device_words


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
        self._pending: dict[str, Record] = {}  # of what workers are at, by the item's id

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record of a check; write it with ``--records``."""
        from harness import record

        for name, value in report.user_properties:
            if name == _PENDING:
                self._pending[report.nodeid] = record.from_json(str(value))
            elif name == _RECORD:
                self._pending.pop(report.nodeid, None)
                self._keep(record.from_json(str(value)))
            elif name == _INVENTORY:
                cells = (Cell(k, a, Layer(v)) for k, a, v in cast("_Rows", value))
                self._run.inventory.update(dict.fromkeys(cells))

    def _keep(self, record: Record) -> None:
        self._run.records.append(record)
        if self._records:
            with self._records.open("a", encoding="utf-8") as file:
                file.write(f"{record.to_json()}\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Blame the check that a worker died of, where it ran in that worker itself."""
        if (record := self._pending.pop(crashitem, None)) is not None:
            self._keep(replace(record, message=f"{report.longrepr}; {_REMEDY}"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Take why a worker could load nothing."""
        output = getattr(node, "workeroutput", {})
        self._run.refusal = self._run.refusal or output.get(_REFUSAL, "")


class Inventory:
    """Keeps the manifest of a run with ``--records``: at its start, once collected, at its end.

    Under xdist the first worker knows what was collected and writes it there and then: a run that
    is killed must leave it. The controller writes the rest.
    """

    WORKER: Final = "gw0"

    def __init__(
        self,
        config: pytest.Config,
        run: Run,
        load: Callable[[], None],
        devices: Callable[[], Mapping[str, Mapping[str, str]]],
    ) -> None:
        self._config = config
        self._run = run
        self._load = load  # declares the kernels, where no suite asked for them
        self._devices = devices  # asked once cells are there
        self._records: Path = config.option.records.absolute()
        self._deselected: list[Asked] = []
        if not run.worker:
            _begin(self._records, self._empty())

    def _empty(self) -> Manifest:
        from harness import manifest, record

        return manifest.Manifest(
            run=self._run.id,
            started=_utc(time.time()),
            seed=self._config.option.parity_seed,
            versions=record.versions(),
        )

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Keep what options drop."""
        self._deselected += _all_asked(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write what was claimed, collected and dropped."""
        from harness import claims, manifest

        self._load()
        if self._run.refusal:
            return
        begun = manifest.read(manifest.beside(self._records))
        kept = tuple(_all_asked(session.items))
        found = claims.collected(
            begun, self._run.inventory, kept, self._deselected, self._devices()
        )
        manifest.write(self._records, found)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Say that the run ended in an orderly way, and how."""
        from harness import manifest

        if not self._run.worker:
            manifest.end(self._records, finished=_utc(time.time()), status=int(session.exitstatus))


def _begin(records: Path, empty: Manifest) -> None:
    from harness import atomic, manifest

    try:
        atomic.write_text(records, "")
        manifest.write(records, empty)
    except OSError as error:
        msg = f"--records={str(records)!r}: {error}"
        raise pytest.UsageError(msg) from error


def _all_asked(items: Sequence[pytest.Item]) -> Iterator[Asked]:
    for item in items:
        if (request := request_of(item)) is not None:
            yield asked(item, request)


def hand_over(run: Run, output: MutableMapping[str, object]) -> None:
    """Put why a worker could load nothing where xdist takes it to its controller."""
    output[_REFUSAL] = run.refusal


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
