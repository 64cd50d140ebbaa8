"""A power run from end to end: originals, correct variants, every mutant in a child of its own.

The parent imports neither the kernels nor CUDA. What is finished is on disk at once, so that a run
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import pickle
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from harness import record
from harness.arch import CPU
from harness.power import matrix, witness
from harness.power.correct import Judged
from harness.power.isolation import Ending, Limits, run
from harness.power.mutation import mutations, sample
from harness.power.session import (
    MAIN,
    Began,
    CannotLoad,
    Inventory,
    Known,
    LookAtOriginal,
    Options,
    TakeInventory,
    TryCorrect,
    TryMutant,
)
from harness.power.targets import DEVICE_FILES, targets
from harness.power.trace import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harness.power.isolation import Finished
    from harness.power.matrix import Looked, Matrix, Rejections, Row
    from harness.power.mutation import Mutation
    from harness.power.session import Described, Task
    from harness.power.targets import Target

AnyTask = TypeVar("AnyTask", bound="Task")
QUICK: Final = 160  # mutants of a quick run
MEMORY: Final = 6 * 2**30  # bytes a child may hold; a CUDA context maps a few of them
SHARE: Final = 48  # cases of a task of correct variants, so that tasks fill all children


class NoMutants(LookupError):
    """Nothing to plant: a kernel without mutants, an unknown id, a filter that leaves none."""


class BrokenOriginal(RuntimeError):
    """The original could not be examined: whatever a mutant did would say nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run was asked for on the command line."""

    kernels: tuple[str, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()  # kernel and a further module to mutate for it
    count: int | None = None
    only: str | None = None  # "tuning" or "held-out"
    mutant: str | None = None
    jobs: int
    step_seconds: float


class Campaign:
    """One run; each part is done when first asked for."""

    def __init__(
        self, options: Options, wanted: Wanted, *, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.options = options
        self.wanted = wanted
        self._tell = tell
        self._started = time.monotonic()
        torch.set_num_threads(1)  # children share the machine, and a fork loses worker threads
        options.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def inventory(self) -> Inventory:
        """What is declared; raises CannotLoad."""
        asked = TakeInventory(tuple(module for _, module in self.wanted.modules))
        (finished,) = self._run([asked], self.options)
        for message in finished.messages:
            if isinstance(message, Inventory):
                self._import_harmless(message)
                return message
        raise CannotLoad(_last_line(finished.words))

    @cached_property
    def sources(self) -> dict[str, str]:
        """The source text of every module to mutate."""
        files = dict(self.inventory.files)
        for kernel in self.inventory.kernels:
            files |= {t.module: str(t.path) for t in self._targets(kernel.module)}
        return {module: Path(file).read_text(encoding="utf-8") for module, file in files.items()}

    @cached_property
    def mutants(self) -> tuple[Mutation, ...]:
        """The chosen mutants, every one applied once; raises NoMutants, AnchorGone."""
        found = [m for kernel, module in self._places() for m in self._of(kernel, module)]
        if self.wanted.mutant is not None:
            found = [mutation for mutation in found if mutation.id == self.wanted.mutant]
            if not found:
                msg = f"mutant={self.wanted.mutant!r} is unknown; --list prints the known ones"
                raise NoMutants(msg)
        if self.wanted.only is not None:
            held_out = self.wanted.only == "held-out"
            found = [mutation for mutation in found if mutation.held_out == held_out]
        if self.wanted.count is not None:
            found = sample(found, self.wanted.count)
        if not found:
            asked = f"count={self.wanted.count!r}, only={self.wanted.only!r}"
            msg = f"{asked} leave no mutant; ask for more"
            raise NoMutants(msg)
        for mutation in found:
            mutation.apply(self.sources[mutation.module])
        return tuple(found)

    @cached_property
    def originals(self) -> dict[str, Known]:
        """What is known of each original; from disk where nothing has changed since."""
        needed = sorted({mutation.kernel for mutation in self.mutants})
        known = {name: found for name in needed if (found := self._cached(name)) is not None}
        missing = [name for name in needed if name not in known]
        parts = max(1, self.wanted.jobs // max(1, len(missing)))
        tasks = [LookAtOriginal(name, part, parts) for name in missing for part in range(parts)]
        looked: dict[str, list[Finished[LookAtOriginal]]] = {name: [] for name in missing}
        for finished in self._run(tasks):
            _refuse_broken(finished)
            name = finished.task.kernel
            looked[name].append(finished)
            if len(looked[name]) == parts:
                known[name] = self._known(name, looked[name])
                seconds = max(each.seconds for each in looked[name])
                self._tell(f"{name}: original examined in {seconds:.0f} s")
        return {name: known[name] for name in needed}

    def correct(self) -> Rejections:
        """The correct variants of every op, before the same judge."""
        tasks = []
        for kernel in self._ops():
            plan = self.originals[kernel].plan
            cases = [c for asked, group in plan.items() if asked.check == MAIN for c in group]
            op = next(each.op for each in self.inventory.kernels if each.name == kernel)
            parts = [tuple(cases[i : i + SHARE]) for i in range(0, len(cases), SHARE)]
            tasks += [TryCorrect(op, kernel, part, habits=not i) for i, part in enumerate(parts)]
        judged: list[Judged] = []
        for finished in self._run(tasks):
            if finished.ending is not Ending.DONE:
                msg = f"variants of {finished.task.op}: {finished.ending}: {finished.words}"
                raise BrokenOriginal(msg)
            judged += [m for m in finished.messages if isinstance(m, Judged)]
        return matrix.rejections(judged)

    def rows(self) -> Iterator[Row]:
        """What becomes of every mutant, those known from an earlier run first."""
        known, originals = self._finished_rows(), self.originals
        yield from (known[m.id] for m in self.mutants if m.id in known)
        kernels = self._parts()
        tasks = [
            TryMutant(
                mutation,
                self.sources[mutation.module],
                originals[mutation.kernel],
                wrapper=mutation.module not in kernels,
            )
            for mutation in self.mutants
            if mutation.id not in known
        ]
        with self._rows_file.open("a", encoding="utf-8") as file:
            file.write("\n")  # what was cut off stays alone on its line
            for finished in self._run(tasks):
                mutation = finished.task.mutation
                row = matrix.row(mutation, finished, originals[mutation.kernel].original)
                file.write(json.dumps({"key": self._key, "row": asdict(row)}) + "\n")
                file.flush()
                yield row

    def looked(self) -> tuple[Looked, ...]:
        """What a report says of the originals."""
        described = {kernel.name: kernel for kernel in self.inventory.kernels}
        return tuple(
            matrix.look(name, described[name].examples, described[name].configs, known.original)
            for name, known in self.originals.items()
        )

    def matrix(self, rows: Sequence[Row], found: Rejections) -> Matrix:
        """The whole run as one document."""
        settings = self.options.settings
        return matrix.Matrix(
            rows=tuple(sorted(rows, key=lambda row: row.id)),
            originals=self.looked(),
            rejections=found,
            run={
                "arch": self.options.arch,
                "device": dict(self.inventory.device),
                "cores": len(os.sched_getaffinity(0)),
                "jobs": self.wanted.jobs,
                "quick": self.options.quick,
                "seconds": self.options.seconds if math.isfinite(self.options.seconds) else None,
                "mutants": len(self.mutants),
                "elsewhere": self.elsewhere,
                "seed": settings.seed,
                "cases": settings.cases,
                "versions": record.versions(),
                "wall_seconds": round(time.monotonic() - self._started, 1),
                "key": self._key,
            },
        )

    def _run(
        self, tasks: Sequence[AnyTask], options: Options | None = None
    ) -> Iterator[Finished[AnyTask]]:
        options = options or replace(self.options, devices=self.inventory.devices)
        return run(
            tasks,
            partial(_perform, options),
            jobs=self.wanted.jobs,
            limits=Limits(step_seconds=self.wanted.step_seconds, memory=MEMORY),
            folder=self.options.folder / "children",
        )

    def _import_harmless(self, found: Inventory) -> None:
        """Import here, once for all children, what pulls in no module that gets mutated."""
        for target in found.harmless:
            importlib.import_module(target)
        if self.options.arch == CPU:  # on a GPU's host it might ask for devices, and spoil forks
            importlib.import_module("torch._dynamo")
        if early := sorted(set(found.files) & set(sys.modules)):
            msg = f"{early} were imported by the parent; children could not import their mutants"
            raise RuntimeError(msg)

    def _targets(self, module: str) -> Iterable[Target]:
        package = module.partition(".")[0]
        return targets(package) if package != module else ()

    def _parts(self) -> set[str]:
        """Modules in which a fault is the kernel's own, and not that of what wraps it."""
        own = {kernel.module for kernel in self.inventory.kernels}
        return own | {t.module for module in own for t in self._targets(module) if not t.wraps}

    def _places(self) -> list[tuple[str, str]]:
        """Kernels and modules to mutate for them: their own, their wrappers, further ones."""
        chosen = self._chosen()
        found = {(kernel.name, kernel.module): None for kernel in chosen}
        names = {kernel.name for kernel in chosen}
        for kernel in chosen:
            places = ((t.kernel, t.module) for t in self._targets(kernel.module))
            found |= {place: None for place in places if place[0] in names}
        found |= {place: None for place in self.wanted.modules if place[0] in names}
        return list(found)

    def _chosen(self) -> list[Described]:
        known = {kernel.name: kernel for kernel in self.inventory.kernels}
        elsewhere = self.inventory.elsewhere
        if unknown := [n for n in self.wanted.kernels if n not in {*known, *elsewhere}]:
            msg = f"kernel={unknown[0]!r} is unknown; known: {', '.join(known) or 'none'}"
            raise NoMutants(msg)
        wanted = self.wanted.kernels or tuple(known)
        if self.wanted.mutant is not None:
            wanted = (self.wanted.mutant.partition("/")[0],)
        if wanted and not known.keys() & set(wanted) and (away := elsewhere.keys() & set(wanted)):
            name = min(away)
            needed = f"kernel={name!r} needs {elsewhere[name]}, and this is {self.options.arch}"
            msg = f"{needed}; its mutants are made by harness.power.mutation --list --kernel {name}"
            raise NoMutants(msg)
        return [known[name] for name in wanted if name in known]

    @cached_property
    def elsewhere(self) -> dict[str, dict[str, object]]:
        """How many mutants of which kernels were asked for and need another arch, and which."""
        away = self.inventory.elsewhere
        places = {place: None for k in self.inventory.kernels for place in self._targets(k.module)}
        found = {}
        for name in sorted(away.keys() & set(self.wanted.kernels or away)):
            own = [t for t in places if t.kernel == name]
            count = sum(len(mutations(name, t.module, t.source())) for t in own)
            found[name] = {"needs": away[name], "mutants": count}
        return found

    def _of(self, kernel: str, module: str) -> list[Mutation]:
        found = mutations(kernel, module, self.sources[module])
        own = any(k.name == kernel and k.module == module for k in self.inventory.kernels)
        if own and not found:
            msg = f"kernel={kernel!r} has no mutant: no rule fits {module}; nothing would be shown"
            raise NoMutants(msg)
        return found

    def _ops(self) -> list[str]:
        """One kernel of each op, whose cases its variants are given."""
        first: dict[str, str] = {}
        for kernel in self.inventory.kernels:
            if kernel.name in self.originals:
                first.setdefault(kernel.op, kernel.name)
        return list(first.values())

    @cached_property
    def _key(self) -> str:
        """A hash of all that decides what a child sees."""
        found = hashlib.blake2b(digest_size=8)
        targets = self.options.targets
        roots = {t if t.endswith(".py") else t.partition(".")[0] for t in targets} | {"harness"}
        for root in sorted(roots):
            for path in _sources_of(root):
                found.update(path.read_bytes())
        options, settings = self.options, self.options.settings
        said = (options.targets, options.arch, options.quick, options.seconds, settings)
        found.update(repr((said, record.versions(), self.inventory.device)).encode())
        return found.hexdigest()

    @property
    def _rows_file(self) -> Path:
        return self.options.folder / "rows.jsonl"

    def _place(self, kernel: str) -> Path:
        return self.options.folder / "originals" / f"{kernel}.pickle"

    def _cached(self, kernel: str) -> Known | None:
        try:
            with self._place(kernel).open("rb") as file:
                key, known = pickle.load(file)  # noqa: S301 - our own child wrote it
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError):
            return None
        return known if key == self._key and isinstance(known, Known) else None

    def _known(self, kernel: str, parts: Sequence[Finished[LookAtOriginal]]) -> Known:
        messages = [message for finished in parts for message in finished.messages]
        plan, search = next(m for m in messages if isinstance(m, tuple))
        steps = [message for message in messages if isinstance(message, Step)]
        known = Known(plan, search, witness.original(steps))
        place = self._place(kernel)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".part").open("wb") as file:
            pickle.dump((self._key, known), file)
        place.with_suffix(".part").replace(place)
        return known

    def _finished_rows(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        try:
            lines = self._rows_file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                fields = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off when the run was interrupted
            if fields["key"] == self._key:
                row = matrix.row_from(fields["row"])
                found[row.id] = row
        # What the harness failed on is tried again.
        return {name: row for name, row in found.items() if row.status is not matrix.Status.UNKNOWN}


def _perform(options: Options, task: Task, slot: int, send: Callable[[object], None]) -> None:
    task.perform(options, slot, send)


def _refuse_broken(finished: Finished[LookAtOriginal]) -> None:
    if finished.ending is not Ending.DONE:
        at = [m.key.name for m in finished.messages if isinstance(m, Began)][-1:]
        kernel = finished.task.kernel
        msg = f"{kernel}: the original {finished.ending} at {at}: {finished.words}"
        raise BrokenOriginal(msg)


def _sources_of(root: str) -> list[Path]:
    """All sources of a package, or the one file of a module or of a path."""
    if root.endswith(".py"):
        return [Path(root)]
    spec = importlib.util.find_spec(root)
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in DEVICE_FILES]
    return files or [Path(str(spec.origin))]


def _last_line(words: str) -> str:
    lines = words.strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
