"""Of the processes of a machine that would do the same work, one does it while the others wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PATIENCE", "acquire", "alone", "release"]

# Seconds that a process waits for another's work before it does the same itself: longer than any
# compilation seen, shorter than what a check may take. A lock saves work; nothing depends on it.
PATIENCE: Final = 120.0
_PAUSE: Final = 0.02  # seconds between two looks at a lock that another holds


@contextlib.contextmanager
def alone(path: Path, *, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold the lock file ``path`` in the scope, waiting for it at most ``patience`` seconds.

    Yields whether it is held. It is not where others had it all the time, and where the folder or
    its file system has no locks. The system frees a lock whose process is gone, so that none can be
    stale; the file is removed at the end.
    """
    held = acquire(path, patience=patience)
    try:
        yield held is not None
    finally:
        if held is not None:
            release(path, held)


def acquire(path: Path, *, patience: float = PATIENCE) -> int | None:
    """The descriptor of the lock file ``path``, held by this caller alone; None without it."""
    ends = time.monotonic() + patience
    while True:
        try:
            found = _attempt(path)
        except OSError:
            return None
        if found is not None or time.monotonic() >= ends:
            return found
        time.sleep(_PAUSE)


def release(path: Path, held: int) -> None:
    """Let the next have the lock. The file goes first: who opened it meanwhile sees it is gone."""
    with contextlib.suppress(OSError):
        path.unlink()
    # A forked child shares the lock: closing the descriptor alone would leave it locked.
    fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)


def _attempt(path: Path) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether ``path`` still names the open file, and not one made after it was removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
