"""Correct variants before the judge: how often the harness, and the rules of others, accuse one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import registry, variants
from harness.execute import build
from harness.fairness import without_unfair
from harness.power import foreign
from harness.power.trace import WORDS
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from harness.case import Case
    from harness.declare import Op
    from harness.variants import Variant


@dataclass(frozen=True)
class Judged:
    """One result of a correct variant: what rejected it, of the harness and of others."""

    op: str
    variant: str
    case: str
    family: str
    habit: str  # which input habit of people the case belongs to, if to one
    oracles: tuple[str, ...]
    words: str
    foreign: tuple[str, ...]
    unfair: bool


def judge_all(
    op_name: str, cases: Mapping[str, Iterable[Case]], device: torch.device, *, rules: bool
) -> Iterator[Judged]:
    """Every variant of an op on every case; ``cases`` go by the habit that they belong to."""
    op = registry.op(op_name)
    able = [variant for variant in variants.of(op_name) if variant.runs_on(device)]
    for habit, group in cases.items():
        for case in group:
            for variant in able:
                if variant.takes(case):
                    yield _judge(op, variant, case, habit, device, rules=rules)


def _judge(
    op: Op, variant: Variant, case: Case, habit: str, device: torch.device, *, rules: bool
) -> Judged:
    call = build(op, case, device)
    truths = evaluate(op, variant.kernel, case, call.tensors)
    seen = variants.observe(op, variant, case, call, device)
    judged = variants.judge(op, seen, truths)
    verdict = without_unfair(op, case, call.tensors, truths, judged)
    rejecting: tuple[str, ...] = ()
    if rules:
        rejecting = (
            tuple(foreign.RULES)
            if seen.error
            else foreign.rejecting(op, case, call.tensors, seen.outputs, truths)
        )
    return Judged(
        op=op.name,
        variant=variant.name,
        case=case.id,
        family=case.values,
        habit=habit,
        oracles=verdict.oracles,
        words=verdict.problems[0][:WORDS] if verdict.problems else "",
        foreign=rejecting,
        unfair=verdict.unfair,
    )
