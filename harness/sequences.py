"""A call leaves no trace in later ones: other shapes, dtypes and flags come in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.case import DEFAULT
from harness.compare import compare_exact
from harness.execute import generator
from harness.judge import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from harness.case import Case
    from harness.declare import Kernel, Op
    from harness.execute import Observation
    from harness.judge import Judgement
    from harness.strategies import Limits

    Run = Callable[[Case], tuple[Observation, Judgement]]

Option = TypeVar("Option")


@dataclass(frozen=True)
class Kept:
    """Outputs that a caller holds on to, and a copy of what they were."""

    outputs: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]

    def changes(self) -> Iterator[tuple[str, str]]:
        """Names of outputs that changed since, with words for where."""
        for name, copy in self.copies.items():
            comparison = compare_exact(self.outputs[name], copy)
            if not comparison.passed:
                yield name, str(comparison)


def between(op: Op, kernel: Kernel, case: Case, limits: Limits) -> dict[str, Case]:
    """Cases that differ from ``case`` in one thing each, by the name of that thing.

    What a compile cache leaves out of its key, or a workspace is reused for, is one of them. Code
    compiled with an optional input is often right without it, but not the reverse: for each, other
    sizes are met first with the opposite of what ``case`` has, and then as ``case`` has it.
    """
    draw = generator(case, "/sequence")
    found = {"values": replace(case, seed=case.seed ^ 2)}  # the last bit decides on layouts
    for axis in op.domain.sizes:
        if other := _resized(op, case, axis, limits, draw):
            found[axis] = other
    if dtype := _other(op.dtypes, case.dtype, draw):
        found["dtype"] = replace(case, dtype=dtype)
    for name, label in case.params:
        if other_label := _other(tuple(op.params[name]), label, draw):
            params = {**dict(case.params), name: other_label}
            found[name] = replace(case, params=tuple(params.items()))
    for group in op.groups:
        kept = [g for g in op.groups if (g in case.without) != (g == group)]
        found[group] = replace(case, without=tuple(kept))
        moved = _moved(op, case, limits, draw)
        found[f"{group} and size"] = replace(moved, without=tuple(kept))
        found[f"size, {group} as here"] = moved
    if layout := _other(kernel.layouts, case.layout, draw):
        found["layout"] = replace(case, layout=layout)
    if config := _other((DEFAULT, *kernel.configs), case.config, draw):
        found["config"] = replace(case, config=config)
    return found


def check_case(
    op: Op, kernel: Kernel, case: Case, run: Run, *, limits: Limits
) -> tuple[Finding, ...]:
    """Run ``case``, each case of ``between`` and ``case`` again; all must be right.

    What the first call returned must keep its bits, and the last one must return the same, if the
    kernel is deterministic.
    """
    first, judgement = run(case)
    if judgement.findings or first.error is not None:
        return judgement.findings
    kept = Kept(first.outputs, {name: value.clone() for name, value in first.outputs.items()})
    findings: list[Finding] = []
    for what, other in between(op, kernel, case, limits).items():
        _, judged = run(other)
        findings += _of_other(what, other, judged)
        changed = list(kept.changes())
        words = f"after a call with another {what} ({other.id})"
        findings += [Finding("sequence", f"{n}: changed {words}: {c}", n) for n, c in changed]
        if findings:
            return tuple(findings)
    last, judged = run(case)
    findings += [replace(f, words=f"again, after the sequence: {f.words}") for f in judged.findings]
    if not findings and kernel.deterministic:
        for name, where in Kept(last.outputs, kept.copies).changes():
            words = f"{name}: the same call at the end of a sequence has other bits: {where}"
            findings.append(Finding("sequence", words, name))
    return tuple(findings)


def _of_other(what: str, other: Case, judged: Judgement) -> list[Finding]:
    words = f"after this case, with another {what} ({other.id})"
    return [replace(f, words=f"{words}: {f.words}") for f in judged.findings]


def _moved(op: Op, case: Case, limits: Limits, draw: torch.Generator) -> Case:
    """``case`` with another size of every axis that has one."""
    for axis in op.domain.sizes:
        case = _resized(op, case, axis, limits, draw) or case
    return case


def _resized(op: Op, case: Case, axis: str, limits: Limits, draw: torch.Generator) -> Case | None:
    from harness.strategies import table

    options = []
    for value in table(op.domain.sizes[axis], cap=limits.axis):
        sizes = {**case.size_of, axis: value}
        fits = op.elements(sizes) <= max(limits.elements, op.elements(case.size_of))
        if fits and not op.domain.refusals(sizes):
            options.append(value)
    value_found = _other(options, case.size_of[axis], draw)
    if value_found is None:
        return None
    return replace(case, sizes=tuple({**case.size_of, axis: value_found}.items()))


def _other(options: Sequence[Option], used: Option, draw: torch.Generator) -> Option | None:
    others = [option for option in options if option != used]
    if not others:
        return None
    return others[int(torch.randint(0, len(others), (), generator=draw))]
