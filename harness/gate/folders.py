"""What lies in a folder and below it: every file, or an error that names what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreadable(ValueError):
    """A folder that cannot be listed, or what is neither file nor folder; the message names it."""


def files_below(folder: Path) -> list[Path]:
    """All files of ``folder`` and of folders in it, links followed, in the order of their names.

    A folder that two links lead to, or that a link in it leads back to, is read once. Raises
    Unreadable, so that no file is passed over unsaid.
    """
    found = sorted(_names_below(folder))
    for path in found:
        if not path.is_file():
            said = "a link that leads nowhere" if path.is_symlink() else "no file and no folder"
            msg = f"{path} is {said}; put the file that is meant there, or take this away"
            raise Unreadable(msg)
    return found


def _names_below(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in files)


def _refuse(error: OSError) -> NoReturn:
    msg = (
        f"the folder {str(error.filename)!r} cannot be read: {error.strerror}; there may be "
        "records in it: let this user read it, or take it away"
    )
    raise Unreadable(msg) from error
