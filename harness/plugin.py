"""The pytest plugin: options, cells as parameters, honest skips, records, the verdict table.

It imports neither torch nor Hypothesis before a suite asks for cells.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.arch import ARCHES, CPU
from harness.cells import Cell, Evidence, Layer, Verdict
from harness.selection import Request, Selection

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from harness.check import Check, Settings
    from harness.judge import ParityFailure
    from harness.record import Record

_ARCH_WORDS: Final = {
    CPU: "cells that run without a GPU",
    **dict.fromkeys(ARCHES, "cells of that arch"),
}
_RECORD: Final = "kernel_parity_record"
_INVENTORY: Final = "kernel_parity_inventory"
_REFUSAL: Final = "kernel_parity_refusal"
_PROGRESS_SECONDS: Final = 1.0
_GPU_WORKERS: Final = 8


@dataclass
class Run:
    """What the plugin keeps for one pytest session."""

    loaded: bool = False
    refusal: str = ""  # why nothing could be loaded
    records: list[Record] = field(default_factory=list)
    inventory: dict[Cell, None] = field(default_factory=dict)  # an ordered set
    last_progress: float = 0.0


RUN: Final = pytest.StashKey[Run]()
CHECK: Final = pytest.StashKey["Check"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the group ``kernel-parity`` and the ini value ``parity_declare``."""
    group = parser.getgroup("kernel-parity", "parity of migrated GPU kernels")
    add = group.addoption
    add(
        "--declare",
        action="append",
        default=[],
        metavar="TARGET",
        help="package, module or .py file that declares ops and kernels; may be given again",
    )
    add("--kernel", action="append", default=[], metavar="NAME", help="only cells of this kernel")
    add("--op", action="append", default=[], metavar="NAME", help="only cells of this op")
    add(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        choices=[str(v) for v in Layer],
        help="only cells of this layer: %(choices)s",
    )
    add("--case", metavar="ID", help="check this one case or probe, as a failure prints it")
    add(
        "--cases",
        type=_positive,
        metavar="N",
        help="generated cases per kernel, arch and dtype (default 18 emulated, 96 on a device)",
    )
    add("--parity-seed", type=int, default=0, metavar="N", help="seed of the run (default 0)")
    add("--records", type=Path, metavar="PATH", help="write one JSON line per check to PATH")
    add(
        "--error-images",
        type=_picture_folder,
        metavar="DIR",
        help="draw the errors of each failing numeric check into a PNG file in DIR",
    )
    add("--e2e-model", type=Path, metavar="DIR", help="folder of the end-to-end model's files")
    parser.addini("parity_declare", "packages or files that declare ops and kernels", "args", [])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"--cases={text!r} is not a whole number of at least 1"
        raise pytest.UsageError(msg)
    return int(text)


def _picture_folder(text: str) -> Path:
    folder = Path(text)
    if find_spec("matplotlib") is None:
        msg = (
            f"--error-images={text!r} needs matplotlib, which is not installed; "
            "python -m pip install 'kernel-parity[picture]'"
        )
        raise pytest.UsageError(msg)
    if folder.exists() and not folder.is_dir():
        msg = f"--error-images={text!r} is a file; name a folder, which is made if need be"
        raise pytest.UsageError(msg)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse ``-m`` with a marker that nobody registered."""
    add = config.addinivalue_line
    for layer in Layer:
        add("markers", f"{layer}: checks of the layer {layer}")
    for arch, words in _ARCH_WORDS.items():
        add("markers", f"{arch}: {words}")
    add(
        "markers",
        "parity(layer, by=None, kind='', needs=''): a test over the cells of a layer, by='dtype' "
        "for each; kind ends the ids of its cases; needs names a field of the op that is not empty",
    )
    add("markers", "gpu: a test of the harness itself that needs a CUDA device of any arch")
    config.stash[RUN] = Run()
    _check_marker_expression(config)
    if config.option.records and not hasattr(config, "workerinput"):
        config.option.records.parent.mkdir(parents=True, exist_ok=True)
        config.option.records.write_text("", encoding="utf-8")


def _check_marker_expression(config: pytest.Config) -> None:
    known = {line.partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")}
    expression = config.option.markexpr
    words = set(re.findall(r"\b[A-Za-z_]\w*", re.sub(r"\([^()]*=[^()]*\)", "", expression)))
    if unknown := sorted(words - known - {"and", "or", "not", "True", "False"}):
        ours = ", ".join([*(str(layer) for layer in Layer), *_ARCH_WORDS])
        msg = f"-m {expression!r}: no marker {unknown[0]!r} is registered; among them: {ours}"
        raise pytest.UsageError(msg)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Few workers where they share GPUs: each holds a CUDA context of half a gigabyte."""
    if not Path("/dev/nvidiactl").exists():
        return None
    return min(_GPU_WORKERS, len(os.sched_getaffinity(0)))


