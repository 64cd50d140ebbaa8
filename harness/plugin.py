"""The pytest plugin: options, cells as parameters, honest skips, records, the verdict table.

It imports neither torch nor Hypothesis before a suite asks for cells.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness import browser, distribution
from harness.cells import Layer
from harness.options import (
    Isolate,
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
    attach_inventory,
    attach_pending,
    attach_record,
    hand_over,
    locate,
    outcome_of,
    request_of,
    summarize,
)
from harness.reproduction import Reproduction
from harness.selection import Request

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from harness.check import Check
    from harness.isolate.client import Server
    from harness.isolate.messages import Job
    from harness.selection import Selection

_PROGRESS_SECONDS: Final = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the group ``kernel-parity`` and the ini value ``parity_declare``."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse ``-m`` with a marker that nobody registered."""
    register_markers(config)
    worker = getattr(config, "workerinput", {})
    distribution.configure(config)
    run = config.stash[RUN] = Run(worker.get("workerid", ""))
    run.id = worker.get(RUN_ID, run.id)
    if config.option.records and run.worker in {"", Inventory.WORKER}:
        keeper = Inventory(config, run, lambda: _load(config), lambda: _devices_here(config))
        config.pluginmanager.register(keeper, "kernel-parity-inventory")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - a worker of xdist
    """Tell a worker which run it belongs to."""
    node.workerinput[RUN_ID] = node.config.stash[RUN].id


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """As many workers as devices, their memory, the host's and cores allow."""
    return distribution.auto_workers(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The run's seed, the installed versions, and what workers share."""
    from harness.record import versions

    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    seed = f"kernel-parity: seed {config.option.parity_seed}, {found}"
    return [seed, *distribution.header(config)]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The device of the run, once cells are known to be there."""
    cells = [item for item in items if request_of(item)]
    if not cells:
        return []
    none = "none: cells that need a GPU are skipped and counted"
    archs = ", ".join(_devices_here(config)) or none
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
    """Apply ``--kernel``, ``--op``, ``--layer`` and ``--case``; cells in the run's order."""
    run, selection = config.stash[RUN], selection_of(config)
    if selection.of_cells:
        _load(config)
    dropped = [item for item in items if run.refusal or not _wanted(selection, item)]
    if dropped:
        said = [item for item in dropped if request_of(item) or not _is_ours(item)]
        config.hook.pytest_deselected(items=said)
        gone = set(map(id, dropped))
        items[:] = [item for item in items if id(item) not in gone]
    requests = {item: request for item in items if (request := request_of(item))}
    distribution.arrange(config, items, requests)
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
    here = _devices_here(item.config)
    if any_gpu and not here:
        pytest.skip("no GPU is on this machine")
    if request is not None and request.cell.arch not in here:
        machine = ", ".join(here) or "no GPU"
        pytest.skip(f"{request.cell.arch} is not on this machine, which has {machine}")
    if request is not None and (missing := _missing_backend(request.cell.kernel)):
        pytest.skip(missing)


def _devices_here(config: pytest.Config) -> Mapping[str, Mapping[str, str]]:
    """This machine's devices by arch; where cells are isolated, as their process sees them.

    So this process makes no CUDA context of its own: it would take memory on a device of others.
    """
    from harness import device

    if Isolate(config.option.isolate) is Isolate.NONE or not device.has_gpu():
        return device.described()
    return _server(config).devices


def _server(config: pytest.Config) -> Server:
    from harness.isolate.client import Server
    from harness.isolate.messages import Setup

    run = config.stash[RUN]
    if run.server is None:
        run.server = Server(Setup(targets_of(config), ("pytest",)), dict(os.environ))
    return run.server


def _is_isolated(item: pytest.Item) -> bool:
    """Whether a test runs in another process, which has its check and no other fixture."""
    request = request_of(item)
    return (
        isinstance(item, pytest.Function)
        and request is not None
        and Isolate(item.config.option.isolate).covers(request.cell)
        and item.cls is None
        and set(item._fixtureinfo.argnames) == {"parity"}  # noqa: SLF001 - no public spelling
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the server of cells load while the first tests run here."""
    if not session.config.option.collectonly and any(map(_is_isolated, session.items)):
        _server(session.config).start()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an isolated check in the process of cells, and take over what came of it."""
    request = request_of(pyfuncitem)
    if request is None or not _is_isolated(pyfuncitem):
        return None
    from harness.isolate.conduct import Conduct, limit_of

    config, check = pyfuncitem.config, pyfuncitem.stash[CHECK]
    conduct = Conduct(
        server=_server(config),
        job=_job(pyfuncitem, check, request),
        check=check,
        limit=limit_of(check.cell, config.option.cell_seconds),
        show=check.progress,
    )
    try:
        conduct.run()
    finally:
        sys.stdout.write("".join(conduct.output))
    return True


def _job(item: pytest.Function, check: Check, request: Request) -> Job:
    from harness.isolate.messages import Job

    return Job(
        module=item.module.__name__,
        path=item.path,
        function=item.function.__name__,
        cell=check.cell,
        dtype=check.dtype,
        kind=request.kind,
        settings=check.settings,
        reproduce=_reproduction(item, request),
        filters=tuple(warnings.filters),
        images=item.config.option.error_images,
    )


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
        reproduce=_reproduction(request.node, wanted),
        progress=lambda words: _show_progress(request.config, words),
    )
    if wanted.cell.needs_device and _is_isolated(request.node):
        check.device_words = _server(request.config).devices.get(wanted.cell.arch, {})
    request.node.stash[CHECK] = check
    return check


def _reproduction(item: pytest.Item, request: Request) -> Reproduction:
    try:
        where = item.path.relative_to(item.config.invocation_params.dir).as_posix()
    except ValueError:
        where = f"--pyargs {item.getparent(pytest.Module).obj.__name__}"  # type: ignore[union-attr]
    option = item.config.option
    words = [f"--declare={target}" for target in option.declare]
    if option.isolate != Isolate.DEVICE:
        words.append(f"--isolate={option.isolate}")
    return Reproduction(where, (*words, "-m", request.cell.arch))


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
    from harness.isolate.conduct import RemoteError
    from harness.judge import ParityFailure

    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, ParityFailure):
        if not _is_isolated(item):
            locate(item, request, error)
        if error.case:
            item.stash[CHECK].case = error.case
        report.longrepr = str(error)
        report.sections = []  # what compilers log while tracing buries the report
    elif isinstance(error, RemoteError):
        report.longrepr = str(error)
    attach_inventory(item.config.stash[RUN], report)
    if report.when == "setup" and report.passed and item.config.stash[RUN].worker:
        attach_pending(item, request, report)
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
    """Make a refusal a usage error; send a worker's to xdist's controller.

    A usage error that is raised while collecting prints as a crash of the plugin, or of a worker.
    """
    run, output = session.config.stash[RUN], getattr(session.config, "workeroutput", None)
    if run.server is not None:
        run.server.close()
    if output is None and run.refusal:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if output is not None:
        hand_over(run, output)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the verdict table and the totals."""
    summarize(config.stash[RUN], terminalreporter)
