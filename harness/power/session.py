"""What children of a power run do: look at the originals, try one mutant, try correct variants.

The parent knows a kernel by its description only; each child imports the declared packages anew.
"""

from __future__ import annotations

import inspect
import math
import sys
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import triton

from harness import arch as arches
from harness import device as devices
from harness import registry
from harness.arch import CPU
from harness.artifact import CompileFailed
from harness.cells import Evidence, Layer
from harness.check import CASES
from harness.power import correct, examine, foreign, machine_code, plant, witness
from harness.power.targets import PYTHON, language_of
from harness.power.trace import Key, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from harness.case import Case
    from harness.check import Settings
    from harness.declare import Kernel
    from harness.power.mutation import Mutation
    from harness.power.witness import Original

MAIN: Final = "matches_the_reference"  # the check whose cases make the kill curve
LOADS: Final = Key(str(Layer.IMPORT_SAFETY), "every_declared_module_loads", "", examine.WHOLE)
# Steps of the original above this come last in a quick run. On a device it is compilation that
# costs, of which nobody can say beforehand what a mutant needs of it.
CHEAP_SECONDS: Final = 0.2
OURS: Final = "all families"  # the inputs of the default run, beside the habits of people
FIRST_CASES: Final = 2  # of a configuration, that a quick run takes before anything else


class Task(Protocol):
    """What a child does."""

    def perform(self, options: Options, slot: int, send: Callable[[object], None]) -> None:
        """Do it; ``slot`` tells it apart from its living siblings, ``send`` reports."""


class CannotLoad(ImportError):
    """A declared module of the original does not import: nothing can be measured on it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all children of a run need to know."""

    targets: tuple[str, ...]
    arch: str
    settings: Settings
    quick: bool
    folder: Path
    seconds: float = math.inf  # after which a mutant gets no further step
    devices: tuple[str, ...] = ()  # that children share out


@dataclass(frozen=True)
class Described:
    """A kernel as its declaration has it, without the function."""

    name: str
    op: str
    module: str
    examples: int
    configs: int


