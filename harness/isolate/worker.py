"""The process that cells run in: one test after another, until something ends it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from harness import device as devices
from harness.cells import Layer, Outcome
from harness.check import Check, Monitor, Scope
from harness.exhaustion import is_exhaustion
from harness.isolate import server
from harness.isolate.messages import (
    Began,
    Ended,
    Job,
    Listing,
    Progress,
    Ready,
    Result,
    Searching,
)
from harness.judge import ParityFailure
from harness.launches import name_launches
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

_PR_SET_PDEATHSIG: Final = 1
_PROGRESS_SECONDS: Final = 0.5
_STACK: Final = 30  # frames of an exception that are told


class Lost(BaseException):
    """The process cannot go on: no search may go on in it and call what follows a failure.

    No Exception, so that nothing between a case and the process takes it for a failure of a case.
    """

    def __init__(self, outcome: Outcome, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.outcome = outcome
        self.problems = problems


def main(fd: int) -> NoReturn:
    """Load what is declared and live: the way of a child that could not be forked."""
    pipe = Connection(fd)
    setup, log = pipe.recv()
    if error := server.load(setup):
        sys.stderr.write(f"{error}\n")
        os._exit(1)
    live(pipe, log)


def live(pipe: Connection, log: Path) -> NoReturn:
    """Run the tests that come by ``pipe`` until it is closed or a test ends this process."""
    status = 1
    try:
        _settle(log)
        pipe.send(Ready(devices.described()))
        spent = False
        while not spent:
            result = perform(pipe.recv(), pipe.send)
            _flush()
            pipe.send(result)
            spent = result.spent
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # whoever gave the tests has gone
    except BaseException:  # noqa: BLE001 - the last words of a process that is not well
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)  # no thread that a kernel left behind is waited for


def _settle(log: Path) -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(2, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's interrupt ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, AttributeError):  # where it is not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The kernel's OOM killer shall choose this process, and not the one that reports.
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


class Teller(Monitor):
    """Tells the parent what a check is at, and looks after the device."""

    profiles = True

    def __init__(self, device: torch.device | None, send: Callable[[object], None]) -> None:
        self._device = device
        self._send = send
        self._told = 0.0
        self.case = ""

    def searches(self, config: str, index: int, scope: Scope) -> None:
        """A search begins."""
        self._send(Searching(config, index, scope))

    def lists(self) -> None:
        """A list begins."""
        self._send(Listing())

    def began(self, case: str) -> None:
        """A case begins."""
        self.case = case
        self._send(Began(case))

    def ended(self, case: str, words: str = "", error: BaseException | None = None) -> None:
        """A case is over; raises Lost if it took the device or the memory with it."""
        if words or error is not None:
            self.look(words, error)
        self._send(Ended(case, words))

    def look(self, words: str = "", error: BaseException | None = None) -> None:
        """Raise Lost if memory ran out, or the device no longer answers."""
        starved = getattr(error, "outcome", None) is Outcome.OUT_OF_MEMORY
        said = error.problems if isinstance(error, ParityFailure) else (words,)
        if starved or is_exhaustion(error):
            raise Lost(Outcome.OUT_OF_MEMORY, said)
        fault = devices.fault_of(self._device) if self._device else ""
        if fault:
            told = [each for each in said if each]
            raise Lost(Outcome.CRASHED, [f"the CUDA context is lost: {fault}", *told])

    def progress(self, words: str) -> None:
        """Pass on some of the words for whoever looks on."""
        if (now := time.monotonic()) - self._told > _PROGRESS_SECONDS:
            self._told = now
            self._send(Progress(words))


def perform(job: Job, send: Callable[[object], None]) -> Result:
    """Run one test; what it raises is its result."""
    device = devices.first_device(job.cell.arch) if job.cell.needs_device else None
    teller = Teller(device, send)
    check = Check(
        cell=job.cell,
        dtype=job.dtype,
        settings=job.settings,
        reproduce=job.reproduce,
        progress=teller.progress,
        monitor=teller,
        done=job.done,
    )
    with name_launches() as names:
        result = _outcome(job, check, teller)
    return replace(result, figures=check.figures, case=check.case, launched=tuple(sorted(names)))


@dataclass(frozen=True)
class _Run:
    """What is the same for every way in which a test can end."""

    job: Job
    check: Check
    teller: Teller

    def failed(self, failure: ParityFailure) -> Result:
        spent = failure.outcome is Outcome.OUT_OF_MEMORY
        return Result(outcome=failure.outcome, failure=failure, spent=spent)

    def lost(self, lost: Lost) -> Result:
        self.check.case = self.teller.case
        failure = self.check.failure(lost.problems, self.teller.case, outcome=lost.outcome)
        return Result(outcome=lost.outcome, failure=failure, spent=True)

    def raised(self, error: BaseException) -> Result:
        starved = is_exhaustion(error)
        outcome = Outcome.OUT_OF_MEMORY if starved else Outcome.REFUSED
        text = "".join(traceback.format_exception(error, limit=-_STACK))
        return Result(outcome=outcome, text=text, spent=starved)


def _outcome(job: Job, check: Check, teller: Teller) -> Result:
    run = _Run(job, check, teller)
    try:
        with _warning_as(job.filters):
            result = _call(run)
        teller.look()  # a fault that no case was told of
    except Lost as lost:
        return run.lost(lost)
    return result


def _call(run: _Run) -> Result:
    try:
        _function(run.job)(run.check)
    except ParityFailure as failure:
        _draw(run, failure)
        return run.failed(failure)
    except Unavailable as reason:
        return Result(outcome=Outcome.UNAVAILABLE, text=str(reason))
    except (Lost, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - classified and reported, never swallowed
        return run.raised(error)
    return Result(outcome=Outcome.PASSED)


def _draw(run: _Run, failure: ParityFailure) -> None:
    if run.job.cell.layer is not Layer.NUMERIC or run.job.kind:
        return
    from harness import picture

    picture.attach(run.check, failure, run.job.images)


def _function(job: Job) -> Callable[[Check], None]:
    """The test, from the file that pytest found it in."""
    module = sys.modules.get(job.module)
    if module is None or not _is_of(module, job.path):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(job.module)
    if module is None or not _is_of(module, job.path):
        spec = importlib.util.spec_from_file_location(job.module, job.path)
        if spec is None or spec.loader is None:
            msg = f"{job.path} cannot be imported as Python source; use --isolate=none"
            raise ImportError(msg)
        module = importlib.util.module_from_spec(spec)
        sys.modules[job.module] = module
        spec.loader.exec_module(module)
    found: Callable[[Check], None] = getattr(module, job.function)
    return found


def _is_of(module: object, path: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "").resolve() == path.resolve()


@contextmanager
def _warning_as(filters: tuple[Any, ...]) -> Iterator[None]:
    """Treat warnings as the parent's test does, in which they may be errors."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filters.extend(filters)  # type: ignore[attr-defined]
        yield
