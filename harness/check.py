"""One check of one cell: what a suite's test is given, and what it leaves behind for the record."""

from __future__ import annotations

import traceback
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from harness import device as devices
from harness import registry
from harness.case import DEFAULT, Case, parse
from harness.case_errors import RMS, WORST, key_of, rounded
from harness.cells import Cell, Evidence, Outcome
from harness.exhaustion import is_exhaustion
from harness.fairness import mostly_unfair, without_unfair
from harness.judge import ParityFailure, judge
from harness.selection import kind_of
from harness.subjects import Unavailable
from harness.truths import SHARED, TruthCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch

    from harness.declare import Kernel, Op
    from harness.execute import Observation
    from harness.judge import Judgement
    from harness.strategies import Limits
    from harness.subjects import Subject


class NothingChecked(ValueError):
    """A check that would pass without having looked at anything."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which generated cases a check asks for, and what their ids end in.

    ``kind`` is the word after the case in the id of a check that does more with a case than run it.
    ``configs`` None means all of the kernel's; ``limits`` None those of the evidence.
    """

    kind: str = ""
    examples: int | None = None
    configs: tuple[str, ...] | None = None
    limits: Limits | None = None


class Monitor:
    """Who is told what a check is at; in a process of its own, the one that waits for it.

    ``ended`` may raise what ends the whole check, such as the loss of the device. ``profiles`` says
    that a profiler may be loaded into this process, which slows what comes after it.
    """

    profiles = False

    def searches(self, config: str, index: int, scope: Scope) -> None:
        """A search over generated cases of a configuration begins."""

    def lists(self) -> None:
        """A list of probes begins."""

    def began(self, case: str) -> None:
        """A case or probe of that id begins."""

    def ended(self, case: str, words: str = "", error: BaseException | None = None) -> None:
        """It is over; ``words`` say what is wrong, ``error`` is what it raised."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the run that a check needs; ``cases`` None means the default of the evidence.

    ``declare`` are the targets that another process has to load to have the same kernels.
    """

    seed: int = 0
    cases: int | None = None
    database: Path | None = None
    only: str | None = None
    e2e_model: Path | None = None
    declare: tuple[str, ...] = ()
    sanitizer: Path | None = None


# Counts per cell and dtype, from the kill curves of docs/power.md: what is caught at all is caught
# by the first three cases of a configuration emulated, and by the first eight on a device, where
# sizes spread wider; twice that there, because the curve is that of one dtype and configuration.
CASES = {Evidence.EMULATED: 18, Evidence.DEVICE: 96, Evidence.FAKE: 24}


