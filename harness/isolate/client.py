"""The server of cells as seen by the process that uses it: give it a test, hear how it went."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from harness.cells import Outcome
from harness.isolate import endings
from harness.isolate.messages import (
    Bear,
    Began,
    Born,
    Buried,
    Bury,
    Ended,
    Listing,
    Loaded,
    Progress,
    Ready,
    Result,
    Searching,
    Setup,
)
from harness.isolate.server import command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.isolate.endings import Ending
    from harness.isolate.messages import Job

_GRACE_SECONDS: Final = 5.0  # from SIGABRT, which makes it tell its stack, to SIGKILL
_POLL_SECONDS: Final = 1.0
LOG_BYTES: Final = 1 << 26  # of output, after which what is older is thrown away
_SAID: Final = 1 << 14  # characters of output that are told
_START_SECONDS: Final = 300.0  # for importing torch and all that is declared, on a busy machine
_DIED: Final = (EOFError, OSError, pickle.UnpicklingError)


Kind = TypeVar("Kind")


class ServerFailed(RuntimeError):
    """The server cannot load what is declared, or does not answer."""


@dataclass
class Heard:
    """What a child told of a test: what it did last, and what came of each case."""

    doing: Searching | Listing | None = None
    open: str = ""
    began: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)  # words for what is wrong, by case
    slowest: float = 0.0  # seconds
    at: float = field(default_factory=time.monotonic)

    def hear(self, message: object) -> None:
        """Take a message."""
        now = time.monotonic()
        if isinstance(message, (Searching, Listing)):
            self.doing = message
        elif isinstance(message, Began):
            self.open = message.case
            self.began.append(message.case)
        elif isinstance(message, Ended):
            self.open = ""
            self.ended[message.case] = message.words
            self.slowest = max(self.slowest, now - self.at)
        self.at = now


@dataclass(frozen=True)
class Attempt:
    """How a test went: its result, or what ended the process before there was one."""

    heard: Heard
    result: Result | None = None
    ending: Ending | None = None
    output: str = ""


@dataclass
class Child:
    """A process that runs tests, and where what it writes goes."""

    pid: int
    pipe: Connection
    log: Path
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    read: int = 0  # bytes of its log that were told


class Server:
    """A server of cells, started when it is first needed, and its one child.

    ``environment`` is that of its processes, which decides what devices they see; ``command`` gives
    the command line of a server for a socket.
    """

    def __init__(
        self,
        setup: Setup,
        environment: Mapping[str, str],
        *,
        command: Callable[[str, int], Sequence[str]] = command,
    ) -> None:
        self._setup = setup
        self._environment = environment
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._loaded: Loaded | None = None  # what this process said of itself, once it has
        self._child: Child | None = None
        self._devices: Mapping[str, Mapping[str, str]] | None = None
        self.born = 0  # children so far

    def start(self) -> None:
        """Start the process, unless it runs; it loads what is declared while we go on."""
        if self._process is not None:
            return
        self._folder = self._folder_of_logs()
        mine, its = socket.socketpair()
        with its, (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("server", its.fileno()),
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self._control = Connection(mine.detach())
        self._control.send(replace(self._setup, logs=self._folder))
        self._loaded = None

    def _folder_of_logs(self) -> Path:
        if self._folder != Path() and self._folder.is_dir():
            return self._folder
        return Path(tempfile.mkdtemp(prefix="kernel-parity-"))

    @property
    def devices(self) -> Mapping[str, Mapping[str, str]]:
        """The devices that tests get, by arch; asked of a child. Raises ServerFailed."""
        if self._devices is None:
            self._devices = self._living().devices
        return self._devices

    def perform(self, job: Job, limit: float, show: Callable[[str], None]) -> Attempt:
        """Run a test in the child, a new one if need be; ``limit`` seconds without a word end it.

        Raises ServerFailed where no child can be had.
        """
        child = self._living()
        killed = endings.killed_for_memory()
        heard = Heard()
        try:
            child.pipe.send(job)
            result = listen(child, heard, limit, show)
        except _DIED:
            return Attempt(heard, ending=self._end_of(child, killed))
        except BaseException:
            _kill(child.pid)  # it is at work on what nobody waits for any more
            self._bury()
            raise
        if result is None:
            return Attempt(heard, ending=self._abort(child, limit))
        output = _said(child)
        if result.spent:
            self._bury()
        return Attempt(heard, result=result, output=output)

    def _end_of(self, child: Child, killed: int | None) -> Ending:
        buried = self._bury()
        now = endings.killed_for_memory()
        seen = killed is not None and now is not None and now > killed
        return endings.of_death(buried, _said(child), killed=seen)

    def _abort(self, child: Child, limit: float) -> Ending:
        """End a child that hangs, in a way that makes it tell where."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGABRT)
        self._bury(_GRACE_SECONDS)
        return endings.of_hang(limit, _said(child))

    def _living(self) -> Child:
        if self._child is None:
            try:
                self._child = self._bear()
            except _DIED as error:
                self._stop()
                msg = f"the server of cells has gone ({error!r}); --isolate=none does without it"
                raise ServerFailed(msg) from error
        return self._child

    def _bear(self) -> Child:
        self.start()
        self._require_loaded()
        self.born += 1
        log = self._folder / f"child-{self.born}.log"
        self._control.send(Bear(log))
        born = self._answer(Born)
        child = Child(born.pid, Connection(reduction.recv_handle(self._control)), log)
        if not child.pipe.poll(_START_SECONDS):
            msg = f"no answer within {_START_SECONDS:.0f} s"
            raise TimeoutError(msg)
        ready: Ready = child.pipe.recv()
        return replace(child, devices=ready.devices)

    def _require_loaded(self) -> None:
        """Raise ServerFailed where the server could not load, for the first test and every later.

        It lives on without the declarations that failed, and a child of it would judge by the rest.
        """
        if self._loaded is None:
            self._loaded = self._answer(Loaded)
        if self._loaded.error:
            msg = f"the server of cells cannot load what is declared: {self._loaded.error}"
            raise ServerFailed(msg)

    def _answer(self, kind: type[Kind]) -> Kind:
        if not self._control.poll(_START_SECONDS):
            msg = f"no answer within {_START_SECONDS:.0f} s"
            raise TimeoutError(msg)
        answer = self._control.recv()
        if isinstance(answer, kind):
            return answer
        msg = f"{answer!r} is no {kind.__name__}"
        raise EOFError(msg)

    def _bury(self, seconds: float = _GRACE_SECONDS) -> Buried:
        """Take leave of the child; where the server has gone too, of both."""
        child, self._child = self._child, None
        if child is not None:
            child.pipe.close()
        try:
            self._control.send(Bury(seconds))
            return self._answer(Buried)
        except _DIED:
            if child is not None:
                _kill(child.pid)
            self._stop()
            return Buried(-signal.SIGKILL, 0)

    def _stop(self) -> None:
        process, self._process, self._child = self._process, None, None
        if process is not None:
            _kill(process.pid)
            process.wait()
            self._control.close()  # last: a server that sees it removes the folder of logs

    def retire(self) -> None:
        """End the child, in an orderly way; the next test gets a new one."""
        if self._child is not None:
            self._bury()
        self._devices = None

    def close(self) -> None:
        """End the processes and forget what they said."""
        if self._child is not None:
            self._child.pipe.close()
        if self._process is not None:
            self._control.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)  # it ends its child
        self._stop()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = Path()


