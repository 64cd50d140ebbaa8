"""Several files made together: all of them or none, and never over one that is there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class InTheWay(ValueError):
    """A file that would be made is there already."""


def create(files: Mapping[Path, str]) -> list[Path]:
    """Make new files with these texts, and their folders; gives what to hand to `remove`.

    Raises InTheWay before anything is written, OSError with nothing left behind.
    """
    if there := [path for path in files if path.exists()]:
        msg = f"{there[0]} is there already; choose another name, or move that file away"
        raise InTheWay(msg)
    made: list[Path] = []
    try:
        for path, text in files.items():
            made += _missing_folders(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except BaseException:
        remove(made)
        raise
    return made


def remove(made: list[Path]) -> None:
    """Remove files and folders in the reverse order of their making; a folder only if empty."""
    for path in reversed(made):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _missing_folders(path: Path) -> list[Path]:
    return [folder for folder in reversed(path.parents) if not folder.exists()]
