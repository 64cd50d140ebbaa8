"""Files that are whole or not there: whoever reads them never sees one half written."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

PART: Final = ".part"  # what a name ends in while it is written


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 to ``path``, as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, all or nothing, making its folder if need be.

    A process that is killed meanwhile leaves ``path`` as it was, and perhaps a file ``.part``
    beside it. Raises OSError, saying which folder cannot be written to and what to do; nothing is
    left beside it then.
    """
    part = path.with_name(f"{path.name}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # what is told is why nothing could be written
            part.unlink()
        msg = (
            f"{path.name} cannot be written to the folder {str(path.parent)!r}: {error.strerror}; "
            "name a folder that this user may write to, on a disk with space left"
        )
        raise type(error)(error.errno, msg) from error