def pytest_report_header(config: pytest.Config) -> str:
    """The run's seed and the installed versions."""
    from harness.record import versions

    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"kernel-parity: seed {config.option.parity_seed}, {found}"


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The device of the run, once cells are known to be there."""
    cells = [item for item in items if _request(item)]
    if not cells:
        return []
    from harness.device import present_archs

    archs = ", ".join(present_archs()) or "none: cells that need a GPU are skipped and counted"
    return [f"kernel-parity: {len(cells)} checks, GPU archs here: {archs}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test marked ``parity(layer=...)`` every cell of its layer."""
    marker = metafunc.definition.get_closest_marker("parity")
    if "parity" not in metafunc.fixturenames or marker is None:
        return
    _load(metafunc.config)
    layer = Layer(marker.kwargs["layer"])
    requests = list(_requests(metafunc.config, marker.kwargs))
    parameters = [
        pytest.param(
            r, id=r.id, marks=[getattr(pytest.mark, layer.value), getattr(pytest.mark, r.cell.arch)]
        )
        for r in requests
    ]
    metafunc.parametrize("parity", parameters or [pytest.param(None, id="none")], indirect=True)


def _requests(config: pytest.Config, wanted: Mapping[str, str]) -> Iterator[Request]:
    from harness import registry

    for cell in config.stash[RUN].inventory:
        op = registry.op(registry.kernel(cell.kernel).op)
        needs = wanted.get("needs")
        if cell.layer != wanted["layer"] or (needs and not getattr(op, needs)):
            continue
        for dtype in op.dtypes if wanted.get("by") == "dtype" else (None,):
            yield Request(cell, dtype, wanted.get("kind", ""))


def _load(config: pytest.Config) -> None:
    run = config.stash[RUN]
    if run.loaded:
        return
    from harness import registry
    from harness.cells import inventory

    run.loaded = True
    try:
        registry.load_all([*config.getini("parity_declare"), *config.option.declare])
        cells = inventory(registry.kernels(), registry.subjects())
        _selection(config).check()
    except (LookupError, ValueError, ImportError) as error:
        run.refusal = str(error)
    else:
        run.inventory.update(dict.fromkeys(cells))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Apply ``--kernel``, ``--op``, ``--layer`` and ``--case``; layers in their order."""
    run, selection = config.stash[RUN], _selection(config)
    if selection.of_cells:
        _load(config)
    dropped = [item for item in items if run.refusal or not _wanted(selection, item)]
    if dropped:
        config.hook.pytest_deselected(items=[i for i in dropped if _request(i) or not _is_ours(i)])
        gone = set(map(id, dropped))
        items[:] = [item for item in items if id(item) not in gone]
    if config.option.case and not items and not run.refusal:
        run.refusal = f"--case={config.option.case!r} belongs to none of the selected tests"


def _selection(config: pytest.Config) -> Selection:
    option = config.option
    return Selection(
        kernels=option.kernel,
        ops=option.op,
        layers=option.layer,
        case=option.case,
        declared=bool(option.declare),
    )


def _wanted(selection: Selection, item: pytest.Item) -> bool:
    if request := _request(item):
        return selection.wants(request)
    if _is_ours(item):
        return False  # stands for a layer without cells
    marker = item.get_closest_marker("parity")
    of_all = marker is not None and selection.wants_all_of(marker.kwargs["layer"])
    return not selection.of_cells or of_all


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the harness's own tests alone where only cells are wanted: they need more packages."""
    ours = collection_path == Path(__file__).parent.parent / "suites" / "meta"
    return True if ours and _selection(config).of_cells else None


def _is_ours(item: pytest.Item) -> bool:
    return "parity" in getattr(item, "fixturenames", ())


def _request(item: pytest.Item) -> Request | None:
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("parity") if callspec else None
    return found if isinstance(found, Request) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an arch, or any GPU, that is not here, with the reason."""
    request, any_gpu = _request(item), item.get_closest_marker("gpu")
    if not any_gpu and (request is None or not request.cell.needs_device):
        return
    from harness.device import present_archs

    here = present_archs()
    if any_gpu and not here:
        pytest.skip("no GPU is on this machine")
    if request is not None and request.cell.arch not in here:
        machine = ", ".join(here) or "no GPU"
        pytest.skip(f"{request.cell.arch} is not on this machine, which has {machine}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip, with its words as the reason, where a model or package is not on this machine."""
    from harness.subjects import Unavailable

    try:
        return (yield)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Check:
    """The check of one cell: its kernel, op and device, and how to search for a failing case."""
    from harness.check import Check

    wanted: Request = request.param
    check = Check(
        cell=wanted.cell,
        dtype=wanted.dtype,
        settings=_settings(request.config),
        reproduce=lambda case: _reproduction(request.node, wanted, case),
        progress=lambda words: _show_progress(request.config, words),
    )
    request.node.stash[CHECK] = check
    return check


