"""What the default run does to a kernel, running on after failures and remembering every step.

The checks are those of ``harness.layers``, the cases those that pytest would generate; only what a
failure leads to is different: no shrinking, no database of examples, and the next step.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from harness import registry
from harness.cells import Cell, Layer, Outcome, cells_of
from harness.check import Check, Scope, Settings
from harness.judge import Judgement
from harness.layers import CHECKS
from harness.power import foreign
from harness.power.trace import WORDS, Key, Step, measure
from harness.reference import evaluate
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.case import Case
    from harness.execute import Observation
    from harness.layers import LayerCheck


WHOLE: Final = "*"  # the name of a step that stands for all of a check
# Memory is guarded in the first two; a stray write crashes the process in the others.
ORDER: Final = (Layer.NUMERIC, Layer.BOUNDARY, Layer.FAKE_SHAPE, Layer.MODULE)
TOLERANT: Final = frozenset({"budget", "bias"})  # oracles whose verdict is no plain fact


class Asked(NamedTuple):
    """Which generated cases: of the n-th search of a check in one dtype."""

    layer: str
    check: str
    dtype: str
    number: int


Plan = dict[Asked, tuple["Case", ...]]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who is told of steps as they begin and end, and which are taken at all.

    ``chosen`` says by a step's key and position whether to take it; ``rules`` whether to ask the
    rules of others too.
    """

    tell: Callable[[Step], None]
    begin: Callable[[Key], None] = lambda _: None
    chosen: Callable[[Key, int], bool] = lambda _, __: True
    rules: bool = False


@dataclass
class Watched(Check):
    """A check that takes its cases from a plan, runs on after failures and tells each step."""

    name: str = ""
    plan: Plan = field(default_factory=dict)
    watch: Watch = Watch(tell=lambda _: None)
    searches: int = 0
    seen: list[tuple[Case, Observation]] = field(default_factory=list)

    def explore(self, check: Callable[[Case], Judgement], scope: Scope | None = None) -> None:
        """Check every chosen case of the plan; tells one step a case."""
        asked, positions = self._asked(), dict[str, int]()
        if asked not in self.plan:
            msg = f"{asked} is not in the plan of {self.cell.kernel}; does the mutant declare less?"
            raise Unplanned(msg)
        for case in self.plan[asked]:
            position = positions.get(case.config, 0)
            positions[case.config] = position + 1
            kind = scope.kind if scope else ""
            key = self._key(f"{case.id}/{kind}" if kind else case.id)
            if self.watch.chosen(key, position):
                self.watch.begin(key)
                self.watch.tell(self._take(key, case, check, position))

    def run(self, case: Case) -> tuple[Observation, Judgement]:
        """As of a check, and remembered for the step."""
        observation, judgement = super().run(case)
        self.seen.append((case, observation))
        return observation, judgement

    def fail(
        self, problems: Sequence[str], case_id: str = "", *, outcome: Outcome = Outcome.WRONG
    ) -> None:
        """Tell a step that failed, and go on."""
        del outcome
        key = self._key(case_id or WHOLE)
        self.watch.tell(
            Step(key=key, oracles=("check",), words=_short(problems[0]), outcome="fails")
        )

    def _each(self, ids: Mapping[str, Callable[[], str]]) -> None:
        for name, probe in ids.items():
            key = self._key(name)
            if not self.watch.chosen(key, 0):
                continue
            self.watch.begin(key)
            started = time.perf_counter()
            try:
                words = probe()
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
                words = _of_error(error)
            self.watch.tell(
                Step(
                    key=key,
                    family="probe",
                    oracles=("probe",) if words else (),
                    words=_short(words),
                    outcome="fails" if words else "passes",
                    seconds=time.perf_counter() - started,
                )
            )

    def _take(
        self, key: Key, case: Case, check: Callable[[Case], Judgement], position: int
    ) -> Step:
        self.seen.clear()
        started = time.perf_counter()
        step = Step(
            key=key,
            family=case.values,
            config=case.config,
            layout=case.layout,
            position=position,
        )
        try:
            judgement = check(case)
        except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
            seconds, words = time.perf_counter() - started, _short(_of_error(error))
            return replace(step, seconds=seconds, oracles=("error",), words=words, outcome="error")
        seconds = time.perf_counter() - started
        step = replace(step, seconds=seconds, **_judged(judgement))
        alone = len(self.seen) == 1 and self.seen[0][0] == case
        return self._with_results(step, case, judgement) if alone else step

    def _with_results(self, step: Step, case: Case, judgement: Judgement) -> Step:
        """The step of a check that ran the kernel once, on the case itself."""
        from harness.execute import build

        ((_, observation),) = self.seen
        step = replace(step, outcome=outcome_of(observation))
        if observation.error is not None:
            rejecting = tuple(foreign.RULES) if self.watch.rules else ()
            return replace(step, foreign=rejecting)
        inputs = build(self.op, case, self.device).tensors
        truths = evaluate(self.op, self.kernel, case, inputs, cache=self.truths)
        results = {
            name: measure(actual, truths[name], judgement.comparisons.get(name))
            for name, actual in observation.outputs.items()
        }
        rejecting = ()
        if self.watch.rules:
            rejecting = foreign.rejecting(self.op, case, inputs, observation.outputs, truths)
        return replace(step, results=results, foreign=rejecting)

    def _asked(self) -> Asked:
        self.searches += 1
        return Asked(str(self.cell.layer), self.name, self.dtype or "", self.searches)

    def _key(self, name: str) -> Key:
        return Key(str(self.cell.layer), self.name, self.dtype or "", name)


