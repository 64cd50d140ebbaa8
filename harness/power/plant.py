"""A faulty module under its real name: what imports it later gets the mutant and nothing else new.

Torch operators keep their names, and ``inspect.getsource``, which Triton compiles from, reads the
faulty file. A file that is no module, such as CUDA C++, is planted in a copy of its package, which
then reads it as it reads the real one. To be used in a process of its own that has not imported the
module, or the package, yet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


_COPIES: Final = "packages"


class AlreadyImported(RuntimeError):
    """A module that cannot be served any more: what imported it holds the unedited one."""


class Server(MetaPathFinder):
    """Finds one module at a place of ours; every other import goes its usual way."""

    def __init__(self, module: str, path: Path) -> None:
        self.module = module
        self.path = path

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the signature is importlib's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of the module if it is ours."""
        if fullname != self.module:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path)


def serve(module: str, source: str, folder: Path) -> Server:
    """Let the next import of ``module`` load ``source``, written to a file in ``folder``.

    Raises AlreadyImported if the process has imported the module.
    """
    _refuse_imported(module)
    folder.mkdir(parents=True, exist_ok=True)
    # A name for each source: Python takes bytecode for current by the time and length of its file.
    path = (
        folder / f"{module.replace('.', '_')}_{hashlib.sha256(source.encode()).hexdigest()[:8]}.py"
    )
    path.write_text(source, encoding="utf-8")
    return _serving(module, path)


def serve_file(file: str, text: str, folder: Path) -> Server:
    """Let the next import of a file's package load a copy below ``folder``, with ``text`` there.

    ``file`` is a path from the package on: ``package/folder/name.cu``. A copy that is there from
    another time is replaced. Raises AlreadyImported if the process has imported the package, and
    FileNotFoundError if it has no such file.
    """
    place = PurePosixPath(file)
    package = place.parts[0]
    _refuse_imported(package)
    spec = importlib.util.find_spec(package)
    original = Path(str(spec.origin)).parent if spec is not None else Path(package)
    if not original.parent.joinpath(place).is_file():
        msg = f"file={file!r} is not in {original}; give its path from the package's name on"
        raise FileNotFoundError(msg)
    copy = folder / _COPIES / package
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    copy.parent.joinpath(place).write_text(text, encoding="utf-8")
    return _serving(package, copy / "__init__.py")


def _refuse_imported(module: str) -> None:
    if module in sys.modules:
        msg = (
            f"module={module!r} is imported already; serve its mutant in a process that has not "
            f"imported it"
        )
        raise AlreadyImported(msg)


def _serving(module: str, path: Path) -> Server:
    importlib.invalidate_caches()
    server = Server(module, path)
    sys.meta_path.insert(0, server)
    return server
