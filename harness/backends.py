"""Kernel languages as optional parts: missing, broken or of another version is said clearly."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType


class BackendMissing(ImportError):
    """A kernel language that cannot be used; the message says why and what to install."""


@dataclass(frozen=True)
class Backend:
    """The package of a kernel language, how it is installed, and the versions known to work.

    ``check`` names a function, ``"module:function"``, that raises ImportError with words of its
    own when something beside the package is missing.
    """

    package: str
    distribution: str
    at_least: tuple[int, int]
    below: tuple[int, int]
    extra: str = ""
    check: str = ""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        (a, b), (c, d) = self.at_least, self.below
        return f"{self.distribution}{self.extra}>={a}.{b},<{c}.{d}"


BACKENDS: Final = {
    "triton": Backend("triton", "triton", (3, 6), (3, 10)),
    "cuda": Backend(
        *("cuda.core", "cuda-core", (1, 2), (2, 0)),
        extra="[cu13]",
        check="harness.cuda_toolkit:toolkit",
    ),
    "cutedsl": Backend("cutlass", "nvidia-cutlass-dsl", (4, 8), (4, 9)),
}
_errors: dict[str, BackendMissing] = {}
_usable: dict[str, ModuleType] = {}


def load_error(name: str) -> BackendMissing | None:
    """Why ``require(name)`` failed, or None if it was not tried or did not fail."""
    return _errors.get(name)


def require(name: str) -> ModuleType:
    """The module of a backend; raises BackendMissing, the same one each time."""
    if name in _errors:
        raise _errors[name]
    if name in _usable:
        return _usable[name]
    backend = BACKENDS[name]
    try:
        _usable[name] = _import(name, backend)
    except BackendMissing as error:
        _errors[name] = error
        raise
    return _usable[name]


def _import(name: str, backend: Backend) -> ModuleType:
    remedy = f"pip install '{backend.requirement}'"
    try:
        module = importlib.import_module(backend.package)
    except Exception as error:
        msg = f"backend {name!r} cannot be imported ({type(error).__name__}: {error}); {remedy}"
        raise BackendMissing(msg, name=backend.package) from error
    if not backend.at_least <= _version(module) < backend.below:
        found = getattr(module, "__version__", "unknown")
        msg = f"backend {name!r} has version {found}, outside what is known to work; {remedy}"
        raise BackendMissing(msg, name=backend.package)
    if backend.check:
        _check_parts(name, backend)
    return module


def _check_parts(name: str, backend: Backend) -> None:
    where, _, function = backend.check.partition(":")
    try:
        getattr(importlib.import_module(where), function)()
    except ImportError as error:
        msg = f"backend {name!r} is not complete: {error}"
        raise BackendMissing(msg, name=backend.package) from error


def _version(module: ModuleType) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", str(getattr(module, "__version__", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)  # which none is known to work