@dataclass
class _Planner(Watched):
    """Writes down which cases a check would generate, and runs none."""

    def explore(self, check: Callable[[Case], Judgement], scope: Scope | None = None) -> None:
        del check
        cases: list[Case] = []

        def note(case: Case) -> Judgement:
            cases.append(case)
            return Judgement((), {})

        Check.explore(self, note, scope)
        self.plan[self._asked()] = tuple(cases)

    def _each(self, ids: Mapping[str, Callable[[], str]]) -> None:
        del ids


def plan_of(kernel: str, arch: str, settings: Settings) -> Plan:
    """The generated cases of the default run, by the check that asks for them."""
    plan: Plan = {}
    for check, dtype in checks_of(kernel, arch):
        check.run(_Planner(**_common(check, kernel, arch, dtype, settings), plan=plan))
    return plan


def default_run(
    kernel: str,
    arch: str,
    settings: Settings,
    plan: Plan,
    watch: Watch,
    *,
    layers: Sequence[str] | None = None,
) -> None:
    """Take the steps of the default run, of all layers or some; tells each as it is done."""
    for check, dtype in checks_of(kernel, arch):
        if layers is not None and check.layer not in layers:
            continue
        common = _common(check, kernel, arch, dtype, settings)
        _run_whole(check, Watched(**common, plan=plan, watch=watch))


def checks_of(kernel: str, arch: str) -> list[tuple[LayerCheck, str | None]]:
    """Every check of the default run of a kernel on an arch, and its dtype where it has one."""
    declared = registry.kernel(kernel)
    layers = {cell.layer for cell in cells_of(declared, registry.subjects()) if cell.arch == arch}
    op = registry.op(declared.op)
    return [
        (check, dtype)
        for check in sorted(CHECKS, key=lambda check: ORDER.index(check.layer))
        if check.layer in layers and check.applies_to(op)
        for dtype in (op.dtypes if check.by_dtype else (None,))
    ]


def run_cases(
    kernel: str,
    arch: str,
    cases: Sequence[Case],
    watch: Watch,
    *,
    check: str,
) -> None:
    """Judge the kernel on cases of our own choice; tells one step each, of the check ``check``."""
    by_dtype: dict[str, list[Case]] = {}
    for case in cases:
        by_dtype.setdefault(case.dtype, []).append(case)
    for dtype, group in by_dtype.items():
        asked = Asked(str(Layer.NUMERIC), check, dtype, 1)
        watched = Watched(
            cell=Cell(kernel, arch, Layer.NUMERIC),
            dtype=dtype,
            settings=Settings(),
            reproduce=str,
            name=check,
            plan={asked: tuple(group)},
            watch=watch,
        )
        watched.explore(watched.judge_against_reference)


def outcome_of(observation: Observation) -> str:
    """What can be seen of a call besides the values, in words that compare equal where it is so."""
    launches = ", ".join(launch.name for launch in observation.launches) or "nothing"
    damage = "; damages memory" if observation.damage else ""
    if observation.error is not None:
        return f"raises {type(observation.error).__name__} having launched {launches}{damage}"
    described = ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}{value.stride()}"
        for name, value in observation.outputs.items()
    )
    return f"returns {described} having launched {launches}{damage}"


def _common(
    check: LayerCheck, kernel: str, arch: str, dtype: str | None, settings: Settings
) -> dict[str, Any]:
    return {
        "cell": Cell(kernel, arch, check.layer),
        "dtype": dtype,
        "settings": settings,
        "reproduce": str,
        "name": check.name,
    }


def _run_whole(check: LayerCheck, watched: Watched) -> None:
    key = Key(str(check.layer), check.name, watched.dtype or "", WHOLE)
    try:
        check.run(watched)
    except Unavailable:
        return
    except (Enough, Unplanned):
        raise
    except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
        words = _short(_of_error(error))
        watched.watch.tell(Step(key=key, oracles=("error",), words=words, outcome="fails"))


class Enough(Exception):
    """Raised by whoever is told of steps when he needs no more."""


class Unplanned(LookupError):
    """A check asks for cases that the original's run did not: the declarations differ."""


def _judged(judgement: Judgement) -> dict[str, Any]:
    words = _short(judgement.problems[0]) if judgement.findings else ""
    facts = [oracle for oracle in judgement.oracles if oracle not in TOLERANT]
    return {"oracles": judgement.oracles, "words": words, "outcome": ", ".join(facts)}


def _short(words: str) -> str:
    return words[:WORDS]


def _of_error(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {error}{place}"
