"""What the declarations of this process claim, and on which machine, as a manifest says it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness import registry
from harness.arch import CPU
from harness.layers import CHECKS
from harness.manifest import Asked, KernelFacts
from harness.sources import source_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from harness.cells import Cell
    from harness.declare import Kernel
    from harness.manifest import Manifest


def collected(
    begun: Manifest,
    cells: Collection[Cell],
    kept: Sequence[Asked],
    dropped: Sequence[Asked],
    devices: Mapping[str, Mapping[str, str]],
) -> Manifest:
    """The manifest of a run once its checks are known, with cells, kernels and this machine.

    ``devices`` are this machine's words for them, by arch: to ask would start CUDA here.
    """
    names = dict.fromkeys(cell.kernel for cell in cells)  # whatever a test imported besides
    found = {*kept, *dropped}
    return replace(
        begun,
        archs=tuple(devices),
        device=next(iter(devices.values()), {"device": CPU}),
        kernels={name: _facts(registry.kernel(name)) for name in names},
        cells=tuple((cell.kernel, cell.arch, str(cell.layer)) for cell in cells),
        collected=tuple(kept),
        deselected=tuple(dropped),
        uncovered=tuple(each for each in claimed(cells) if each not in found),
        not_loaded={name: str(error) for name, error in registry.load_errors().items()},
    )


def _facts(kernel: Kernel) -> KernelFacts:
    return KernelFacts(
        op=kernel.op,
        backend=kernel.backend,
        archs=kernel.archs,
        dtypes=registry.op(kernel.op).dtypes,
        source=source_hash(kernel),
        configs=kernel.configs,
    )


def claimed(cells: Iterable[Cell]) -> Iterator[Asked]:
    """The checks of the layers' table by which the cells are covered."""
    for cell in cells:
        op = registry.op(registry.kernel(cell.kernel).op)
        for check in CHECKS:
            if check.layer is cell.layer and check.applies_to(op):
                for test, dtype in check.tests(op):
                    yield Asked(cell.kernel, cell.arch, str(cell.layer), test, dtype)
