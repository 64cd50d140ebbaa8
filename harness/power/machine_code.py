"""Whether CUDA C++ with a fault compiles, and to other machine code than without it.

A fault that leaves all machine code as it was is none, whatever a run would show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness import compilation, nvrtc, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.nvrtc import Source


@dataclass(frozen=True)
class Fault:
    """The text of a file, and the faulty one that stands in its place."""

    original: str
    changed: str

    def without(self, source: Source) -> Source:
        """``source`` as it would be without the fault."""
        headers = {name: self._mended(text) for name, text in source.headers.items()}
        return replace(source, text=self._mended(source.text), headers=headers)

    def _mended(self, text: str) -> str:
        return self.original if text == self.changed else text


def sources(kernel: str, arch: str) -> Iterator[Source]:
    """The CUDA C++ that a kernel launches on ``arch`` in every configuration, each once.

    The configurations are those that the compile layer records, in its order; no GPU is asked.
    """
    declared = registry.kernel(kernel)
    op, seen = registry.op(declared.op), list[nvrtc.Source]()
    for case in compilation.representative(op, declared, arch):
        for launch in compilation.launches_of(op, declared, case, arch):
            found = launch.function
            source = found.source if isinstance(found, nvrtc.Function) else None
            if isinstance(source, nvrtc.Source) and source not in seen:
                seen.append(source)
                yield source


def differs(kernel: str, arch: str, fault: Fault, *, folder: Path | None = None) -> bool:
    """Whether the machine code of any configuration is other than without the fault.

    Compiles no more than what it takes to say so, so that a fault may still fail to compile in a
    later configuration. Raises CompileFailed for one that does in the first ones.
    """
    return any(_differs(source, arch, fault, folder) for source in sources(kernel, arch))


def _differs(source: Source, arch: str, fault: Fault, folder: Path | None) -> bool:
    mended = fault.without(source)
    if mended == source:  # of another file
        return False
    mine = nvrtc.compile_source(source, arch, folder=folder)
    return mine.cubin != nvrtc.compile_source(mended, arch, folder=folder).cubin