def _settings(config: pytest.Config) -> Settings:
    from harness.check import Settings

    return Settings(
        seed=config.option.parity_seed,
        cases=config.option.cases,
        database=config.rootpath / ".hypothesis" / "kernel-parity",
        only=config.option.case,
        e2e_model=config.option.e2e_model,
    )


def _reproduction(item: pytest.Item, request: Request, case: str) -> str:
    try:
        where = item.path.relative_to(item.config.invocation_params.dir).as_posix()
    except ValueError:
        where = f"--pyargs {item.getparent(pytest.Module).obj.__name__}"  # type: ignore[union-attr]
    declare = [f"--declare={target}" for target in item.config.option.declare]
    words = [*declare, "-m", request.cell.arch, "--case", case]
    return f"pytest {where} {shlex.join(words)}"


def _show_progress(config: pytest.Config, words: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    run, now = config.stash[RUN], time.monotonic()
    if reporter is None or not reporter.isatty or now - run.last_progress < _PROGRESS_SECONDS:
        return
    run.last_progress = now
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.rewrite(f"  {words}", erase=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shorten a parity failure to its report, and attach the record of the check."""
    report = yield
    request = _request(item)
    if request is None:
        return report
    from harness.judge import ParityFailure

    if call.excinfo is not None and isinstance(call.excinfo.value, ParityFailure):
        _draw(item, request, call.excinfo.value)
        report.longrepr = str(call.excinfo.value)
        report.sections = []  # what compilers log while tracing buries the report
    if report.when == "call" or not report.passed:
        report.user_properties.append((_RECORD, _record(item, request, report).to_json()))
    return report


def _draw(item: pytest.Item, request: Request, failure: ParityFailure) -> None:
    """With ``--error-images``, put the path of a picture into a failed comparison's report."""
    folder, check = item.config.option.error_images, item.stash[CHECK]
    if folder is None or request.cell.layer is not Layer.NUMERIC or request.kind:
        return
    from harness import picture

    path = folder / f"{request.cell}-{request.dtype}.png"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not picture.of_failure(check, failure.case, path):
            return
    except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
        failure.picture = f"none: {type(error).__name__}: {error}"
        return
    failure.picture = check.figures["picture"] = str(path)


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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Collect records where reports come together: in the only process, or xdist's controller."""
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Collector(session.config), "kernel-parity-collector")


class _Collector:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from harness import record

        for name, value in report.user_properties:
            if name != _RECORD:
                continue
            self._config.stash[RUN].records.append(record.from_json(str(value)))
            if self._config.option.records:
                with self._config.option.records.open("a", encoding="utf-8") as file:
                    file.write(f"{value}\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        output = getattr(node, "workeroutput", {})
        cells = (Cell(k, a, Layer(v)) for k, a, v in output.get(_INVENTORY, ()))
        run = self._config.stash[RUN]
        run.inventory.update(dict.fromkeys(cells))
        run.refusal = run.refusal or output.get(_REFUSAL, "")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make a refusal a usage error; send what a worker knows to xdist's controller.

    A usage error that is raised while collecting prints as a crash of the plugin, or of a worker.
    """
    run, output = session.config.stash[RUN], getattr(session.config, "workeroutput", None)
    if output is None and run.refusal:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if output is not None:
        output[_REFUSAL] = run.refusal
        cells = run.inventory
        output[_INVENTORY] = [(cell.kernel, cell.arch, str(cell.layer)) for cell in cells]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the verdict table and the totals."""
    from harness import table

    run = config.stash[RUN]
    if run.refusal:
        terminalreporter.write_line(f"ERROR: {run.refusal}", red=True)
    if not run.records:
        return
    results = table.verdicts(run.inventory, run.records)
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    terminalreporter.section("kernel-parity verdicts")
    for line in table.lines(results, unicode=unicode):
        for segment in line:
            markup = {segment.colour: True} if segment.colour else {}
            terminalreporter.write(segment.text, **markup)
        terminalreporter.write("\n")
    for words in (*table.skips(run.records), *table.unfair(run.records)):
        terminalreporter.write_line(words)
    terminalreporter.write_line(table.totals(results))
