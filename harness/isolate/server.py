"""The server of cells: loads what is declared, never touches a GPU, and has one child at a time.

A child is forked: it has all that was loaded, and runs its first cell after milliseconds, also when
it replaces one that crashed. CUDA does not survive a fork, so where a declared module touched the
driver while it was imported, a child starts as a process of its own and loads everything anew.

Started by `harness.isolate.client`, with a socket as its only argument.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Final, NoReturn

from harness.isolate.messages import Bear, Born, Buried, Bury, Loaded, Setup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_KIB: Final = 1024
_POLL_SECONDS: Final = 0.02
_DRIVERS: Final = ("/dev/nvidia", "/dev/dxg")
BOOT: Final = (
    "import sys; sys.path[:] = {path!r}; from harness.isolate import {module}; {module}.main({fd})"
)


def command(module: str, fd: int) -> list[str]:
    """The command line of a process of ours that finds the modules that this one does."""
    return [sys.executable, "-c", BOOT.format(path=sys.path, module=module, fd=fd)]


def main(fd: int) -> NoReturn:
    """Serve whoever holds the other end of the socket ``fd`` until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's interrupt ends it
    attend(Connection(fd))
    os._exit(0)


def attend(control: Connection) -> None:
    """Serve until ``control`` is closed, then remove the folder of logs.

    Whoever holds the other end does that too, unless it was killed.
    """
    with contextlib.suppress(EOFError, OSError):
        setup: Setup = control.recv()
        try:
            control.send(Loaded(load(setup)))
            _Server(control, setup).serve()
        finally:
            if setup.logs is not None:
                shutil.rmtree(setup.logs, ignore_errors=True)


def load(setup: Setup) -> str:
    """Load what is declared and what a check needs; returns words for what went wrong, if it did.

    By one thread: a pool of torch's, made by a declared module's arithmetic, would not be there
    after a fork, and a child would wait for it.
    """
    import torch

    from harness import registry

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        registry.load_all(setup.targets)
        _import_what_cases_need(setup.modules)
    except Exception as error:  # noqa: BLE001 - handed to whoever asked
        return f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)
    return ""


def _import_what_cases_need(modules: Sequence[str]) -> None:
    """Import what the first case would: 6 s of CPU time for each child, most of it torch._dynamo.

    A dispatch mode, by which allocations are poisoned, imports that when it is first entered.
    """
    import torch._dynamo  # noqa: F401 - see above

    from harness import explore, layers, reference, strategies  # noqa: F401 - see above
    from harness.emulation import emulate
    from harness.isolate import worker  # noqa: F401 - see above

    with contextlib.suppress(ImportError), emulate():
        pass
    for name in modules:
        importlib.import_module(name)


@dataclass
class _Server:
    control: Connection
    setup: Setup
    child: int = 0

    def serve(self) -> None:
        """Do as told; a child does not outlive whoever tells."""
        try:
            while True:
                order = self.control.recv()
                if isinstance(order, Bear):
                    self._bear(order.log)
                elif isinstance(order, Bury):
                    self.control.send(self._bury(order.seconds))
        finally:
            if self.child:
                _kill(self.child)

    def _bear(self, log: Path) -> None:
        mine, its = Pipe()
        self.child = self._spawn(its, log) if _holds_gpu() else self._fork(its, mine, log)
        its.close()
        self.control.send(Born(self.child))
        reduction.send_handle(self.control, mine.fileno(), os.getppid())
        mine.close()

    def _fork(self, its: Connection, mine: Connection, log: Path) -> int:
        gc.freeze()  # a collection in the child does not copy all that was loaded
        with warnings.catch_warnings():
            # Python warns of threads; those of numpy's BLAS survive a fork by its own handlers.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                mine.close()
                self.control.close()
                from harness.isolate import worker

                worker.live(its, log)
            finally:
                os._exit(1)
        return pid

    def _spawn(self, its: Connection, log: Path) -> int:
        fd = its.fileno()
        process = subprocess.Popen(command("worker", fd), pass_fds=[fd], start_new_session=True)
        process.returncode = 0  # it is waited for by its id
        its.send((self.setup, log))
        return process.pid

    def _bury(self, seconds: float) -> Buried:
        """Wait for the child, then kill it; it may have closed its pipe and live on."""
        end = time.monotonic() + seconds
        while True:
            pid, status, usage = os.wait4(self.child, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                _kill(self.child)
                end = float("inf")
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, signal.SIGKILL)  # what it started in turn
        self.child = 0
        return Buried(os.waitstatus_to_exitcode(status), usage.ru_maxrss * _KIB)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _holds_gpu() -> bool:
    """Whether this process has a GPU's driver open, so that a fork of it could not use one."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(_DRIVERS):  # noqa: PTH115 - as above
                return True
    return False
