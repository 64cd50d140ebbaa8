"""What the layers check of a cell: each suite's test runs one of these, and so may any other run.

The layers compile, import_safety, e2e and sanitize need more than a cell; their checks are in their
suites.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from harness.cells import Evidence, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.case import Case
    from harness.check import Check, Scope
    from harness.declare import Op
    from harness.judge import Finding, Judgement

# Generated cases a cell and dtype of the checks that run each case several times. Emulated, the
# first configuration alone is asked, and the first case is the smallest that there is.
RERUN: Final = {Evidence.EMULATED: 6, Evidence.DEVICE: 12}
SEQUENCE: Final = {Evidence.EMULATED: 4, Evidence.DEVICE: 4}
# Of these the original may have no result for many: those cost nothing.
UPSTREAM: Final = {Evidence.EMULATED: 24, Evidence.DEVICE: 96}
NEIGHBOUR: Final = {Evidence.EMULATED: 5, Evidence.DEVICE: 12}
REPEATS: Final = {Evidence.EMULATED: 2, Evidence.DEVICE: 6}


@dataclass(frozen=True)
class LayerCheck:
    """One check of a layer; ``by_dtype`` says that it is asked for each dtype of the op.

    ``needs`` names a field of an op without which there is nothing to check.
    """

    layer: Layer
    name: str
    by_dtype: bool
    run: Callable[[Check], None]
    needs: str = ""

    def applies_to(self, op: Op) -> bool:
        """Whether there is something to check."""
        return not self.needs or bool(getattr(op, self.needs))

    def tests(self, op: Op) -> Iterator[tuple[str, str]]:
        """The names that its records have, each with its dtype or none."""
        for dtype in op.dtypes if self.by_dtype else ("",):
            yield named(f"test_{self.name}", dtype), dtype


def named(test: str, dtype: str) -> str:
    """What a record calls a test: its name, and the dtype that it was asked for."""
    return f"{test}[{dtype}]" if dtype else test


def fake_describes_the_real_result(check: Check) -> None:
    """The fake implementation says of generated cases what the real one returns."""
    from harness import fakes
    from harness.check import CASES, Scope
    from harness.judge import Finding, Judgement

    def judged(case: Case) -> Judgement:
        words = fakes.check_case(check.op, check.kernel, case, check.device)
        return Judgement((Finding("fake", words),) if words else (), {})

    check.explore(judged, Scope(examples=check.settings.cases or CASES[Evidence.FAKE]))


def fake_refuses_what_the_real_one_refuses(check: Check) -> None:
    """Fake and real agree on every probe; the operator passes opcheck and traces."""
    from harness import fakes
    from harness.probes import base_case, probes

    op, kernel, device = check.op, check.kernel, check.device
    case = base_case(op, kernel)
    asked = {
        name: partial(fakes.check_refusal, op, kernel, probe, device)
        for name, probe in probes(op, kernel, device).items()
        # A fake has neither a device, whose arch it could know, nor values.
        if probe.arch is None and not probe.of_values
    }
    asked["name"] = partial(fakes.check_name, op, kernel)
    asked["opcheck"] = partial(fakes.check_opcheck, op, kernel, case, device)
    asked["traces"] = partial(fakes.check_traces, op, kernel, case, device)
    check.each(asked)


def matches_the_reference(check: Check) -> None:
    """Generated cases agree with the dense float64 reference, within the error budget."""
    check.explore(check.judge_against_reference)
    if check.cell.needs_device and check.monitor.profiles and check.settings.only is None:
        _prove(check)


def _prove(check: Check) -> None:
    """Once, on the smallest case: the device ran what the launches say, by the profiler's word."""
    from harness import device, provenance
    from harness.execute import build
    from harness.launches import record_launches
    from harness.probes import base_case

    case = base_case(check.op, check.kernel)
    call = build(check.op, case, check.device)
    with record_launches() as launches:
        ran = device.executed_kernels(lambda: check.kernel.function(**call.arguments), check.device)
    check.figures["device_kernels"] = [name[:120] for name in ran]
    if words := provenance.doubt_of_device(check.kernel, launches, ran):
        check.fail([words], case.id)


def repeats_its_results(check: Check) -> None:
    """The same call gives the same bits in other memory, on other streams, from a CUDA graph."""
    from harness import device, reruns

    twins = device.twins(check.device)

    def judged(case: Case) -> Judgement:
        check.count("second_device" if twins else "second_device_skipped")
        repeats = REPEATS[check.cell.evidence]
        found = reruns.check_case(check.op, check.kernel, case, check.device, repeats=repeats)
        return _found(found)

    check.explore(judged, _scope(check, "rerun", RERUN))


def leaves_other_calls_alone(check: Check) -> None:
    """Calls of other shapes, dtypes and flags in between change neither results nor outputs."""
    from harness import sequences
    from harness.case import DEFAULT
    from harness.strategies import SMALL

    def judged(case: Case) -> Judgement:
        return _found(sequences.check_case(check.op, check.kernel, case, check.run, limits=SMALL))

    scope = _scope(check, "sequence", SEQUENCE)
    check.explore(judged, replace(scope, configs=(DEFAULT,)))


