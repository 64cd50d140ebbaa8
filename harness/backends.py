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
    """The package of a kernel language, how it is installed, and the versions known to work."""

    package: str
    distribution: str
    at_least: tuple[int, int]
    below: tuple[int, int]

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        (a, b), (c, d) = self.at_least, self.below
        return f"{self.distribution}>={a}.{b},<{c}.{d}"


BACKENDS: Final = {
    "triton": Backend("triton", "triton", (3, 6), (3, 10)),
    "cuda": Backend("cuda.core", "cuda-core", (1, 0), (2, 0)),
    "cutedsl": Backend("cutlass", "nvidia-cutlass-dsl", (4, 8), (4, 9)),
}
_errors: dict[str, BackendMissing] = {}


def load_error(name: str) -> BackendMissing | None:
    """Why ``require(name)`` failed, or None if it was not tried or did not fail."""
    return _errors.get(name)


def require(name: str) -> ModuleType:
    """The module of a backend; raises BackendMissing, the same one each time."""
    if name in _errors:
        raise _errors[name]
    backend = BACKENDS[name]
    remedy = f"pip install '{backend.requirement}'"
    try:
        module = importlib.import_module(backend.package)
    except Exception as error:
        msg = f"backend {name!r} cannot be imported ({type(error).__name__}: {error}); {remedy}"
        _errors[name] = BackendMissing(msg, name=backend.package)
        raise _errors[name] from error
    if not backend.at_least <= _version(module) < backend.below:
        found = getattr(module, "__version__", "unknown")
        msg = f"backend {name!r} has version {found}, outside what is known to work; {remedy}"
        _errors[name] = BackendMissing(msg, name=backend.package)
        raise _errors[name]
    return module


def _version(module: ModuleType) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", str(getattr(module, "__version__", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)  # which none is known to work
