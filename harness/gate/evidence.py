"""Evidence of one or several machines: the records and manifests of a folder, merged."""

from __future__ import annotations

import gc
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, NamedTuple

from harness import manifest, record
from harness.atomic import PART
from harness.gate import folders, record_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from harness.manifest import KernelFacts, Manifest
    from harness.record import Record

RECORDS: Final = ".jsonl"
OURS: Final = "kernel-parity"  # among the versions
_ENDED: Final = frozenset({0, 1, 5})  # of pytest: passed, some failed, nothing was collected


class CannotJudge(ValueError):
    """Records or a contract of which no verdict can be made; the message says where and why."""


class Stamp(NamedTuple):
    """What records have in common with their run's manifest, and with other runs."""

    run: str
    kernel: str
    arch: str
    layer: str
    source: str
    version: str


_stamp: Final = partial(tuple.__new__, Stamp)


@dataclass(frozen=True)
class Run:
    """One run: its records file, its manifest, its records."""

    path: Path
    manifest: Manifest
    records: tuple[Record, ...]

    @cached_property
    def stamps(self) -> frozenset[Stamp]:
        """Of what its records are; far fewer than there are records."""
        return frozenset(
            _stamp((r.run, r.kernel, r.arch, r.layer, r.source, r.versions.get(OURS, "")))
            for r in self.records
        )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, whatever it found."""
        return bool(self.manifest.finished) and self.manifest.status in _ENDED

    def __str__(self) -> str:
        return f"run {self.manifest.run} ({self.path.name})"


@dataclass(frozen=True)
class Merged:
    """All runs of a folder, which are of the same kernels, schema and version."""

    runs: tuple[Run, ...]

    @property
    def records(self) -> Iterator[Record]:
        """The records of all runs, run by run."""
        for run in self.runs:
            yield from run.records

    @cached_property
    def kernels(self) -> Mapping[str, KernelFacts]:
        """What each kernel declares."""
        return {name: facts for run in self.runs for name, facts in run.manifest.kernels.items()}

    @cached_property
    def cells(self) -> tuple[tuple[str, str, str], ...]:
        """All that any run claims: kernel, arch, layer."""
        return tuple(dict.fromkeys(cell for run in self.runs for cell in run.manifest.cells))


def read(folder: Path) -> Merged:
    """All records of ``folder``, and of folders in it, with their manifests; raises CannotJudge."""
    try:
        files = _files(folder)
        with ThreadPoolExecutor() as pool:  # to hash leaves Python free to parse what is hashed
            runs = tuple(map(_read_run, files, pool.map(_content, files)))
    except (folders.Unreadable, record.InvalidRecord, manifest.InvalidManifest) as error:
        raise CannotJudge(str(error)) from error
    _refuse_the_same_run(runs)
    _refuse_mixed_versions(runs)
    _refuse_mixed_sources(runs)
    return Merged(runs)


@contextmanager
def all_kept() -> Iterator[None]:
    """Records are no garbage: to look for it among 100,000 of them takes longer than to judge."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _files(folder: Path) -> list[Path]:
    """The records files; anything else but manifests is refused, as it may be evidence misnamed."""
    if not folder.is_dir():
        msg = f"records={str(folder)!r} is no folder; name the one that holds *.jsonl of --records"
        raise CannotJudge(msg)
    found = folders.files_below(folder)
    records = [path for path in found if path.name.endswith(RECORDS)]
    manifests = {path for path in found if path.name.endswith(manifest.SUFFIX)}
    half_written = {path for path in found if path.name.endswith(PART)}
    if foreign := [p for p in found if p not in {*records, *manifests, *half_written}]:
        names = ", ".join(str(path.relative_to(folder)) for path in foreign[:3])
        msg = (
            f"records={str(folder)!r} holds {len(foreign)} files that are neither *{RECORDS} nor "
            f"*{manifest.SUFFIX}: {names}; move them elsewhere"
        )
        raise CannotJudge(msg)
    _refuse_singles(records, manifests)
    if not records:
        msg = f"records={str(folder)!r} holds no *{RECORDS}; make them with pytest --records"
        raise CannotJudge(msg)
    return records


