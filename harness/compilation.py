"""The compile layer: machine code of every configuration for an arch, inspected, with no GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from harness import arch as arches
from harness import device as devices
from harness.execute import build
from harness.launches import capture_launches
from harness.probes import base_case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.artifact import Artifact
    from harness.case import Case
    from harness.declare import Kernel, Op
    from harness.launches import Launch

ALIGNED: Final = 256  # divisible by every tile and by 16: the specialisation of ordinary sizes


# Triton puts nothing else there. The others do, and most often where a loop was not unrolled: it
# costs the same, and the remedy is the same or is a declaration.
_IN_LOCAL_MEMORY: Final = {
    "triton": "spilled registers",
    "cuda": "local memory, for spilled registers or an array that is indexed at run time",
    "cutedsl": "local memory, for spilled registers or a tensor that is indexed at run time",
}


class NothingLaunched(RuntimeError):
    """A kernel launched nothing on a legal case, so there is nothing to compile."""


@dataclass(frozen=True)
class Compiled:
    """What one case launches on an arch, as machine code."""

    case: Case
    artifacts: tuple[Artifact, ...]


def representative(op: Op, kernel: Kernel, arch: str) -> Iterator[Case]:
    """What is compiled for ``arch``: every configuration, dtype and value of a parameter.

    At aligned sizes: the default configuration in every dtype and with every value of every
    parameter, each named one in one dtype. Which one turns with the arch, so that over the archs
    of a kernel all combinations are compiled at a fraction of the time. At ragged sizes: the
    default.
    """
    aligned = tuple(
        (axis, min(size.max, max(size.smallest, ALIGNED // size.multiple_of * size.multiple_of)))
        for axis, size in op.domain.sizes.items()
    )
    base = replace(base_case(op, kernel), sizes=aligned)
    for dtype in op.dtypes:
        yield replace(base, dtype=dtype)
    for index, config in enumerate(kernel.configs, start=kernel.archs.index(arch)):
        yield replace(base, config=config, dtype=op.dtypes[index % len(op.dtypes)])
    for name, labels in op.params.items():
        for label in list(labels)[1:]:
            yield replace(
                base, params=tuple((n, label if n == name else old) for n, old in base.params)
            )
    yield base_case(op, kernel)


def compile_case(op: Op, kernel: Kernel, case: Case, arch: str) -> Compiled:
    """Compile for ``arch`` all that ``case`` would launch there.

    Raises NothingLaunched, CompileFailed with the compiler's message, BackendMissing, or
    UnsupportedArch.
    """
    launches = launches_of(op, kernel, case, arch)
    return Compiled(case, tuple(_compile(launch, arch) for launch in launches))


def _compile(launch: Launch, arch: str) -> Artifact:
    """By the backend of the launch: a kernel of one backend may launch some of another."""
    if launch.backend == "triton":
        from harness import triton_aot

        return triton_aot.compile_launch(launch, arch)
    if launch.backend in {"cuda", "cutedsl"}:
        from harness import native

        return native.compile_launch(launch, arch)
    msg = (
        f"backend={launch.backend!r} of {launch} is not compiled here; "
        f"use 'triton', 'cuda' or 'cutedsl'"
    )
    raise NotImplementedError(msg)


def problems(kernel: Kernel, compiled: Compiled, arch: str) -> list[str]:
    """What is wrong with the machine code: undeclared spills, expected instructions missing."""
    what = _IN_LOCAL_MEMORY.get(kernel.backend, "local memory")
    found = [
        f"{a.kernel}: {a.spill_stores} stores and {a.spill_loads} loads of {what}"
        for a in compiled.artifacts
        if a.spills and not any(arches.admits(claim, arch) for claim in kernel.spills)
    ]
    for claim, pattern in kernel.instructions.items():
        if arches.admits(claim, arch) and not any(a.find(pattern) for a in compiled.artifacts):
            names = ", ".join(a.kernel for a in compiled.artifacts)
            found.append(f"no instruction of {names} matches {pattern!r}, expected on {claim}")
    return found


def figures(compiled: list[Compiled]) -> dict[str, object]:
    """The worst of what the machine code needs, and which matrix instructions are in it."""
    artifacts = [artifact for each in compiled for artifact in each.artifacts]
    return {
        "cases": len(compiled),
        "max_registers": max(a.registers for a in artifacts),
        "max_shared_bytes": max(a.shared_bytes for a in artifacts),
        "spills": sum(a.spill_stores + a.spill_loads for a in artifacts),
        "matrix_instructions": sorted({op for a in artifacts for op in _matrix(a)}),
    }


def _matrix(artifact: Artifact) -> set[str]:
    lines = artifact.find(r"\b(HMMA|IMMA|QMMA|OMMA|HGMMA|IGMMA|QGMMA|UTC\w*MMA)\b")
    return {match[0] for line in lines if (match := re.search(r"\b\w*MMA[\w.]*", line))}


def launches_of(op: Op, kernel: Kernel, case: Case, arch: str) -> list[Launch]:
    """What ``case`` would launch on ``arch``; nothing is executed. Raises NothingLaunched."""
    call = build(op, case, torch.device("cpu"))
    with torch.no_grad(), devices.pretend(arch), capture_launches() as launches:
        kernel.function(**call.arguments)
    if not launches:
        msg = f"{kernel.name} launched nothing for {case.id}; is it a kernel, or a fallback?"
        raise NothingLaunched(msg)
    return launches
