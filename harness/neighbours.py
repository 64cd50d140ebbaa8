"""What lies at one index of an independent axis does not change a bit at the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from harness.buffers import Guarded
from harness.compare import compare_exact
from harness.execute import Call, build, generator, observe
from harness.judge import Finding, compare_with, findings_of_run
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from harness.case import Case
    from harness.compare import Comparison
    from harness.declare import Kernel, Op, TensorSpec
    from harness.reference import Truth

LEAST: Final = 3  # indices along an independent axis: one is spoiled, two are looked at
_NAN_BYTE: Final = 0xFF
_HUGE_BYTE: Final = 0x77  # 7 in both nibbles, 240 in e4m3


def widened(op: Op, case: Case) -> Case:
    """``case`` with several indices along every independent axis, each with memory of its own."""
    sizes = case.size_of
    for axis in op.independent:
        size = op.domain.sizes[axis]
        steps = max(-(-LEAST // size.multiple_of), -(-size.smallest // size.multiple_of))
        sizes[axis] = max(sizes[axis], min(size.max, steps * size.multiple_of))
    layout = "contiguous" if case.layout == "expanded" else case.layout
    return replace(case, sizes=tuple(sizes.items()), layout=layout)


@dataclass(frozen=True)
class Spoiling:
    """What fills all inputs at one index of an axis."""

    axis: str
    index: int
    filler: str


def check_case(op: Op, kernel: Kernel, case: Case, device: torch.device) -> tuple[Finding, ...]:
    """What changes at other indices when NaN or huge values fill all inputs at one of them.

    For each axis of ``op.independent`` in turn, on ``widened(op, case)``. Outputs of a kernel that
    is declared non-deterministic must stay within their budgets there.
    """
    case = widened(op, case)
    call = build(op, case, device)
    first = observe(op, kernel, call, device)
    if found := findings_of_run(first):
        return found
    truths = {} if kernel.deterministic else evaluate(op, kernel, case, call.tensors)
    findings: list[Finding] = []
    for spoiling in _spoilings(op, case):
        seen = observe(op, kernel, _spoiled(op, call, spoiling, device), device)
        where = f"{spoiling.axis}={spoiling.index} of {case.size_of[spoiling.axis]}"
        how = f"with {spoiling.filler} at {where}"
        findings += [replace(f, words=f"{how}: {f.words}") for f in findings_of_run(seen)]
        if seen.error is None:
            changed = _changes(op, spoiling, seen.outputs, first.outputs, truths)
            words = f"{how}, other indices change"
            findings += [Finding("neighbour", f"{n}: {words}: {c}", n) for n, c in changed]
    return tuple(findings)


def _spoilings(op: Op, case: Case) -> list[Spoiling]:
    draw = generator(case, "/neighbours")
    indices = {
        axis: int(torch.randint(0, case.size_of[axis], (), generator=draw))
        for axis in op.independent
    }
    return [Spoiling(axis, index, f) for axis, index in indices.items() for f in _FILLERS]


def _spoiled(op: Op, call: Call, spoiling: Spoiling, device: torch.device) -> Call:
    inputs = dict(call.inputs)
    for name, guarded in call.inputs.items():
        spec = op.inputs[name]
        dims = _dims(spec.shape, spoiling.axis)
        if guarded is None or not dims or not _is_filled(spec, guarded.tensor):
            continue
        values = guarded.tensor.cpu().clone(memory_format=torch.contiguous_format)
        for dim in dims:
            _FILLERS[spoiling.filler](values.narrow(dim, spoiling.index, 1))
        inputs[name] = _like(guarded, values, device)
    return Call(inputs, call.keywords)


def _is_filled(spec: TensorSpec, values: Tensor) -> bool:
    """Floats and codes; an integer that may be an index must stay one."""
    return values.is_floating_point() or (spec.role == "code" and values.dtype != torch.bool)


def _like(guarded: Guarded, values: Tensor, device: torch.device) -> Guarded:
    """Other values in memory laid out the same way."""
    buffer = guarded.snapshot.to(device).clone()
    size = values.element_size()
    whole = buffer[: buffer.numel() // size * size].view(values.dtype)
    laid_out = guarded.tensor
    view = whole.as_strided(laid_out.shape, laid_out.stride(), laid_out.storage_offset())
    view.copy_(values)
    return Guarded(guarded.name, view, buffer, buffer.clone())


def _fill_nan(values: Tensor) -> None:
    if values.is_floating_point():
        values.fill_(math.nan)
    else:
        values.view(torch.uint8).fill_(_NAN_BYTE)


def _fill_huge(values: Tensor) -> None:
    if values.is_floating_point():
        values.fill_(torch.finfo(values.dtype).max)
    else:
        values.view(torch.uint8).fill_(_HUGE_BYTE)


_FILLERS: Final[dict[str, Callable[[Tensor], None]]] = {"NaN": _fill_nan, "huge": _fill_huge}


def _changes(
    op: Op,
    spoiling: Spoiling,
    seen: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    truths: Mapping[str, Truth],
) -> Iterator[tuple[str, Comparison]]:
    for name, spec in op.outputs.items():
        dims, index = _dims(spec.shape, spoiling.axis), spoiling.index
        if not dims:
            continue
        actual = _others(seen[name], dims, index)
        if name in truths:
            comparison = compare_with(actual, _others_of_truth(truths[name], dims, index))
        else:
            comparison = compare_exact(actual, _others(first[name], dims, index))
        if not comparison.passed:
            yield name, comparison


def _dims(shape: Sequence[str], axis: str) -> list[int]:
    return [dim for dim, word in enumerate(shape) if word == axis]


def _others(values: Tensor, dims: Sequence[int], index: int) -> Tensor:
    for dim in dims:
        after = values.shape[dim] - index - 1
        parts = values.narrow(dim, 0, index), values.narrow(dim, index + 1, after)
        values = torch.cat(parts, dim)
    return values


def _others_of_truth(truth: Truth, dims: Sequence[int], index: int) -> Truth:
    ties, within = truth.near_ties, truth.within
    if within is not None:
        low, high = _others(within.low, dims, index), _others(within.high, dims, index)
        within = replace(within, low=low, high=high)
    return replace(
        truth,
        expected=_others(truth.expected, dims, index),
        scale=_others(truth.scale, dims, index),
        near_ties=None if ties is None else _others(ties, dims, index),
        within=within,
    )
