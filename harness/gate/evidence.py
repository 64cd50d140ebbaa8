"""Evidence of one or several machines: the records and manifests of a folder, merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.manifest import KernelFacts, Manifest
    from harness.record import Record


class CannotJudge(ValueError):
    """Records or a contract of which no verdict can be made; the message says where and why."""


@dataclass(frozen=True)
class Run:
    """One run: its records file, its manifest, its records; ``cut`` if the last line is half."""

    path: Path
    manifest: Manifest
    records: tuple[Record, ...]
    cut: bool = False

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, whatever it found."""
        return bool(self.manifest.finished) and self.manifest.status in {0, 1, 5} and not self.cut


@dataclass(frozen=True)
class Merged:
    """All runs of a folder, which are of the same kernels, schema and version."""

    runs: tuple[Run, ...]

    @property
    def records(self) -> Iterator[Record]:
        """The records of all runs, run by run."""
        for run in self.runs:
            yield from run.records

    @property
    def kernels(self) -> Mapping[str, KernelFacts]:
        """What each kernel declares."""
        return {name: facts for run in self.runs for name, facts in run.manifest.kernels.items()}

    @property
    def cells(self) -> tuple[tuple[str, str, str], ...]:
        """All that any run claims: kernel, arch, layer."""
        return tuple(dict.fromkeys(cell for run in self.runs for cell in run.manifest.cells))


def read(folder: Path) -> Merged:
    """All records of ``folder`` with their manifests; raises CannotJudge."""
    raise NotImplementedError(folder)
