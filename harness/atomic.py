"""Files that are whole or not there: whoever reads them never sees one half written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

PART: Final = ".part"  # what a name ends in while it is written


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 to ``path``, all or nothing, making its folder if need be.

    A process that is killed meanwhile leaves ``path`` as it was, and perhaps a file ``.part``
    beside it. Raises OSError, saying which folder cannot be written to and what to do.
    """
    part = path.with_name(f"{path.name}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        msg = (
            f"{path.name} cannot be written to the folder {str(path.parent)!r}: {error.strerror}; "
            "name a folder that this user may write to, on a disk with space left"
        )
        raise type(error)(error.errno, msg) from error
