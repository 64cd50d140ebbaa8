"""The pytest plugin: options, cells as parameters, honest skips, records, the verdict table.

It imports neither torch nor Hypothesis before a suite asks for cells.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness import browser, reproduction
from harness.cells import Layer
from harness.options import (
    add_options,
    asks_to_sanitize,
    register_markers,
    selection_of,
    settings_of,
    targets_of,
)
from harness.reporting import (
    CHECK,
    RUN,
    RUN_ID,
    Collector,
    Inventory,
    Run,
    attach_record,
    hand_over,
    locate,
    outcome_of,
    request_of,
    summarize,
)
from harness.selection import Request

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from harness.check import Check
    from harness.selection import Selection

_PROGRESS_SECONDS: Final = 1.0
_GPU_WORKERS: Final = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the group ``kernel-parity`` and the ini value ``parity_declare``."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse ``-m`` with a marker that nobody registered."""
    register_markers(config)
    worker = getattr(config, "workerinput", {})
    run = config.stash[RUN] = Run(worker.get("workerid", ""))
    run.id = worker.get(RUN_ID, run.id)
    if config.option.records and run.worker in {"", Inventory.WORKER}:
        keeper = Inventory(config, run, lambda: _load(config))
        config.pluginmanager.register(keeper, "kernel-parity-inventory")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - a worker of xdist
    """Tell a worker which run it belongs to."""
    node.workerinput[RUN_ID] = node.config.stash[RUN].id


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
    cells = [item for item in items if request_of(item)]
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
        registry.load_all(targets_of(config))
        sanitize = asks_to_sanitize(config)
        cells = inventory(registry.kernels(), registry.subjects(), sanitize=sanitize)
        selection_of(config).check()
    except (LookupError, ValueError, ImportError) as error:
        run.refusal = str(error)
    else:
        run.inventory.update(dict.fromkeys(cells))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Apply ``--kernel``, ``--op``, ``--layer`` and ``--case``; layers in their order."""
    run, selection = config.stash[RUN], selection_of(config)
    if selection.of_cells:
        _load(config)
    dropped = [item for item in items if run.refusal or not _wanted(selection, item)]
    if dropped:
        said = [item for item in dropped if request_of(item) or not _is_ours(item)]
        config.hook.pytest_deselected(items=said)
        gone = set(map(id, dropped))
        items[:] = [item for item in items if id(item) not in gone]
    if config.option.case and not items and not run.refusal:
        run.refusal = f"--case={config.option.case!r} belongs to none of the selected tests"


def _wanted(selection: Selection, item: pytest.Item) -> bool:
    if request := request_of(item):
        return selection.wants(request)
    if _is_ours(item):
        return False  # stands for a layer without cells
    marker = item.get_closest_marker("parity")
    of_all = marker is not None and selection.wants_all_of(marker.kwargs["layer"])
    return not selection.of_cells or of_all


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the harness's own tests alone where only cells are wanted: they need more packages."""
    ours = collection_path == Path(__file__).parent.parent / "suites" / "meta"
    return True if ours and selection_of(config).of_cells else None


def _is_ours(item: pytest.Item) -> bool:
    return "parity" in getattr(item, "fixturenames", ())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an arch, a GPU, a language or a browser that is not here, with the reason."""
    if item.get_closest_marker("browser") and not browser.executable():
        pytest.skip(browser.MISSING)
    request, any_gpu = request_of(item), item.get_closest_marker("gpu")
    if not any_gpu and (request is None or not request.cell.needs_device):
        return
    from harness.device import present_archs

    here = present_archs()
    if any_gpu and not here:
        pytest.skip("no GPU is on this machine")
    if request is not None and request.cell.arch not in here:
        machine = ", ".join(here) or "no GPU"
        pytest.skip(f"{request.cell.arch} is not on this machine, which has {machine}")
    if request is not None and (missing := _missing_backend(request.cell.kernel)):
        pytest.skip(missing)


def _missing_backend(kernel: str) -> str:
    """Why a kernel's language cannot be used here, and what to install; empty if it can."""
    from harness import backends, registry

    try:
        backends.require_installed(registry.kernel(kernel).backend)
    except backends.BackendMissing as error:
        return str(error)
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip, with its words as the reason, where a model or package is not on this machine."""
    from harness.launches import name_launches
    from harness.subjects import Unavailable

    with name_launches() as names:
        try:
            return (yield)
        except Unavailable as error:
            pytest.skip(str(error))
        finally:
            if check := item.stash.get(CHECK, None):
                check.launched |= names


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Check:
    """The check of one cell: its kernel, op and device, and how to search for a failing case."""
    from harness.check import Check

    wanted: Request = request.param
    check = Check(
        cell=wanted.cell,
        dtype=wanted.dtype,
        settings=settings_of(request.config),
        reproduce=lambda case: _reproduction(request.node, wanted, case),
        progress=lambda words: _show_progress(request.config, words),
    )
    request.node.stash[CHECK] = check
    return check


def _reproduction(item: pytest.Item, request: Request, case: str) -> str:
    try:
        where = item.path.relative_to(item.config.invocation_params.dir).as_posix()
    except ValueError:
        where = f"--pyargs {item.getparent(pytest.Module).obj.__name__}"  # type: ignore[union-attr]
    return reproduction.of_case(where, request.cell.arch, case, declare=item.config.option.declare)


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
    request = request_of(item)
    if request is None:
        return report
    from harness.judge import ParityFailure

    if call.excinfo is not None and isinstance(call.excinfo.value, ParityFailure):
        locate(item, request, call.excinfo.value)
        report.longrepr = str(call.excinfo.value)
        report.sections = []  # what compilers log while tracing buries the report
    if report.when == "call" or not report.passed:
        outcome = outcome_of(report, call.excinfo and call.excinfo.value)
        attach_record(item, request, report, outcome)
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Collect records where reports come together: in the only process, or xdist's controller."""
    if not hasattr(session.config, "workerinput"):
        collector = Collector(session.config.stash[RUN], session.config.option.records)
        session.config.pluginmanager.register(collector, "kernel-parity-collector")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make a refusal a usage error; send what a worker knows to xdist's controller.

    A usage error that is raised while collecting prints as a crash of the plugin, or of a worker.
    """
    run, output = session.config.stash[RUN], getattr(session.config, "workeroutput", None)
    if output is None and run.refusal:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if output is not None:
        hand_over(run, output)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the verdict table and the totals."""
    summarize(config.stash[RUN], terminalreporter)
