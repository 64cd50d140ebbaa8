"""Whether device code with a fault compiles, and to other machine code than without it.

For what is compiled from a text: CUDA C++ and the CuTe DSL. A fault that leaves all machine code as
it was is none, whatever a run would show; but for that in host code which the DSL runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness import compilation, cutedsl, native, nvrtc, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Source = nvrtc.Source | cutedsl.Source


@dataclass(frozen=True)
class Fault:
    """The text of a file, and the faulty one that stands in its place."""

    original: str
    changed: str

    def without(self, source: Source) -> Source:
        """``source`` as it would be without the fault."""
        text = self._mended(source.text)
        if isinstance(source, cutedsl.Source):
            return replace(source, text=text)
        headers = {name: self._mended(text) for name, text in source.headers.items()}
        return replace(source, text=text, headers=headers)

    def _mended(self, text: str) -> str:
        return self.original if text == self.changed else text


def sources(kernel: str, arch: str) -> Iterator[Source]:
    """The device code that a kernel launches on ``arch`` in every configuration, each once.

    The configurations are those that the compile layer records, in its order; no GPU is asked.
    """
    declared = registry.kernel(kernel)
    op, seen = registry.op(declared.op), list[Source]()
    for case in compilation.representative(op, declared, arch):
        for launch in compilation.launches_of(op, declared, case, arch):
            found = launch.function
            source = found.source if isinstance(found, native.Function) else None
            if isinstance(source, Source) and source not in seen:
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
    mine = source.compile(arch, folder=folder)
    runs_on_the_host = isinstance(source, cutedsl.Source) and source.hosted
    return runs_on_the_host or mine.cubin != mended.compile(arch, folder=folder).cubin
