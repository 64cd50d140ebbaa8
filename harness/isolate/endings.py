"""What the end of a process says about the test that it ran, in words and as an outcome."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.cells import Outcome

if TYPE_CHECKING:
    from harness.isolate.messages import Buried

_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")
_KEPT: Final = 8  # lines before a stack, and of what has none
_FRAMES: Final = 14  # lines of a stack
_HARNESS: Final = "/harness/execute.py"  # calls the kernel: from there on a stack is our own
_WIDTH: Final = 300  # characters of a line
_FATAL: Final = "Fatal Python error"
_MEBI: Final = 1 << 20


@dataclass(frozen=True)
class Ending:
    """What ended a test before it could say what it came to."""

    outcome: Outcome
    words: str


def killed_for_memory() -> int | None:
    """How many processes of this container the OOM killer ended; None where nobody counts."""
    try:
        lines = _EVENTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = dict(line.split() for line in lines if len(line.split()) == 2)  # noqa: PLR2004 - name and count
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


def of_death(buried: Buried, said: str, *, killed: bool) -> Ending:
    """A process that ended by itself or by a signal; ``killed`` says that the OOM killer was seen.

    SIGKILL is taken for the OOM killer's in any case: nobody here sends it to a process that works.
    """
    peak = f"at most {buried.peak_bytes / _MEBI:.0f} MiB were resident"
    if buried.code == -signal.SIGKILL:
        who = "by the kernel's OOM killer" if killed else "most likely by the kernel's OOM killer"
        return Ending(Outcome.OUT_OF_MEMORY, f"killed by SIGKILL, {who}; {peak}{_told(said)}")
    if buried.code < 0:
        name = _name(-buried.code)
        return Ending(Outcome.CRASHED, f"the process was ended by {name}{_told(said)}")
    words = f"the process ended itself with exit status {buried.code}, and no exception"
    return Ending(Outcome.CRASHED, f"{words}{_told(said)}")


def of_hang(seconds: float, said: str) -> Ending:
    """A process that was ended because it said nothing for so long."""
    words = f"nothing happened for {seconds:g} s (--cell-seconds)"
    return Ending(Outcome.HUNG, f"{words}{_told(said)}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _told(said: str) -> str:
    """The last lines that it wrote, with the stack of a fatal error from its top."""
    lines = [line[:_WIDTH] for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Extension modules:")]
    fatal = next((i for i, line in enumerate(lines) if line.startswith(_FATAL)), len(lines))
    kept = [*lines[:fatal][-_KEPT:], *_until_the_harness(lines[fatal:])]
    return "".join(["; it said:", *(f"\n      {line}" for line in kept)]) if kept else ""


def _until_the_harness(stack: list[str]) -> list[str]:
    ours = next((i for i, line in enumerate(stack) if _HARNESS in line), len(stack))
    return stack[: min(ours, _FRAMES)]