def _refuse_singles(records: Iterable[Path], manifests: set[Path]) -> None:
    wanted = {manifest.beside(path): path for path in records}
    for missing in sorted(wanted.keys() - manifests):
        msg = f"{wanted[missing]}: its manifest {missing.name} is not beside it; copy both files"
        raise CannotJudge(msg)
    for alone in sorted(manifests - wanted.keys()):
        msg = f"{alone}: the records that it belongs to are not beside it; copy both files"
        raise CannotJudge(msg)


class _Content(NamedTuple):
    content: bytes
    digest: str


def _content(path: Path) -> _Content:
    content = path.read_bytes()
    return _Content(content, manifest.digest_of(content))


def _read_run(path: Path, file: _Content) -> Run:
    found = manifest.read(manifest.beside(path))
    if file.digest == found.digest:
        run = Run(path, found, record_file.vouched_for(file.content, path))
    else:
        run = Run(path, found, record_file.checked(file.content, path))
    _refuse_others(run)
    _refuse_changed(run, file.digest)
    return run


def _refuse_others(run: Run) -> None:
    """Refuse records that are not of the manifest beside them."""
    path, known = run.path, run.manifest
    for other in sorted({own.run for own in run.stamps} - {known.run}):
        msg = (
            f"{path}: run={other!r} in a record, run={known.run!r} in the manifest beside it; "
            "the two files are of different runs"
        )
        raise CannotJudge(msg)
    cells = {(own.kernel, own.arch, own.layer) for own in run.stamps}
    for cell in sorted(cells - set(known.cells)):
        msg = f"{path}: {'-'.join(cell)} is no cell of the manifest beside it, which claims "
        msg += (
            f"{len(known.cells)}; the records are of something else, or the manifest is of a run "
        )
        msg += "whose first worker died while it collected"
        raise CannotJudge(msg)


def _refuse_changed(run: Run, digest: str) -> None:
    """Refuse records other than those that the run left, if it came to its end."""
    known = run.manifest
    if known.finished and digest != known.digest:
        msg = (
            f"{run.path}: these are not the records that run {known.run!r} left when it ended at "
            f"{known.finished}; they were cut off or changed since: copy both files again"
        )
        raise CannotJudge(msg)


def _refuse_the_same_run(runs: Iterable[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        if (other := seen.setdefault(run.manifest.run, run)) is not run:
            msg = f"{other.path} and {run.path} are the same run {run.manifest.run!r}; keep one"
            raise CannotJudge(msg)


def _refuse_mixed_versions(runs: Iterable[Run]) -> None:
    found: dict[str, Run] = {}
    for run in runs:
        own = {run.manifest.versions.get(OURS, ""), *(each.version for each in run.stamps)}
        found |= dict.fromkeys(sorted(own), run)
    if len(found) > 1:
        words = ", ".join(f"{version!r} in {run.path}" for version, run in found.items())
        msg = f"records of several versions of kernel-parity: {words}; make them with one"
        raise CannotJudge(msg)


def _refuse_mixed_sources(runs: Iterable[Run]) -> None:
    found: defaultdict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        facts = {(name, kernel.source) for name, kernel in run.manifest.kernels.items()}
        for name, source in {*facts, *((own.kernel, own.source) for own in run.stamps)}:
            found[name][source] = run
    for name, sources in sorted(found.items()):
        if len(sources) > 1:
            words = ", ".join(f"{source} in {run.path}" for source, run in _by_file(sources))
            msg = (
                f"kernel {name!r} has several source hashes: {words}; its file changed between "
                "these runs, so make all records from one checkout"
            )
            raise CannotJudge(msg)


def _by_file(sources: Mapping[str, Run]) -> list[tuple[str, Run]]:
    """Hashes with the run that has each, in the order of their files."""
    return sorted(sources.items(), key=lambda pair: (str(pair[1].path), pair[0]))
