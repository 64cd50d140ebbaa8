"""Declarations of what is built over ops: modules and, for the e2e layer, models."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from harness import registry
from harness.cells import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

Build = TypeVar("Build", bound="Callable[..., object]")


class Unavailable(ImportError):
    """What a subject needs is not on this machine: its cells are skipped, with this reason."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A module with an input, its dense float64 twin, and how far apart the two may be.

    ``dense`` computes the module's exact mathematics in float64 (on the very state that the module
    holds); ``tolerance`` bounds the relative L2 distance, with its reason. ``state_keys`` are the
    keys that a checkpoint may rely on. ``gradients`` says whether backward must work.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    dense: Callable[..., Tensor]
    tolerance: float
    because: str
    state_keys: tuple[str, ...]
    gradients: bool = False


@dataclass(frozen=True)
class Subject:
    """A module or a model over ``ops``; ``build`` makes it for a backend, device and dtype."""

    name: str
    ops: tuple[str, ...]
    layer: Layer
    dtypes: tuple[str, ...]
    build: Callable[..., object]
    place: str


def subject(
    *, ops: Sequence[str], dtypes: Sequence[str], layer: str = Layer.MODULE
) -> Callable[[Build], Build]:
    """Declare ``build(*, backend, dtype, device, generator) -> Sample`` for the module layer.

    ``backend`` is that of the kernel under test, with its variant if it is one: ``"cuda.split"``.
    For ``layer="e2e"`` it is ``build(*, backend, dtype, device, folder) -> object`` with a method
    ``failures()`` that names what is wrong and a mapping ``figures``; ``folder`` holds the model's
    files (``--e2e-model``) or is None. It may raise Unavailable.
    """

    def declare(build: Build) -> Build:
        code = inspect.unwrap(build).__code__
        place = f"{code.co_filename}:{code.co_firstlineno}"
        declared = Subject(build.__name__, tuple(ops), Layer(layer), tuple(dtypes), build, place)
        registry.add_subject(declared)
        return build

    return declare
