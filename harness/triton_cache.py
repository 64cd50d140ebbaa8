"""Triton's cache on disk for several processes: what one of them compiles, the others wait for.

Triton itself writes each file of an entry atomically and locks nothing, so that processes which
miss the same entry all compile it, and the last one's files stay.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["compiling_once"]


class _Thread(threading.local):
    """How many scopes a thread has open, and the locks that it holds."""

    def __init__(self) -> None:
        self.depth = 0
        self.held: dict[Path, int] = {}


class _Installed:
    """How many scopes are open in all threads, and what the setting was before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scopes = 0
        self.before: object = None


_thread = _Thread()
_installed = _Installed()


@contextlib.contextmanager
def compiling_once() -> Iterator[None]:
    """In the scope, a kernel that Triton compiles is compiled by one process at a time.

    The next one finds it on disk. A lock is held from the miss to the last file of the entry, or to
    the end of the scope if the compilation failed. Without Triton nothing happens.
    """
    try:
        from triton import knobs
    except ImportError:
        yield
        return
    # Its dictionary: what is assigned to the knob itself is also passed on to child processes.
    settings = vars(knobs.cache)
    with _installed.lock:
        if _installed.scopes == 0:
            _installed.before = settings.get("manager_class")
            settings["manager_class"] = _locking(knobs.cache.manager_class)
        _installed.scopes += 1
    _thread.depth += 1
    try:
        yield
    finally:
        _thread.depth -= 1
        if _thread.depth == 0:
            _release(tuple(_thread.held))
        with _installed.lock:
            _installed.scopes -= 1
            if _installed.scopes == 0:
                _restore(settings)


def _restore(settings: dict[str, Any]) -> None:
    del settings["manager_class"]
    if _installed.before is not None:
        settings["manager_class"] = _installed.before


@functools.cache
def _locking(usual: type | None) -> Callable[..., Any]:
    from triton.runtime.cache import FileCacheManager

    class Locking(usual or FileCacheManager):  # type: ignore[misc]
        """The usual manager of one entry; it locks at a miss and unlocks with the last file."""

        def get_group(self, filename: str) -> Any:
            found = super().get_group(filename)
            lock = _lock_of(self)
            if lock is None or lock in _thread.held or _is_whole(found, filename):
                return found
            if (held := locks.acquire(lock)) is not None:
                _thread.held[lock] = held
            found = super().get_group(filename)
            if _is_whole(found, filename):
                _release((lock,))
            return found

        def put_group(self, filename: str, group: dict[str, str]) -> Any:
            try:
                return super().put_group(filename, group)
            finally:
                if (lock := _lock_of(self)) is not None:
                    _release((lock,))

    return Locking


def _is_whole(found: dict[str, str] | None, filename: str) -> bool:
    """What Triton takes for a hit."""
    return found is not None and filename in found


def _lock_of(manager: Any) -> Path | None:
    """Beside the entry's folder, within a scope; a remote cache has no folder and no lock."""
    folder = getattr(manager, "cache_dir", None)
    return Path(f"{folder}.lock") if folder and _thread.depth else None


def _release(held: tuple[Path, ...]) -> None:
    for path in held:
        if (descriptor := _thread.held.pop(path, None)) is not None:
            locks.release(path, descriptor)
