"""Which sources a kernel is made of, as a hash: runs with another one ran another kernel."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.declare import Kernel

UNKNOWN: Final = "unknown"  # of a function that no file defines
_DEVICE_CODE: Final = {".cu", ".cuh", ".h", ".hpp", ".inl", ".ptx"}


def source_hash(kernel: Kernel) -> str:
    """A hash of the sources that the kernel may be made of, 16 hexadecimal digits.

    They are the file that defines it; in a package all sources in that file's folder and below,
    of Python and of device code, whichever of them this kernel imports, includes or compiles; and
    otherwise the device code beside the file.
    """
    path = _defining(kernel.function)
    return UNKNOWN if path is None else _hash(path)


def _defining(function: Callable[..., object]) -> Path | None:
    found = inspect.getsourcefile(inspect.unwrap(function))
    return None if found is None else Path(found)


@cache  # a run is of the sources that it has imported, whatever becomes of the files meanwhile
def _hash(path: Path) -> str:
    found = hashlib.blake2b(digest_size=8)
    for each in _sources(path):
        content = each.read_bytes()
        name = each.relative_to(path.parent).as_posix()
        found.update(f"{name}\n{len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def _sources(path: Path) -> list[Path]:
    folder = path.parent
    if (folder / "__init__.py").is_file():
        wanted = {".py", *_DEVICE_CODE}
        return sorted(
            each for each in folder.rglob("*") if each.suffix in wanted and each.is_file()
        )
    beside = (each for each in folder.iterdir() if each.suffix in _DEVICE_CODE and each.is_file())
    return sorted({path, *beside})