def keeps_neighbours_apart(check: Check) -> None:
    """NaN and huge values at one index of an independent axis change no bit at the others."""
    from harness import neighbours

    def judged(case: Case) -> Judgement:
        return _found(neighbours.check_case(check.op, check.kernel, case, check.device))

    check.explore(judged, _scope(check, "neighbour", NEIGHBOUR))


def is_as_accurate_as_upstream(check: Check) -> None:
    """The kernel's rms error beside that of what it was ported from, on the same cases."""
    from harness import upstream
    from harness.check import Scope
    from harness.execute import build, observe
    from harness.judge import Judgement, findings_of_run
    from harness.reference import expectations

    op, ledger = check.op, upstream.Ledger()

    def judged(case: Case) -> Judgement:
        call = build(op, case, check.device)
        originals = upstream.original_of(op, case, call.tensors)
        if not originals:
            ledger.refused += 1
            return Judgement((), {})
        seen = observe(op, check.kernel, call, check.device)
        if seen.error is None:
            make = partial(expectations, op, case, call.tensors)
            values = check.truths.get(op, case, call.tensors, make)
            ledger.add(case, seen.outputs, originals, values)
        return Judgement(findings_of_run(seen), {})

    count = check.settings.cases or UPSTREAM[check.cell.evidence]
    check.explore(judged, Scope(kind="upstream", examples=count))
    check.figures |= ledger.figures()
    if ledger.points:
        check.case = f"{ledger.worst.case}/upstream"
    if op.upstream is not None and (words := ledger.verdict(op.upstream)):
        check.fail([words], check.case)


def rejects_impostors(check: Check) -> None:
    """The op's declaration rejects zeros, the negated result and other results that are wrong."""
    from harness import impostors

    op, kernel = check.op, check.kernel
    cases = impostors.cases(op, kernel, check.dtype or op.dtypes[0])
    check.each_case(
        cases, lambda case: impostors.check_case(op, kernel, case, check.device), kind="impostor"
    )


def _found(findings: tuple[Finding, ...]) -> Judgement:
    from harness.judge import Judgement

    return Judgement(findings, {})


def _scope(check: Check, kind: str, examples: dict[Evidence, int]) -> Scope:
    """Small cases, of one configuration where they are emulated."""
    from harness.case import DEFAULT
    from harness.check import Scope
    from harness.strategies import SMALL

    evidence = check.cell.evidence
    count = min(examples[evidence], check.settings.cases or examples[evidence])
    if check.cell.needs_device:
        return Scope(kind=kind, examples=count)
    return Scope(kind=kind, examples=count, configs=(DEFAULT,), limits=SMALL)


def is_its_dense_twin_however_it_runs(check: Check) -> None:
    """Every module over the kernel's op against its dense twin, its state, its ways to run."""
    from harness import modules

    asked: dict[str, Callable[[], str]] = {}
    for subject in check.subjects:
        for dtype in subject.dtypes:
            asked |= modules.checks(
                subject,
                kernel=check.kernel,
                dtype=dtype,
                device=check.device,
                seed=check.settings.seed,
            )
    check.each(asked)


def refuses_the_neighbours_of_its_domain(check: Check) -> None:
    """What lies just outside the domain is refused before launch, with words that say why."""
    from harness.boundary import check_probe, check_survival
    from harness.probes import probes, unmade

    op, kernel, device = check.op, check.kernel, check.device
    check.figures["unmade"] = list(unmade(op))
    made = probes(op, kernel, device)
    asked = {name: partial(check_probe, op, kernel, p, device) for name, p in made.items()}
    check.each({**asked, "alive=afterwards": partial(check_survival, op, kernel, device)})


def _named(
    layer: Layer, run: Callable[[Check], None], *, by_dtype: bool = False, needs: str = ""
) -> LayerCheck:
    return LayerCheck(layer, run.__name__, by_dtype, run, needs)


CHECKS: Final[tuple[LayerCheck, ...]] = (
    _named(Layer.FAKE_SHAPE, fake_describes_the_real_result, by_dtype=True),
    _named(Layer.FAKE_SHAPE, fake_refuses_what_the_real_one_refuses),
    _named(Layer.NUMERIC, matches_the_reference, by_dtype=True),
    _named(Layer.NUMERIC, repeats_its_results, by_dtype=True),
    _named(Layer.NUMERIC, leaves_other_calls_alone, by_dtype=True),
    _named(Layer.NUMERIC, keeps_neighbours_apart, by_dtype=True, needs="independent"),
    _named(Layer.NUMERIC, rejects_impostors, by_dtype=True),
    _named(Layer.NUMERIC, is_as_accurate_as_upstream, by_dtype=True, needs="upstream"),
    _named(Layer.MODULE, is_its_dense_twin_however_it_runs),
    _named(Layer.BOUNDARY, refuses_the_neighbours_of_its_domain),
)
