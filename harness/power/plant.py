"""A faulty module under its real name: what imports it later gets the mutant and nothing else new.

Torch operators keep their names, and ``inspect.getsource``, which Triton compiles from, reads the
faulty file. To be used in a process of its own that has not imported the module yet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType


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
    if module in sys.modules:
        msg = (
            f"module={module!r} is imported already; serve its mutant in a process that has not "
            f"imported it"
        )
        raise AlreadyImported(msg)
    folder.mkdir(parents=True, exist_ok=True)
    # A name for each source: Python takes bytecode for current by the time and length of its file.
    path = (
        folder / f"{module.replace('.', '_')}_{hashlib.sha256(source.encode()).hexdigest()[:8]}.py"
    )
    path.write_text(source, encoding="utf-8")
    importlib.invalidate_caches()
    server = Server(module, path)
    sys.meta_path.insert(0, server)
    return server