@dataclass(frozen=True)
class Inventory:
    """What is declared: kernels that run here, the files of their modules, this machine's device.

    ``harmless`` are the targets that import none of the modules that get mutated; ``elsewhere`` the
    kernels that do not run here, and the claim of each.
    """

    kernels: tuple[Described, ...]
    files: Mapping[str, str]
    harmless: tuple[str, ...]
    device: Mapping[str, str]
    devices: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What was seen of an original: its generated cases, its steps and what they cost."""

    plan: examine.Plan
    search: tuple[Case, ...]
    original: Original


@dataclass(frozen=True)
class Began:
    """A child began a step; told so that a hang is blamed on it."""

    key: Key


@dataclass(frozen=True)
class Concluded:
    """How far a mutant differs from its original, and by which step."""

    difference: witness.Difference
    words: str


@dataclass(frozen=True)
class Uncompiled:
    """A mutant that is no program: it says nothing of the checks, and counts nowhere."""

    words: str


@dataclass(frozen=True)
class TakeInventory:
    """Load all that is declared; sends an Inventory. Raises CannotLoad."""

    wanted: tuple[str, ...]  # modules that get mutated besides those of the kernels

    def perform(self, options: Options, slot: int, send: Callable[[object], None]) -> None:
        """Do it."""
        del slot
        loaded: dict[str, set[str]] = {}
        for target in options.targets:
            before = set(sys.modules)
            registry.load(target)
            loaded[target] = set(sys.modules) - before
        _refuse_broken()
        able = [each for each in registry.kernels() if _runs(each, options.arch)]
        elsewhere = {e.name: e.arch for e in registry.kernels() if e not in able}
        kernels = tuple(_described(each.name, options) for each in able)
        modules = {kernel.module for kernel in kernels} | set(self.wanted)
        found = {name: _file_of(name) for name in sorted(modules)}
        harmless = []
        for target, names in loaded.items():
            if names & modules:
                break
            harmless.append(target)
        described = devices.describe(devices.first_device(options.arch))
        shared = devices.visible(options.arch)
        send(Inventory(kernels, found, tuple(harmless), described, shared, elsewhere))


@dataclass(frozen=True)
class LookAtOriginal:
    """Plan the default run of a kernel, take it and the large search; sends the plan and steps.

    Every ``parts``-th step from ``part`` on, by a hash of its key.
    """

    kernel: str
    part: int = 0
    parts: int = 1

    def perform(self, options: Options, slot: int, send: Callable[[object], None]) -> None:
        """Do it."""
        _take_device(options, slot)
        registry.load_all(options.targets)
        _refuse_broken()
        kernel, arch = self.kernel, options.arch
        plan = examine.plan_of(kernel, arch, options.settings)
        examples = options.settings.cases or _default_cases(arch)
        search = witness.cases(
            kernel, arch, seed=options.settings.seed, examples=examples, quick=options.quick
        )
        send((plan, search))
        watch = _watch(send, send, rules=not options.quick, chosen=self.takes)
        _default_run(kernel, options, plan, watch)
        _search(kernel, arch, plan, search, watch, exact=True)

    def takes(self, key: Key, position: int) -> bool:
        """Whether a step is of this part: the same in every process."""
        del position
        return zlib.crc32(repr(tuple(key)).encode()) % self.parts == self.part


@dataclass(frozen=True)
class TryMutant:
    """Plant a mutant, take the default run and hold it to the original; sends steps."""

    mutation: Mutation
    source: str
    known: Known
    wrapper: bool  # whether the mutated module only calls the kernel

    def perform(self, options: Options, slot: int, send: Callable[[object], None]) -> None:
        """Do it."""
        comparer = witness.Comparer(self.known.original)
        _take_device(options, slot)
        try:
            with suppress(examine.Enough):
                self._try(options, slot, send, comparer)
        except CompileFailed as error:
            send(Uncompiled(str(error)))
        send(Concluded(comparer.conclude(), comparer.words))

    @property
    def _is_file(self) -> bool:
        """Whether the fault is in a file that a module reads, and not in a module."""
        return language_of(self.mutation.module) != PYTHON

    def _try(
        self,
        options: Options,
        slot: int,
        send: Callable[[object], None],
        comparer: witness.Comparer,
    ) -> None:
        send(Began(LOADS))
        folder = options.folder / "children" / f"planted-{slot}"
        changed = self.mutation.apply(self.source)
        serve = plant.serve_file if self._is_file else plant.serve
        serve(self.mutation.module, changed, folder)
        if words := _load_errors(options.targets):
            comparer.words = words
            send(Step(key=LOADS, oracles=("import",), words=words, outcome="fails"))
            return
        fault = machine_code.Fault(self.source, changed)
        if self._is_file and not machine_code.differs(self.mutation.kernel, options.arch, fault):
            return
        self._examine(options, send, comparer)

    def _examine(
        self, options: Options, send: Callable[[object], None], comparer: witness.Comparer
    ) -> None:
        kernel, arch, known = self.mutation.kernel, options.arch, self.known
        verdict = _Verdict(
            quick=options.quick,
            comparer=comparer,
            known=known,
            send=send,
            ends=time.monotonic() + options.seconds,
            cheap=CHEAP_SECONDS if arch == CPU else math.inf,
            compiles=self._is_file,
        )
        for chosen in verdict.passes():
            watch = _watch(verdict.tell, send, rules=not options.quick, chosen=chosen)
            if self.wrapper:
                only = (Layer.MODULE,)
                examine.default_run(kernel, arch, options.settings, known.plan, watch, layers=only)
            else:
                _default_run(kernel, options, known.plan, watch)
        if comparer.words:
            return
        verdict.searching = True
        watch = _watch(verdict.tell, send, chosen=verdict.affords)
        if self.wrapper:
            witness.modules(kernel, arch, watch, exact=True)
        else:
            _search(kernel, arch, known.plan, known.search, watch, exact=False)


@dataclass(frozen=True)
class TryCorrect:
    """Judge every correct variant of an op on cases; sends a Judged for each result."""

    op: str
    kernel: str  # whose cases they are
    cases: tuple[Case, ...]
    habits: bool  # whether to take the inputs that people use, too

    def perform(self, options: Options, slot: int, send: Callable[[object], None]) -> None:
        """Do it."""
        _take_device(options, slot)
        registry.load_all(options.targets)
        device, rules = devices.first_device(options.arch), not options.quick
        cases = {OURS: self.cases}
        if rules and self.habits:
            cases |= foreign.habits(self.kernel, options.arch)
        for judged in correct.judge_all(self.op, cases, device, rules=rules):
            send(judged)


@dataclass
class _Verdict:
    """Decides from the steps when a mutant needs no more of them."""

    quick: bool
    comparer: witness.Comparer
    known: Known
    send: Callable[[object], None]
    ends: float
    cheap: float
    compiles: bool = False  # whether a step may find that the mutant is no program
    searching: bool = False
    killed: bool = False
    done: set[Key] = field(default_factory=set)

    def tell(self, step: Step) -> None:
        if self.compiles and CompileFailed.__name__ in f"{step.outcome} {step.words}":
            self.send(Uncompiled(step.words))
            raise examine.Enough
        self.send(step)
        self.done.add(step.key)
        witnessed = self.comparer.add(step) or bool(self.comparer.words)
        if step.key.layer != witness.SEARCH and not self.searching:
            before = self.known.original.steps.get(step.key)
            self.killed |= not step.passed and (before is None or before.passed)
        enough = self.searching or (self.quick and self.killed)
        if (witnessed and enough) or time.monotonic() > self.ends:
            raise examine.Enough

    def affords(self, key: Key, position: int) -> bool:
        """Whether a search takes a step: a quick one leaves out what is dear, but for a kill.

        What is killed without a witness so far may be an accused innocent: that must be known.
        """
        del position
        return not self.quick or self.killed or self._cost(key) < self.cheap

    def passes(self) -> Sequence[Callable[[Key, int], bool]]:
        """Which steps to take in turn: all at once, or in a quick run the cheap ones first."""
        if not self.quick:
            return (lambda _, __: True,)
        return (self._first, self._cheap, self._rest)

    def _first(self, key: Key, position: int) -> bool:
        return key.check == MAIN and position < FIRST_CASES and self._cost(key) < self.cheap

    def _cheap(self, key: Key, position: int) -> bool:
        return self._rest(key, position) and self._cost(key) < self.cheap

    def _rest(self, key: Key, position: int) -> bool:
        del position
        return key not in self.done

    def _cost(self, key: Key) -> float:
        step = self.known.original.steps.get(key)
        return step.seconds if step else 0.0


def _watch(
    tell: Callable[[Step], None],
    send: Callable[[object], None],
    *,
    rules: bool = False,
    chosen: Callable[[Key, int], bool] | None = None,
) -> examine.Watch:
    return examine.Watch(
        tell=tell,
        begin=lambda key: send(Began(key)),
        chosen=chosen or (lambda _, __: True),
        rules=rules,
    )


def _default_run(kernel: str, options: Options, plan: examine.Plan, watch: examine.Watch) -> None:
    """The default run; in a full one the inputs that people use too, before a crash is likely."""
    guarded, rest = examine.ORDER[:1], examine.ORDER[1:]
    arch, settings = options.arch, options.settings
    examine.default_run(kernel, arch, settings, plan, watch, layers=guarded)
    if not options.quick:
        for habit, cases in foreign.habits(kernel, arch).items():
            examine.run_cases(kernel, arch, cases, watch, check=habit)
    examine.default_run(kernel, arch, settings, plan, watch, layers=rest)


def _search(
    kernel: str,
    arch: str,
    plan: examine.Plan,
    search: tuple[Case, ...],
    watch: examine.Watch,
    *,
    exact: bool,
) -> None:
    """The large search for a witness, cheapest first."""
    if registry.kernel(kernel).torch_op is not None:
        planned = [c for asked, cases in plan.items() if asked.check == MAIN for c in cases]
        witness.fakes(kernel, [*planned, *search], watch)
    witness.answers(kernel, arch, watch)
    witness.modules(kernel, arch, watch, exact=exact)
    examine.run_cases(kernel, arch, search, watch, check=witness.SEARCH)


def _runs(kernel: Kernel, arch: str) -> bool:
    """Whether a mutant of a kernel can be seen to be one on ``arch``."""
    return kernel.emulated if arch == CPU else arches.admits(kernel.arch, arch)


def _described(name: str, options: Options) -> Described:
    kernel = registry.kernel(name)
    module = inspect.unwrap(kernel.function).__module__
    examples = options.settings.cases or _default_cases(options.arch)
    return Described(name, kernel.op, module, examples, 1 + len(kernel.configs))


def _default_cases(arch: str) -> int:
    return CASES[Evidence.EMULATED if arch == CPU else Evidence.DEVICE]


def _file_of(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        msg = f"module={module!r} is not among what is declared; give a module that gets loaded"
        raise CannotLoad(msg)
    return str(file)


def _refuse_broken() -> None:
    for name, error in registry.load_errors().items():
        msg = f"{name} does not import: {type(error).__name__}: {error}; mend it first"
        raise CannotLoad(msg) from error


def _load_errors(targets: Sequence[str]) -> str:
    """Load with a mutant planted: words for what it breaks already there."""
    try:
        registry.load_all(targets)
    except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
        return f"raised {type(error).__name__}: {error}"
    broken = registry.load_errors()
    return "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in broken.items())


def _take_device(options: Options, slot: int) -> None:
    """A child has one device of its machine; compiled kernels are shared."""
    if options.devices:
        devices.see_only(options.devices[slot % len(options.devices)])
        triton.knobs.cache.dir = str(options.folder / "triton")
