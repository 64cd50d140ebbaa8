"""How a module finds its backend's kernels: by name, when first needed, or told what to install."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Functions = TypeVar("Functions")


@dataclass(frozen=True)
class Backend(Generic[Functions]):
    """How a backend's public functions are loaded, and how to get what they need.

    ``load`` imports by statements, not by importlib: torch.compile traces through the former only.
    """

    load: Callable[[], Functions]
    install: str


def check_backend(name: str, known: Collection[str]) -> str:
    """The name itself; ValueError unless it is known."""
    if name not in known:
        msg = f"backend={name!r} is not known; the known ones are {', '.join(map(repr, known))}"
        raise ValueError(msg)
    return name


def load_backend(name: str, known: Mapping[str, Backend[Functions]]) -> Functions:
    """The functions of a backend; ImportError says what to install."""
    backend = known[check_backend(name, known)]
    try:
        return backend.load()
    except ImportError as error:
        msg = f"backend={name!r} cannot be loaded ({error}); what it needs: {backend.install}"
        raise ImportError(msg) from error
