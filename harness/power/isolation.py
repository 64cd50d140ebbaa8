"""Work in forked children: a crash, a hang or a flood of memory ends one task and not the run.

A child inherits what its parent has imported, which makes it start in milliseconds; so the parent
must neither touch a GPU nor import what a child is to import in another version.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

Task = TypeVar("Task")

_POLL_SECONDS: Final = 0.2
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_KEPT: Final = 1000  # characters of a child's output, from either end, that are kept for a report


class Ending(StrEnum):
    """How a child ended. All but ``done`` and ``failed`` are the doing of what it ran."""

    DONE = "done"
    FAILED = "failed"  # an exception that nothing expected: a fault of the harness
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds between two messages of a child, and bytes that it may hold."""

    step_seconds: float
    memory: int


@dataclass
class Finished(Generic[Task]):
    """A task, what its child sent, how it ended, and what it printed last."""

    task: Task
    messages: list[object] = field(default_factory=list)
    ending: Ending = Ending.DONE
    words: str = ""
    seconds: float = 0.0


@dataclass
class _Child(Generic[Task]):
    task: Task
    pid: int
    slot: int
    pipe: Connection
    log: Path
    started: float
    heard: float
    messages: list[object] = field(default_factory=list)
    killed: Ending | None = None


@dataclass(frozen=True)
class _Done:
    error: str = ""


def run(
    tasks: Iterable[Task],
    work: Callable[[Task, int, Callable[[object], None]], None],
    *,
    jobs: int,
    limits: Limits,
    folder: Path,
) -> Iterator[Finished[Task]]:
    """Do ``work(task, slot, send)`` in a child of its own for every task, ``jobs`` at a time.

    Yields tasks as they finish. ``slot`` is below ``jobs`` and no two living children share one.
    What a child sends comes back with its task, however it ends. Children that still run when the
    iteration is left are killed. Raises ValueError for ``jobs`` below 1.
    """
    if jobs < 1:
        msg = f"jobs={jobs!r} is below 1; give the number of children that may run at a time"
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    gc.freeze()  # so that a collection in a child does not copy all that the parent holds
    waiting, children = iter(tasks), list[_Child[Task]]()
    try:
        while True:
            free = sorted(set(range(jobs)) - {child.slot for child in children})
            for slot, task in zip(free, waiting, strict=False):
                children.append(_start(task, slot, work, folder))
            if not children:
                return
            _listen(children, limits)
            for child in [c for c in children if c.pipe.closed]:
                children.remove(child)
                yield _finish(child)
    finally:
        for child in children:
            _kill(child, Ending.CRASHED)
            _finish(child)
        gc.unfreeze()


def _start(
    task: Task,
    slot: int,
    work: Callable[[Task, int, Callable[[object], None]], None],
    folder: Path,
) -> _Child[Task]:
    mine, its = Pipe(duplex=False)
    log = folder / f"child-{slot}.log"
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python warns of threads; those of numpy's BLAS survive a fork by its own handlers.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _live(task, slot, work, its, log)
    its.close()
    now = time.monotonic()
    return _Child(task, pid, slot, mine, log, now, now)


def _live(
    task: Task,
    slot: int,
    work: Callable[[Task, int, Callable[[object], None]], None],
    pipe: Connection,
    log: Path,
) -> None:
    """The whole life of a child; never returns."""
    status = 1
    try:
        os.setsid()
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        faulthandler.enable(2)  # a crash says where, in the log and nowhere else
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's interrupt ends it
        work(task, slot, pipe.send)
        pipe.send(_Done())
        status = 0
    except BaseException:  # noqa: BLE001 - classified and reported, never swallowed
        with contextlib.suppress(OSError):
            pipe.send(_Done(traceback.format_exc()))
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _listen(children: list[_Child[Task]], limits: Limits) -> None:
    """Take what children send; close the pipe of those that ended; kill those beyond a limit."""
    wait([child.pipe for child in children], timeout=_POLL_SECONDS)
    now = time.monotonic()
    for child in children:
        try:
            while child.pipe.poll():
                child.messages.append(child.pipe.recv())
                child.heard = now
        except (EOFError, OSError):
            child.pipe.close()
            continue
        if now - child.heard > limits.step_seconds:
            _kill(child, Ending.HUNG)
        elif _resident(child.pid) > limits.memory:
            _kill(child, Ending.OUT_OF_MEMORY)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _kill(child: _Child[Task], why: Ending) -> None:
    child.killed = child.killed or why
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)  # before it became the head of its own group


def _finish(child: _Child[Task]) -> Finished[Task]:
    child.pipe.close()
    _, status = os.waitpid(child.pid, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # what it started in turn
    seconds = time.monotonic() - child.started
    messages = [message for message in child.messages if not isinstance(message, _Done)]
    ends = [message for message in child.messages if isinstance(message, _Done)]
    if child.killed:
        return Finished(child.task, messages, child.killed, _said(child.log), seconds)
    if not ends:
        code = os.waitstatus_to_exitcode(status)
        words = f"ended with status {code}: {_said(child.log)}"
        return Finished(child.task, messages, Ending.CRASHED, words, seconds)
    ending = Ending.FAILED if ends[0].error else Ending.DONE
    return Finished(child.task, messages, ending, ends[0].error, seconds)


def _said(log: Path) -> str:
    """What a child printed, without the middle: a crash's place comes first, a compiler's last."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return text if len(text) <= 2 * _KEPT else f"{text[:_KEPT]}\n...\n{text[-_KEPT:]}"
