"""Several files made together: all of them or none, and never over one that is there."""

from __future__ import annotations

import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from harness import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class InTheWay(ValueError):
    """A file that would be made is there already."""


def create(files: Mapping[Path, str]) -> list[Path]:
    """Make new files with these texts, and their folders; gives what to hand to `remove`.

    Raises InTheWay before anything is written, OSError with nothing left behind, saying which file
    could not be made and what to do.
    """
    if there := [path for path in files if path.exists()]:
        msg = f"{there[0]} is there already; choose another name, or move that file away"
        raise InTheWay(msg)
    made: list[Path] = []
    try:
        for path, text in files.items():
            _create(path, text, made)
    except BaseException:
        remove(made)
        raise
    return made


def _create(path: Path, text: str, made: list[Path]) -> None:
    try:
        made += _missing_folders(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            made.append(path)
            file.write(text)
    except OSError as error:
        msg = (
            f"{path.name} cannot be written to the folder {str(path.parent)!r}: {error.strerror}; "
            "work where this user may write, on a disk with space left"
        )
        raise type(error)(error.errno, msg) from error


def replace(path: Path, text: str) -> None:
    """Give a file another text, or make it, all or nothing; its mode stays. Raises OSError."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    atomic.write_text(path, text)
    if mode is not None:
        path.chmod(mode)


def remove(made: list[Path]) -> None:
    """Remove files and folders in the reverse order of their making; a folder only if empty."""
    for path in reversed(made):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _missing_folders(path: Path) -> list[Path]:
    return [folder for folder in reversed(path.parents) if not folder.exists()]
