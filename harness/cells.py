"""The words of a verdict (layer, evidence, cell), and the inventory of the cells claimed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from harness.arch import CPU

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.declare import Kernel
    from harness.subjects import Subject


class Layer(StrEnum):
    """What is checked; in the order in which a migration should pass them."""

    IMPORT_SAFETY = "import_safety"
    FAKE_SHAPE = "fake_shape"
    COMPILE = "compile"
    NUMERIC = "numeric"
    MODULE = "module"
    E2E = "e2e"
    BOUNDARY = "boundary"
    SANITIZE = "sanitize"


class Evidence(StrEnum):
    """How a result was obtained."""

    DEVICE = "device"
    EMULATED = "emulated"
    COMPILED = "compiled"
    FAKE = "fake"
    NONE = "none"


class Verdict(StrEnum):
    """What a check of a cell came to; ``uncovered`` is a claimed cell without any check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNCOVERED = "uncovered"


class Outcome(StrEnum):
    """What became of a check, and how: a failed one is wrong, refused, crashed, hung, or starved.

    ``wrong`` is a result that was judged; ``refused`` an exception of the kernel or the check;
    ``crashed`` a signal, an abort, a trap or a lost CUDA context.
    """

    PASSED = "passed"
    WRONG = "wrong"
    REFUSED = "refused"
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"
    UNAVAILABLE = "unavailable"

    @property
    def verdict(self) -> Verdict:
        """The verdict that this is one way of."""
        if self is Outcome.PASSED:
            return Verdict.PASSED
        return Verdict.SKIPPED if self is Outcome.UNAVAILABLE else Verdict.FAILED


@dataclass(frozen=True)
class Cell:
    """Kernel x arch x layer."""

    kernel: str
    arch: str
    layer: Layer

    @property
    def evidence(self) -> Evidence:
        """What a passing check of this cell shows."""
        if self.layer is Layer.COMPILE:
            return Evidence.COMPILED
        if self.arch != CPU:
            return Evidence.DEVICE
        return Evidence.FAKE if self.layer is Layer.FAKE_SHAPE else Evidence.EMULATED

    @property
    def needs_device(self) -> bool:
        """Whether the check has to run on its arch."""
        return self.evidence is Evidence.DEVICE

    def __str__(self) -> str:
        return f"{self.kernel}-{self.arch}-{self.layer}"


EVERYWHERE: Final = (Layer.FAKE_SHAPE, Layer.NUMERIC, Layer.BOUNDARY)


def cells_of(
    kernel: Kernel, subjects: Iterable[Subject], *, sanitize: bool = False
) -> Iterator[Cell]:
    """The cells that a kernel's declaration claims.

    A kernel without ``torch_op`` has no fake implementation, so no fake_shape cell; module and e2e
    cells come from the subjects (modules and models) that name the kernel's op; a kernel that
    cannot be emulated has only import_safety on the CPU. ``sanitize`` adds that layer, which takes
    minutes and a tool of its own, so that a run has it only when it asks for it.
    """
    used = [subject for subject in subjects if kernel.op in subject.ops]
    layers = [layer for layer in EVERYWHERE if layer != Layer.FAKE_SHAPE or kernel.torch_op]
    layers += sorted({subject.layer for subject in used})
    yield Cell(kernel.name, CPU, Layer.IMPORT_SAFETY)
    if kernel.emulated:
        yield from (Cell(kernel.name, CPU, layer) for layer in layers)
    for arch in kernel.archs:
        yield Cell(kernel.name, arch, Layer.COMPILE)
        yield from (Cell(kernel.name, arch, layer) for layer in layers)
        if sanitize:
            yield Cell(kernel.name, arch, Layer.SANITIZE)


def inventory(
    kernels: Iterable[Kernel], subjects: Iterable[Subject], *, sanitize: bool = False
) -> tuple[Cell, ...]:
    """All cells that the kernels claim, in order; those of the layer sanitize if asked for."""
    subjects = tuple(subjects)
    return tuple(
        cell for kernel in kernels for cell in cells_of(kernel, subjects, sanitize=sanitize)
    )