def listen(child: Child, heard: Heard, limit: float, show: Callable[[str], None]) -> Result | None:
    """A test's result; None after ``limit`` seconds without a word. Raises what a broken pipe does.

    Words are no silence: the log is looked at by the clock, whether or not any come.
    """
    look = 0.0
    while True:
        now = time.monotonic()
        if now >= look:
            _trim(child.log)
            look = now + _POLL_SECONDS
        left = heard.at + limit - now
        if not child.pipe.poll(max(0.0, min(left, _POLL_SECONDS))):
            if left <= 0:
                return None
            continue
        message = child.pipe.recv()
        if isinstance(message, Result):
            return message
        heard.hear(message)
        if isinstance(message, Progress):
            show(message.words)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _trim(log: Path) -> None:
    """Keep a kernel that prints without end from filling the disk; its log is appended to."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            os.truncate(log, 0)


def _said(child: Child) -> str:
    """What a child wrote since this was last asked, the end of it."""
    try:
        with child.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = child.read if child.read <= end else 0  # it was cut
            file.seek(max(start, end - _SAID))
            child.read = end
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def is_lost(outcome: Outcome) -> bool:
    """Whether a process does not survive what ended so."""
    return outcome in {Outcome.CRASHED, Outcome.HUNG, Outcome.OUT_OF_MEMORY}