@dataclass
class Check:
    """A cell, in one dtype where the test asks for one, with what it takes to run its kernel."""

    cell: Cell
    dtype: str | None
    settings: Settings
    reproduce: Callable[[str], str]  # the command for a case id
    progress: Callable[[str], None] = lambda _: None
    figures: dict[str, object] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    unfair: Counter[str] = field(default_factory=Counter)  # cases by family
    errors: dict[str, dict[str, float]] = field(default_factory=dict)  # by measure and case's key
    worst: float = 0.0  # error of the worst element so far in units of its budget
    case: str = ""
    launched: set[str] = field(default_factory=set)  # identities of the kernels that were seen
    truths: TruthCache = SHARED
    monitor: Monitor = field(default_factory=Monitor)
    done: frozenset[str] = frozenset()  # probes that another process has asked
    device_words: Mapping[str, str] | None = None  # of a device that another process used
    _starved: Outcome | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel under test."""
        return registry.kernel(self.cell.kernel)

    @property
    def op(self) -> Op:
        """The op that the kernel implements."""
        return registry.op(self.kernel.op)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The modules or models of this layer that are built over the kernel's op."""
        wanted = (s for s in registry.subjects() if s.layer == self.cell.layer)
        return tuple(s for s in wanted if self.kernel.op in s.ops)

    @property
    def device(self) -> torch.device:
        """The device of the cell's arch; the CPU for ``cpu``. Raises UnsupportedArch if absent."""
        return devices.first_device(self.cell.arch)

    @property
    def examples(self) -> int:
        """How many cases to generate."""
        return self.settings.cases or CASES[self.cell.evidence]

    def explore(self, check: Callable[[Case], Judgement], scope: Scope | None = None) -> None:
        """Generate cases over all configurations and check each; raises ParityFailure.

        The failure is the smallest that was found. With ``--case`` only that case is checked.
        Raises NothingChecked if no case was checked, or none was fair.
        """
        scope = scope or Scope()
        if self.settings.only is not None:
            named, kind = kind_of(self.settings.only)
            if kind == scope.kind:
                self._attempt(check, parse(named), kind)
        else:
            configs = scope.configs or (DEFAULT, *self.kernel.configs)
            share = -(-(scope.examples or self.examples) // len(configs))
            for index, config in enumerate(configs):
                self._explore_config(check, config, index, replace(scope, examples=share))
        self._refuse_empty()
        self._refuse_unfair()

    def _explore_config(
        self, check: Callable[[Case], Judgement], config: str, index: int, scope: Scope
    ) -> None:
        self.monitor.searches(config, index, scope)
        self.search(lambda case: self._attempt(check, case, scope.kind), config, index, scope)

    def search(
        self,
        attempt: Callable[[Case], None],
        config: str,
        index: int,
        scope: Scope,
        *,
        seconds: float | None = None,
        memory: str = "",
    ) -> None:
        """Make the cases of one configuration and ``attempt`` each; raises the smallest failure.

        ``seconds`` bound the shrinking; a search of another ``memory`` has its own failing cases.
        """
        from harness import strategies
        from harness.explore import SHRINK_SECONDS, Search, explore

        cell, dtype = self.cell, self._dtype()
        usual = strategies.DEVICE if cell.needs_device else strategies.EMULATED
        # Not the kernel's name: kernels of one op meet the same cases, and share their truths. Nor
        # which GPU it is: what an arch gets right and another one wrong shows case by case.
        place = Evidence.DEVICE if cell.needs_device else cell.arch
        scope = self._within_room(scope, scope.limits or usual)
        seed = f"{self.settings.seed}/{self.op.name}/{place}/{cell.layer}/{dtype}/{index}"
        explore(
            strategies.cases(
                self.op, self.kernel, dtype=dtype, config=config, limits=scope.limits or usual
            ),
            Search(attempt, seconds=seconds or SHRINK_SECONDS),
            examples=scope.examples or 1,
            run_seed=zlib.crc32(f"{seed}/{scope.kind}".encode()),
            scope=f"{cell}/{self.dtype}/{config}/{scope.kind}{memory}",
            database=self.settings.database,
        )

    def _within_room(self, scope: Scope, limits: Limits) -> Scope:
        """Smaller cases, and a figure that says so, where this process has little of a device."""
        from harness.strategies import within

        fitting = within(limits, devices.room() if self.cell.needs_device else None)
        if fitting != limits:
            self.figures["elements_at_most"] = fitting.elements
        return replace(scope, limits=fitting)

    def _dtype(self) -> str:
        return self.dtype or self.op.dtypes[0]

    def _attempt(self, check: Callable[[Case], Judgement], case: Case, kind: str) -> None:
        with self._watched(id_of(case, kind)):
            self._judge(check(case), case, kind)

    @contextmanager
    def _watched(self, named: str) -> Iterator[None]:
        """Tell who watches when a case begins, and when and how it ends."""
        self.monitor.began(named)
        try:
            yield
        except Exception as error:
            self.monitor.ended(named, str(error), error)
            raise
        self.monitor.ended(named)

    def _judge(self, judgement: Judgement, case: Case, kind: str) -> None:
        self.count("cases")
        self.progress(f"{self.cell} {self.counts['cases']} cases")
        self.count(f"values_{case.values}")
        self._note_fairness(case, judgement)
        if judgement.unfair:
            return
        self._note_errors(case, judgement)
        if judgement.worst >= self.worst:
            self.worst, self.case = judgement.worst, id_of(case, kind)
            if judgement.comparisons:
                self.figures["worst_in_budget"] = min(self.worst, 1e300)  # JSON has no infinity
        if judgement.problems:
            self.fail(judgement.problems, id_of(case, kind), outcome=judgement.outcome)

    def _note_errors(self, case: Case, judgement: Judgement) -> None:
        """Keep the errors of a compared case; of cases that share a key, the larger ones."""
        if not judgement.comparisons:
            return
        rms = max(compared.rms for compared in judgement.comparisons.values())
        self._note_error(WORST, case, judgement.worst)
        if rms > 0:
            self._note_error(RMS, case, rms)

    def _note_error(self, figure: str, case: Case, error: float) -> None:
        errors, key = self.errors.setdefault(figure, {}), key_of(case.id)
        errors[key] = max(rounded(error), errors.get(key, 0.0))
        self.figures[figure] = errors

    def _note_fairness(self, case: Case, judgement: Judgement) -> None:
        """Count unfair cases; families of which too many are unfair are named in the figures."""
        if judgement.unfair:
            self.count("unfair")
            self.unfair[case.values] += 1
        if self.unfair:
            seen = {family: self.counts[f"values_{family}"] for family in self.unfair}
            self.figures["mostly_unfair"] = mostly_unfair(seen, self.unfair)

    def judge_against_reference(self, case: Case) -> Judgement:
        """Run the kernel on ``case`` and judge it against the dense reference."""
        return self.run(case)[1]

    def run(self, case: Case) -> tuple[Observation, Judgement]:
        """What the kernel does on ``case``, and the judgement of it; an unfair case is not held."""
        from harness.execute import execute
        from harness.reference import evaluate

        op = self.op
        call, observation = execute(op, self.kernel, case, self.device)
        truths = evaluate(op, self.kernel, case, call.tensors, cache=self.truths)
        for truth in truths.values():
            if truth.budget is not None:
                self.figures["calibration"] = truth.budget.constants.provenance
        judgement = judge(op, observation, truths)
        return observation, without_unfair(op, case, call.tensors, truths, judgement)

    def each(self, probes: Mapping[str, Callable[[], str]]) -> None:
        """Run every named probe; one that returns words or raises AssertionError has failed.

        With ``--case`` only the probe of that id runs. All probes run before the first failure is
        reported. Raises NothingChecked without a probe.
        """
        self._each({f"{self.kernel.name}/probe={name}": run for name, run in probes.items()})

    def each_case(
        self, cases: Sequence[Case], check: Callable[[Case], str], *, kind: str = ""
    ) -> None:
        """Check every case of a fixed list, as ``each`` does with probes."""
        self._each({id_of(case, kind): partial(check, case) for case in cases})

    def _each(self, ids: Mapping[str, Callable[[], str]]) -> None:
        if self.settings.only is not None:
            ids = {key: probe for key, probe in ids.items() if key == self.settings.only}
        self._refuse_empty(len(ids))
        failures = {}
        absent: Unavailable | None = None
        self.monitor.lists()
        for named, probe in ids.items():
            self.count("cases")
            if named in self.done:
                continue
            self.progress(f"{self.cell} {self.counts['cases']} of {len(ids)} probes")
            try:
                words = self._ask(named, probe)
            except Unavailable as reason:
                absent = absent or reason
                continue
            if words:
                failures[named] = words
        if failures:
            first = next(iter(failures))
            self.figures["failed_probes"] = len(failures)
            problems = [f"{key}: {words}" for key, words in failures.items()]
            self.fail(problems, first, outcome=self._starved or Outcome.WRONG)
        if absent is not None:  # not before: a skip must not hide what failed
            raise absent

    def _ask(self, named: str, probe: Callable[[], str]) -> str:
        """What a probe says; a crash is a finding about its own case and leaves others to run."""
        self.monitor.began(named)
        words, error = "", None
        try:
            words = probe()
        except Unavailable:
            raise
        except Exception as raised:  # noqa: BLE001 - reported as the probe's failure
            *_, last = traceback.extract_tb(raised.__traceback__)
            place, error = f"{last.filename}:{last.lineno}", raised
            words = f"raised {type(raised).__name__}: {raised} ({place})"
            if is_exhaustion(raised):
                self._starved = Outcome.OUT_OF_MEMORY
        self.monitor.ended(named, words, error)
        return words

    def fail(
        self, problems: Sequence[str], case_id: str = "", *, outcome: Outcome = Outcome.WRONG
    ) -> None:
        """Fail the check; raises ParityFailure with the whole report."""
        self.case = case_id
        raise self.failure(problems, case_id, outcome=outcome)

    def failure(
        self, problems: Sequence[str], case_id: str = "", *, outcome: Outcome = Outcome.WRONG
    ) -> ParityFailure:
        """The whole report of what is wrong with the cell, in a case if there is one."""
        title = f"{self.cell.kernel} on {self.cell.arch}, {self.cell.layer} ({self.cell.evidence})"
        if outcome not in {Outcome.WRONG, Outcome.REFUSED}:
            title += f", {outcome.replace('_', ' ')}"
        reproduce = self.reproduce(case_id) if case_id else ""
        return ParityFailure(title, problems, case=case_id, reproduce=reproduce, outcome=outcome)

    def count(self, figure: str) -> None:
        """Add one to a figure of the record."""
        self.counts[figure] += 1
        self.figures[figure] = self.counts[figure]

    def _refuse_empty(self, found: int | None = None) -> None:
        if not (self.counts["cases"] if found is None else found):
            msg = f"{self.cell}: no case was checked; --case={self.settings.only!r} names none here"
            raise NothingChecked(msg)

    def _refuse_unfair(self) -> None:
        if self.counts["cases"] == self.counts["unfair"]:
            msg = (
                f"{self.cell}: all {self.counts['unfair']} cases are beyond float32; none was fair"
            )
            raise NothingChecked(msg)


def id_of(case: Case, kind: str) -> str:
    """The id of a case of which more is done than to run it, by the word for that."""
    return f"{case.id}/{kind}" if kind else case.id
