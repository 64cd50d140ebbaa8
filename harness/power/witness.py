"""Whether a mutant differs from the original by more than rounding, whatever the oracles say.

A mutant is *witnessed* by a step of which one of these holds, the original's being the other side:

1. what can be observed besides values differs: exception, refusal, launches, metadata of the
   outputs, damage to memory, whether a probe passes;
2. an output that must be exact, or is so by exact arithmetic, has other bits;
3. an inexact output has other bits and is *worse*: more NaN or infinities out of place; or the
   largest error of its value family beyond ``LARGEST`` times the largest that the original makes
   anywhere in that family; or, over all steps together, a root mean square beyond ``RMS`` times.

Errors are in the units of ``trace.measure``, which are those of rounding alone, apart for elements
that rounding to the output dtype dominates, whose errors are sharp, and for the others, where any
other order of the sums changes them. A mutant whose bits differ but are not worse is *benign*, one
that never differs *equivalent*. The figures were fixed before any score was seen.
"""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from harness import device as devices
from harness import registry, strategies
from harness.arch import CPU
from harness.case import DEFAULT
from harness.cells import Layer
from harness.emulation import emulate
from harness.execute import build, name_outputs, observe
from harness.explore import Search, explore
from harness.launches import record_launches
from harness.power.examine import outcome_of
from harness.power.trace import Errors, Key, Result, Step, digest, measure
from harness.probes import base_case, probes
from harness.reference import dtype_of, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.case import Case
    from harness.power.examine import Watch
    from harness.subjects import Sample, Subject

    _Seen = tuple[str, Mapping[str, Result]]

SEARCH: Final = "witness"  # the layer of steps that only this search takes
LARGEST: Final = {"rounded": 1.1, "summed": 4.0}
RMS: Final = {"rounded": 1.1, "summed": 2.0}
LEAST: Final = 256  # elements, before a root mean square says anything
SEEDS: Final = 4  # times the default run's cases, and states of each module


class Difference(StrEnum):
    """How far a mutant differs from the original."""

    NONE = "equivalent"
    BITS = "benign"
    WITNESSED = "witnessed"


@dataclass(frozen=True)
class Original:
    """The steps of the original, and the largest error that it makes by output and family."""

    steps: Mapping[Key, Step]
    largest: Mapping[tuple[str, ...], float]


def original(steps: Iterable[Step]) -> Original:
    """What mutants are held to."""
    known = {step.key: step for step in steps}
    largest: dict[tuple[str, ...], float] = {}
    for step in known.values():
        for place, errors in _pools(step):
            largest[place] = max(largest.get(place, 0.0), errors.largest)
    return Original(known, largest)


@dataclass
class Comparer:
    """Holds a mutant's steps to the original's as they come."""

    original: Original
    words: str = ""  # what witnessed it, once something did
    bits: bool = False  # whether any bit differed
    _mine: dict[tuple[str, ...], Errors] = field(default_factory=dict)
    _its: dict[tuple[str, ...], Errors] = field(default_factory=dict)

    @property
    def difference(self) -> Difference:
        """What is known so far."""
        if self.words:
            return Difference.WITNESSED
        return Difference.BITS if self.bits else Difference.NONE

    def add(self, step: Step) -> bool:
        """Take a step; whether it is a witness by itself. One that the original lacks is none."""
        before = self.original.steps.get(step.key)
        if before is None:
            return False
        words = self._differs(step, before)
        if words and not self.words:
            self.words = f"{step.key.name}: {words}"
        return bool(words)

    def conclude(self) -> Difference:
        """The difference over all steps together."""
        for place, mine in self._mine.items():
            its, limit = self._its[place], RMS[place[-1]]
            if self.words or mine.count < LEAST or mine.rms <= limit * its.rms:
                continue
            where = " ".join(place[:-1])
            self.words = f"{where}: rms error {mine.rms:.3g}, original {its.rms:.3g} ({place[-1]})"
        return self.difference

    def _differs(self, step: Step, before: Step) -> str:
        self._pool(step, before)
        if step.outcome != before.outcome:
            self.bits = True
            return f"{step.outcome or 'passes'}; original {before.outcome or 'passes'}"
        for name, mine in step.results.items():
            its = before.results.get(name)
            if its is None or mine.bits == its.bits:
                continue
            self.bits = True
            if mine.exact and its.exact:
                return f"{name} has other bits and must be exact"
            if mine.misplaced > its.misplaced:
                return f"{name}: {mine.misplaced} NaN or infinities out of place"
        return self._beyond(step, before)

    def _beyond(self, step: Step, before: Step) -> str:
        its = dict(_pools(before))
        for place, errors in _pools(step):
            known = self.original.largest.get(place, 0.0)
            limit = LARGEST[place[-1]] * max(known, 1.0)
            if errors.largest > limit and errors != its.get(place):
                return f"{place[1]}: error {errors.largest:.3g}, original at most {known:.3g}"
        return ""

    def _pool(self, step: Step, before: Step) -> None:
        its = dict(_pools(before))
        for place, errors in _pools(step):
            if place in its:
                whole = (place[0], place[1], "", place[-1])
                for each in (place, whole):
                    self._mine[each] = self._mine.get(each, Errors()) + errors
                    self._its[each] = self._its.get(each, Errors()) + its[place]


