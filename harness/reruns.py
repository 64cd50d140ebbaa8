"""The same call gives the same bits: in other memory, on other streams, from a graph, elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from harness import device as devices
from harness.buffers import POISONS, PoisonedAllocations
from harness.compare import compare_exact
from harness.execute import build, name_outputs, observe
from harness.judge import Finding, findings_of_run, judge
from harness.launches import record_launches
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from harness.case import Case
    from harness.declare import Kernel, Op
    from harness.execute import Call, Observation


@dataclass(frozen=True)
class Rerun:
    """One call of a kernel on a case, and what the first run of it returned."""

    op: Op
    kernel: Kernel
    case: Case
    device: torch.device
    call: Call
    first: Observation


def check_case(
    op: Op, kernel: Kernel, case: Case, device: torch.device, *, repeats: int
) -> tuple[Finding, ...]:
    """What differs between runs of ``case``; the first run's own faults if it has any.

    ``repeats`` counts the runs in memory poisoned another way. On a GPU there are also runs on a
    stream of their own, from a CUDA graph whose inputs change, and on each other device of the
    arch. The outputs of a kernel that is declared non-deterministic must stay within the budget.
    """
    call = build(op, case, device)
    first = observe(op, kernel, call, device, poison=_poison(case, 0))
    if found := findings_of_run(first):
        return found
    rerun = Rerun(op, kernel, case, device, call, first)
    return tuple(_differences(rerun, repeats))


def _differences(rerun: Rerun, repeats: int) -> Iterator[Finding]:
    op, kernel, call, device = rerun.op, rerun.kernel, rerun.call, rerun.device
    for number in range(1, repeats):
        poison = _poison(rerun.case, number)
        again = observe(op, kernel, call, device, poison=poison)
        how = f"run {number + 1}, its memory poisoned with {poison} after {rerun.first.poison}"
        yield from _compared(rerun, again, "determinism", how)
    if device.type != "cuda":
        return
    yield from _compared(rerun, _on_a_late_stream(rerun), "stream", "on a stream of its own")
    yield from _of_graph(rerun)
    for other in devices.twins(device):
        there = replace(rerun, device=other)
        yield from _compared(there, _on_device(rerun, other), "device", f"on {other}")


def _poison(case: Case, number: int) -> str:
    return POISONS[(case.seed + number) % len(POISONS)]


def _compared(rerun: Rerun, again: Observation, oracle: str, how: str) -> Iterator[Finding]:
    found = [replace(f, words=f"{how}: {f.words}") for f in findings_of_run(again)]
    found += _elsewhere(again.outputs, rerun.device, how)
    if found:
        yield from found
    elif rerun.kernel.deterministic:
        yield from _other_bits(again.outputs, rerun.first.outputs, oracle, how)
    else:
        yield from _out_of_budget(rerun, again, how)


def _elsewhere(outputs: Mapping[str, Tensor], device: torch.device, how: str) -> Iterator[Finding]:
    """Outputs that do not lie where the inputs do."""
    for name, value in outputs.items():
        if value.device != device:
            words = f"{name}: {how}, lies on {value.device}, the inputs on {device}"
            yield Finding("device", words, name)


def _other_bits(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], oracle: str, how: str
) -> Iterator[Finding]:
    for name, value in expected.items():
        comparison = compare_exact(actual[name].to(value.device), value)
        if not comparison.passed:
            words = f"{name}: {how}, differs from the first run: {comparison}"
            yield Finding(oracle, words, name)


def _out_of_budget(rerun: Rerun, again: Observation, how: str) -> Iterator[Finding]:
    """A later run that is wrong where the first is right."""
    truths = evaluate(rerun.op, rerun.kernel, rerun.case, rerun.call.tensors)
    if judge(rerun.op, rerun.first, truths).findings:
        return
    here = {n: value.to(rerun.first.outputs[n].device) for n, value in again.outputs.items()}
    for finding in judge(rerun.op, replace(again, outputs=here), truths).findings:
        yield replace(finding, words=f"{how}: {finding.words}")


def _on_a_late_stream(rerun: Rerun) -> Observation:
    """The inputs too arrive on that stream: a launch on another one meets 0xFF bytes."""
    guarded = [g for g in rerun.call.inputs.values() if g is not None]
    for g in guarded:
        g.buffer.fill_(0xFF)
    devices.synchronize(rerun.device)
    with devices.late_stream(rerun.device):
        for g in guarded:
            g.buffer.copy_(g.snapshot)
        return observe(
            rerun.op, rerun.kernel, rerun.call, rerun.device, poison=_poison(rerun.case, 1)
        )


def _on_device(rerun: Rerun, other: torch.device) -> Observation:
    """Everything lies on ``other`` while the first device stays current."""
    call = build(rerun.op, rerun.case, other)
    with devices.on(rerun.device):
        return observe(rerun.op, rerun.kernel, call, other, poison=_poison(rerun.case, 1))


def _of_graph(rerun: Rerun) -> Iterator[Finding]:
    """A graph that was captured on one case's values, replayed on another's and on its own."""
    op, kernel, call, device = rerun.op, rerun.kernel, rerun.call, rerun.device
    if not any(output.numel() for output in rerun.first.outputs.values()):
        return  # nothing is launched for nothing, and an empty graph is an error
    other_case = replace(rerun.case, seed=rerun.case.seed ^ 2)  # the last bit decides on layouts
    changed = build(op, other_case, device)
    eager = observe(op, kernel, changed, device, poison=rerun.first.poison)
    if findings_of_run(eager):
        return  # a finding about another case, for those who search
    places = [g.buffer for g in call.inputs.values() if g is not None]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        launches = stack.enter_context(record_launches())
        stack.enter_context(PoisonedAllocations(device, _poison(rerun.case, 1)))
        try:
            replay = devices.replay(partial(_outputs, rerun), places, device)
        except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
            words = f"cannot be captured in a CUDA graph: {type(error).__name__}: {error}"
            yield Finding("graph", words)
            return
    if not launches:
        yield Finding("launch", "nothing was launched into the CUDA graph")
    other = replace(rerun, case=other_case, call=changed, first=eager)
    for wanted in (other, rerun, other):
        made = replay(*(g.snapshot for g in wanted.call.inputs.values() if g is not None))
        devices.synchronize(device)
        seen = replace(wanted.first, outputs=dict(zip(op.outputs, made, strict=True)))
        yield from _compared(wanted, seen, "graph", "replayed from a CUDA graph")


def _outputs(rerun: Rerun) -> tuple[Tensor, ...]:
    made = name_outputs(rerun.op, rerun.kernel.function(**rerun.call.arguments))
    return tuple(made.values())
