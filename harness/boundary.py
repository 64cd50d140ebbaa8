"""The boundary layer's judgement: refused before launch, by the right exception, saying why."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from harness import device as devices
from harness.execute import execute, observe
from harness.exhaustion import is_exhaustion
from harness.judge import judge
from harness.probes import base_case
from harness.reference import evaluate

if TYPE_CHECKING:
    import torch

    from harness.declare import Kernel, Op
    from harness.execute import Call, Observation
    from harness.probes import Probe


def check_probe(op: Op, kernel: Kernel, probe: Probe, device: torch.device) -> str:
    """Words for what is wrong with the kernel's answer to ``probe``; empty if refused well."""
    call = probe.make()
    with devices.pretend(probe.arch) if probe.arch else nullcontext():
        seen = observe(op, kernel, call, device)
    if seen.error is None:
        return (
            _of_accepted(op, kernel, call, seen) if probe.right_if_accepted else "silently accepted"
        )
    return _of_refused(probe, seen)


def check_survival(op: Op, kernel: Kernel, device: torch.device) -> str:
    """Words for a legal call that is no longer right after the probes; empty if all is well."""
    case = base_case(op, kernel)
    call, seen = execute(op, kernel, case, device)
    verdict = judge(op, seen, evaluate(op, kernel, case, call.tensors))
    return "; ".join(verdict.problems)


def _of_refused(probe: Probe, seen: Observation) -> str:
    error = seen.error
    if error is not None and is_exhaustion(error):
        raise error  # no refusal: of the probe whoever watches is told
    said = f"{type(error).__name__}: {error}"
    wanted = " or ".join(kind.__name__ for kind in probe.refusals)
    if seen.launches:
        return f"raised after {len(seen.launches)} launches: {said}"
    if not isinstance(error, probe.refusals):
        return f"raised {said}; must be {wanted}"
    if not any(word in str(error) for word in probe.mentions):
        return f"the message names none of {', '.join(probe.mentions)}: {said}"
    return f"memory: {seen.damage}" if seen.damage else ""


def _of_accepted(op: Op, kernel: Kernel, call: Call, seen: Observation) -> str:
    truths = evaluate(op, kernel, base_case(op, kernel), call.tensors)
    problems = judge(op, seen, truths).problems
    return f"silently wrong: {'; '.join(problems)}" if problems else ""