def _pools(step: Step) -> Iterable[tuple[tuple[str, ...], Errors]]:
    """Errors of a step by dtype, output, family and what dominates them."""
    for name, result in step.results.items():
        for kind in ("rounded", "summed"):
            errors: Errors = getattr(result, kind)
            if errors.count:
                yield (step.key.dtype, name, step.family, kind), errors


def cases(
    kernel: str, arch: str, *, seed: int, examples: int, quick: bool = False
) -> tuple[Case, ...]:
    """Cases beyond the default run's: ``SEEDS`` times as many, the last share of larger sizes.

    As many again, of the usual sizes, for a quick run.
    """
    declared = registry.kernel(kernel)
    op, configs = registry.op(declared.op), (DEFAULT, *declared.configs)
    usual = strategies.EMULATED if arch == CPU else strategies.DEVICE
    larger = strategies.Limits(axis=usual.axis * 4, elements=usual.elements * 2)
    found: dict[str, Case] = {}

    def note(case: Case) -> None:
        found[case.id] = case

    for dtype in op.dtypes:
        for config in configs:
            for turn in range(1 if quick else SEEDS):
                limits = larger if turn == SEEDS - 1 else usual
                scope = f"{SEARCH}/{seed}/{kernel}/{dtype}/{config}/{turn}"
                explore(
                    strategies.cases(op, declared, dtype=dtype, config=config, limits=limits),
                    Search(note),
                    examples=-(-examples // len(configs)),
                    run_seed=zlib.crc32(scope.encode()),
                    scope=scope,
                    database=None,
                )
    return tuple(found.values())


def answers(kernel: str, arch: str, watch: Watch) -> None:
    """What the kernel answers to every probe of its boundary; one step each."""
    declared = registry.kernel(kernel)
    op, device = registry.op(declared.op), devices.first_device(arch)
    for name, probe in probes(op, declared, device).items():
        key = Key(SEARCH, "answers", "", name)
        if not watch.chosen(key, 0):
            continue
        watch.begin(key)
        call = probe.make()
        with devices.pretend(probe.arch) if probe.arch else nullcontext():
            seen = observe(op, declared, call, device)
        results: dict[str, Result] = {}
        if seen.error is None and probe.right_if_accepted:
            truths = evaluate(op, declared, base_case(op, declared), call.tensors)
            results = {n: measure(v, truths[n], None) for n, v in seen.outputs.items()}
        watch.tell(Step(key=key, outcome=outcome_of(seen), results=results))


def fakes(kernel: str, cases: Iterable[Case], watch: Watch) -> None:
    """What the fake implementation says of every case: metadata or an exception; one step each."""
    declared = registry.kernel(kernel)
    op = registry.op(declared.op)
    for case in cases:
        key = Key(SEARCH, "fakes", case.dtype, case.id)
        if not watch.chosen(key, 0):
            continue
        watch.begin(key)
        call, mode = build(op, case, torch.device("cpu")), FakeTensorMode()
        with mode, emulate(), torch.no_grad():
            arguments = {
                name: mode.from_tensor(value) if isinstance(value, Tensor) else value
                for name, value in call.arguments.items()
            }
            try:
                found = name_outputs(op, declared.function(**arguments))
                said = ", ".join(
                    f"{n} {v.dtype}{list(v.shape)}{v.stride()}" for n, v in found.items()
                )
            except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
                said = f"raises {type(error).__name__}"
        watch.tell(Step(key=key, outcome=said))


def modules(kernel: str, arch: str, watch: Watch, *, exact: bool) -> None:
    """Outputs and state of the modules over the kernel's op, for inputs of many forms.

    ``exact`` where the kernel is the original, so that any bit that differs is the wrapper's doing.
    """
    declared = registry.kernel(kernel)
    for subject in registry.subjects():
        if subject.layer == Layer.MODULE and declared.op in subject.ops:
            for dtype in subject.dtypes:
                for seed in range(SEEDS):
                    _Module(subject, declared.backend, arch, dtype, seed).look(watch, exact=exact)


@dataclass(frozen=True)
class _Module:
    subject: Subject
    backend: str
    arch: str
    dtype: str
    seed: int

    def look(self, watch: Watch, *, exact: bool) -> None:
        looks: dict[str, Callable[[], _Seen]] = {"state": self._state}
        looks |= {form: partial(self._forward, form, exact=exact) for form in FORMS}
        for name, look in looks.items():
            key = Key(SEARCH, "modules", self.dtype, f"{self.subject.name}/{self.seed}/{name}")
            if not watch.chosen(key, 0):
                continue
            watch.begin(key)
            results: Mapping[str, Result] = {}
            try:
                outcome, results = look()
            except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
                outcome = f"raises {type(error).__name__}"
            watch.tell(Step(key=key, outcome=outcome, results=results))

    @property
    def _device(self) -> torch.device:
        return devices.first_device(self.arch)

    def _sample(self) -> Sample:
        made: Sample = self.subject.build(  # type: ignore[assignment]
            backend=self.backend,
            dtype=dtype_of(self.dtype),
            device=self._device,
            generator=torch.Generator().manual_seed(1000 + self.seed),
        )
        return made

    def _state(self) -> _Seen:
        state = self._sample().module.state_dict()
        said = ", ".join(f"{name} {v.dtype}{list(v.shape)}" for name, v in state.items())
        return said, {n: Result(bits=digest(value), exact=True) for n, value in state.items()}

    def _forward(self, form: str, *, exact: bool) -> _Seen:
        sample = self._sample()
        inputs = tuple(FORMS[form](value) for value in sample.inputs)
        before = [digest(value) for value in inputs]
        emulated = emulate() if self._device.type == "cpu" else nullcontext()
        with torch.no_grad(), emulated, record_launches() as launches:
            output = sample.module(*inputs)
        said = f"{output.dtype}{list(output.shape)}{output.stride()}, {len(launches)} launches"
        if [digest(value) for value in inputs] != before:
            said += ", changes its input"
        bits = digest(output)
        if form not in SAME_VALUES:
            return said, {"output": Result(bits=bits, exact=exact)}
        expected = sample.dense(*sample.inputs)
        error = float((output.double() - expected).norm() / expected.norm())
        units = 2 * error / sample.tolerance
        return said, {"output": Result(bits=bits, rounded=Errors(1, units * units, units))}


def _strided(value: Tensor) -> Tensor:
    return torch.stack([value, value + 1], dim=-1)[..., 0]


def _crossed(value: Tensor) -> Tensor:
    return value.transpose(0, -1).contiguous().transpose(0, -1)


FORMS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "as it is": lambda value: value,
    "every second element": _strided,
    "transposed": _crossed,
    "flat": lambda value: value.reshape(-1, value.shape[-1]),
    "one row": lambda value: value.reshape(-1, value.shape[-1])[0],
    "four axes": lambda value: value.unsqueeze(0),
    "no rows": lambda value: value[:0],
    "too narrow": lambda value: value[..., :-1],
    "float64": lambda value: value.double(),
    "large": lambda value: value * 2.0**12,
    "zero": torch.zeros_like,
}
SAME_VALUES: Final = frozenset({"as it is", "every second element", "transposed"})
