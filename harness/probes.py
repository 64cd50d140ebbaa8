"""Boundary probes: calls just outside an op's domain, to be refused before launch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness import expression
from harness.buffers import LAYOUTS, Guarded, guard_input
from harness.case import Case
from harness.execute import Call, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.declare import Kernel, Op

MAX_BYTES: Final = 2**30  # a probe beyond an axis's maximum that needs more is not made
_OF_VECTORS: Final = (
    "offset",
    "strided",
)  # layouts in which a vector is not contiguous and aligned
BELOW: Final = "sm75"  # an arch that nothing here claims


@dataclass(frozen=True)
class Probe:
    """One call, the exceptions that refuse it, and words of which its message must have one."""

    name: str
    make: Callable[[], Call]
    refusals: tuple[type[Exception], ...]
    mentions: tuple[str, ...]
    arch: str | None = None
    right_if_accepted: bool = False
    of_values: bool = False  # a fake, which has none, cannot refuse it


def base_case(op: Op, kernel: Kernel) -> Case:
    """A small legal case with every optional input: twice the multiple along each axis, or 3."""
    sizes = {
        axis: min(size.max, max(size.smallest, size.multiple_of * 2 if size.multiple_of > 1 else 3))
        for axis, size in op.domain.sizes.items()
    }
    return Case(
        kernel=kernel.name,
        sizes=tuple(sizes.items()),
        dtype=op.dtypes[0],
        params=tuple(op.first_labels.items()),
    )


def probes(op: Op, kernel: Kernel, device: torch.device) -> dict[str, Probe]:
    """Every probe of a kernel by name, a word that can be typed."""
    made = [
        *_sizes(op, kernel, device),
        *_mismatches(op, kernel, device),
        *_wrong_inputs(op, kernel, device),
        *_wrong_indices(op, kernel, device),
        *_layouts(op, kernel, device),
        *_parameters(op, kernel, device),
    ]
    return {probe.name: probe for probe in made}


def unmade(op: Op) -> tuple[str, ...]:
    """Size probes that are not made because they need too much memory."""
    return tuple(
        f"{axis}={value}"
        for axis, value in op.domain.neighbours()
        if _bytes(op, {**dict(_base_sizes(op)), axis: value}) > MAX_BYTES
    )


def _base_sizes(op: Op) -> tuple[tuple[str, int], ...]:
    return tuple(
        (axis, max(size.smallest, 2 * size.multiple_of)) for axis, size in op.domain.sizes.items()
    )


def _bytes(op: Op, sizes: dict[str, int]) -> int:
    return 8 * sum(math.prod(spec.dims(sizes)) for spec in op.inputs.values())


def _sizes(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    base = base_case(op, kernel)
    for axis, value in op.domain.neighbours():
        sizes, size = {**base.size_of, axis: value}, op.domain.sizes[axis]
        below = {**sizes, axis: value // size.multiple_of * size.multiple_of}
        same_as_legal = not op.domain.refusals(below) and _shapes(op, below) == _shapes(op, sizes)
        if same_as_legal or _bytes(op, sizes) > MAX_BYTES:
            continue  # k = 65 of two packed codes a byte has the shapes of k = 64
        case = replace(base, sizes=tuple(sizes.items()))
        names = tuple(n for n, s in op.inputs.items() if any(axis in w for w in s.shape))
        yield Probe(
            f"{axis}={value}",
            lambda case=case: build(op, case, device),  # type: ignore[misc]
            (ValueError,),
            (axis, *names),
        )


def _shapes(op: Op, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    return {name: spec.dims(sizes) for name, spec in op.inputs.items()}


def _mismatches(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    """One input disagrees with the others about an axis that they share."""
    base = base_case(op, kernel)
    for name, spec in op.inputs.items():
        for dim, word in enumerate(spec.shape):
            sharers = [s for n, s in op.inputs.items() if n != name and _shares(word, s.shape)]
            if not sharers:
                continue
            shape = list(spec.dims(base.size_of))
            shape[dim] += 1
            if _is_of_another_size(op, base.size_of, name, tuple(shape)):
                continue  # 4 rows beside scales that are padded to 128: no tensor tells
            yield Probe(
                f"{name}.shape[{dim}]+1",
                lambda name=name, shape=tuple(shape): _resized(op, base, device, name, shape),  # type: ignore[misc]
                (ValueError,),
                (name, word, str(shape[dim]), *(w for w in spec.shape)),
            )


def _is_of_another_size(op: Op, sizes: dict[str, int], name: str, shape: tuple[int, ...]) -> bool:
    """Whether ``name`` in that shape, all else as at ``sizes``, is a legal call of other sizes."""
    wanted = _shapes(op, sizes) | {name: shape}
    larger = ({**sizes, axis: value + 1} for axis, value in sizes.items())
    return any(not op.domain.refusals(s) and _shapes(op, s) == wanted for s in larger)


def _shares(word: str, shape: tuple[str, ...]) -> bool:
    return any(expression.axes(word) & expression.axes(other) for other in shape)


_CHANGES: Final[dict[str, tuple[Callable[[Tensor], object], type[Exception]]]] = {
    "dtype=float64": (lambda tensor: tensor.double(), TypeError),
    "dtype=int16": (lambda tensor: tensor.to(torch.int16), TypeError),
    "rank+1": (lambda tensor: tensor.unsqueeze(0), ValueError),
    "rank-1": (lambda tensor: tensor[0], ValueError),
    "device=meta": (lambda tensor: tensor.to("meta"), ValueError),
    "=list": (lambda tensor: tensor.tolist(), TypeError),
}


def _wrong_inputs(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    base = base_case(op, kernel)
    partners = Counter(spec.optional for spec in op.inputs.values() if spec.optional)
    for name, spec in op.inputs.items():
        for word, (change, refusal) in _CHANGES.items():
            label = f"{name}{word}" if word.startswith("=") else f"{name}.{word}"
            yield _replaced(op, base, device, label, name, change, refusal)
        if spec.optional is None:
            yield _replaced(op, base, device, f"{name}=None", name, lambda _: None, TypeError)
        elif partners[spec.optional] > 1:
            yield _replaced(op, base, device, f"{name}=None", name, lambda _: None, ValueError)


def _replaced(
    op: Op,
    base: Case,
    device: torch.device,
    label: str,
    name: str,
    change: Callable[[Tensor], object],
    refusal: type[Exception],
) -> Probe:
    def make() -> Call:
        call = build(op, base, device)
        guarded = call.inputs[name]
        if guarded is None:
            msg = f"{name} is missing from {base.id}"
            raise ValueError(msg)
        return Call(call.inputs, {**call.keywords, name: change(guarded.tensor)})

    return Probe(label, make, (refusal,), (name, "meta"))


def _wrong_indices(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    """One index, the last, outside its bound."""
    base = base_case(op, kernel)
    for name, spec in op.inputs.items():
        if spec.below is None:
            continue
        for value in (-1, expression.evaluate(spec.below, base.size_of)):
            probe = _replaced(
                op, base, device, f"{name}={value}", name, partial(_ending_in, value), ValueError
            )
            yield replace(
                probe, mentions=(f"{name} has {value}", f"{name}={value}"), of_values=True
            )


def _ending_in(value: int, indices: Tensor) -> Tensor:
    changed = indices.clone()
    changed.reshape(-1)[-1] = value
    return changed


def _layouts(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    """A layout that the kernel does not promise: refused, or the result is right."""
    base = base_case(op, kernel)
    first = next(iter(op.inputs))
    for name, spec in op.inputs.items():
        promised = kernel.layouts if name == first else ("contiguous",)
        for layout in LAYOUTS:
            if layout in promised or (len(spec.shape) == 1 and layout not in _OF_VECTORS):
                continue
            yield Probe(
                f"{name}.layout={layout}",
                lambda name=name, layout=layout: _relaid(op, base, device, name, layout),  # type: ignore[misc]
                (ValueError,),
                (name,),
                right_if_accepted=True,
            )


def _parameters(op: Op, kernel: Kernel, device: torch.device) -> Iterator[Probe]:
    base = base_case(op, kernel)

    def call_with(**keywords: object) -> Call:
        call = build(op, base, device)
        return Call(call.inputs, {**call.keywords, **keywords})

    for name, bad in op.refuses.items():
        for value in bad:
            yield Probe(
                f"{name}={value}",
                lambda name=name, value=value: call_with(**{name: value}),  # type: ignore[misc]
                (TypeError, ValueError, NotImplementedError),
                (name,),
            )
    if kernel.configs:
        unknown = "no_such_config"
        yield Probe("config=unknown", lambda: call_with(config=unknown), (ValueError,), (unknown,))
    yield Probe(f"arch={BELOW}", call_with, (NotImplementedError,), (BELOW,), arch=BELOW)


def _resized(op: Op, base: Case, device: torch.device, name: str, shape: tuple[int, ...]) -> Call:
    call = build(op, base, device)
    guarded = call.inputs[name]
    if guarded is None:
        msg = f"{name} is missing from {base.id}"
        raise ValueError(msg)
    fresh = torch.ones(shape, dtype=guarded.tensor.dtype)
    return Call(
        {**call.inputs, name: guard_input(name, fresh, "contiguous", device)}, call.keywords
    )


def _relaid(op: Op, base: Case, device: torch.device, name: str, layout: str) -> Call:
    call = build(op, base, device)
    inputs: dict[str, Guarded | None] = dict(call.inputs)
    guarded = inputs[name]
    if guarded is not None:
        inputs[name] = guard_input(name, guarded.tensor.cpu(), layout, device)
    return Call(inputs, call.keywords)
