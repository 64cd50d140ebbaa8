"""Wrong results that a sloppy budget lets pass: an op's declaration must reject each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from harness.case import Case
from harness.compare import compare_exact
from harness.execute import build
from harness.judge import compare_with
from harness.precision import outputs_in
from harness.reference import dtype_of, evaluate
from harness.values import families_of, is_random

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from harness.declare import Kernel, Op
    from harness.reference import Truth

SIZE: Final = 48  # of every axis, in whole multiples: more than a tile, and some hundred elements


@dataclass(frozen=True)
class Scene:
    """A case with its inputs and truths, and the right outputs."""

    op: Op
    kernel: Kernel
    case: Case
    inputs: Mapping[str, Tensor | None]
    truths: Mapping[str, Truth]

    @property
    def right(self) -> dict[str, Tensor]:
        """The outputs of the reference, rounded to their dtypes."""
        return {name: truth.rounded for name, truth in self.truths.items()}


def cases(op: Op, kernel: Kernel, dtype: str) -> list[Case]:
    """Cases of random values: parameters at their first labels, then one for each other label."""
    first = op.first_labels
    chosen = [first]
    for name, labels in op.params.items():
        chosen += [first | {name: label} for label in list(labels)[1:]]
    sizes, values = _sizes(op), _values(op)
    return [
        Case(
            kernel=kernel.name,
            sizes=tuple(sizes.items()),
            dtype=dtype,
            params=tuple(params.items()),
            values=values,
            seed=4,
        )
        for params in chosen
    ]


def check_case(op: Op, kernel: Kernel, case: Case, device: torch.device) -> str:
    """Words for each impostor that the judgement lets pass on ``case``; empty if there is none.

    An impostor that happens to be the right result is none.
    """
    scene = _scene(op, kernel, case, device)
    right, words = scene.right, []
    for impostor, make in IMPOSTORS.items():
        false = make(scene)
        words += [
            f"{name}: {_SAID[impostor]} passes"
            for name, value in right.items()
            if not _is_right(false[name], value) and _passes(scene, name, false[name])
        ]
    if not words:
        return ""
    fault = f"the declaration of {op.name} at {op.place} is at fault"
    return f"{'; '.join(words)}; {fault}: its magnitude or terms allow too much"


def _scene(op: Op, kernel: Kernel, case: Case, device: torch.device) -> Scene:
    inputs = build(op, case, device).tensors
    return Scene(op, kernel, case, inputs, evaluate(op, kernel, case, inputs))


def _passes(scene: Scene, name: str, actual: Tensor) -> bool:
    return compare_with(actual, scene.truths[name]).passed


def _is_right(false: Tensor, right: Tensor) -> bool:
    return compare_exact(false, right, signed_zero=False).passed


def _sizes(op: Op) -> dict[str, int]:
    """About ``SIZE`` along each axis; what the op's couplings refuse is made as small as can be."""
    found = {}
    for axis, size in op.domain.sizes.items():
        wanted = max(size.smallest, 2 * size.multiple_of, _up(SIZE, size.multiple_of))
        found[axis] = min(wanted, size.max // size.multiple_of * size.multiple_of)
    for axis, size in op.domain.sizes.items():
        if not op.domain.refusals(found):
            break
        found[axis] = max(size.smallest, size.multiple_of)
    return found


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _values(op: Op) -> str:
    families = list(families_of(op))
    return next((name for name in families if is_random(op, name)), families[0])


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Scene], dict[str, Tensor]]:
    return lambda scene: {name: change(value) for name, value in scene.right.items()}


def _constant(value: Tensor) -> Tensor:
    return value.flatten()[:1].expand(value.numel()).reshape(value.shape)


def _negated(value: Tensor) -> Tensor:
    if value.is_floating_point():  # by way of float32: torch negates no float8
        return value.float().neg().to(value.dtype) if value.itemsize == 1 else -value
    return ~value if value.dtype is torch.bool else -value


def _the_input(scene: Scene) -> dict[str, Tensor]:
    first = next(value for value in scene.inputs.values() if value is not None)

    def like(right: Tensor) -> Tensor:
        repeats = -(-right.numel() // max(1, first.numel()))
        taken = first.flatten().repeat(repeats)[: right.numel()]
        return taken.reshape(right.shape).to(right.dtype)

    return {name: like(value) for name, value in scene.right.items()}


def _previous(scene: Scene) -> dict[str, Tensor]:
    device = next(value.device for value in scene.inputs.values() if value is not None)
    other = replace(scene.case, seed=scene.case.seed ^ 2)
    return _scene(scene.op, scene.kernel, other, device).right


def _shifted(value: Tensor) -> Tensor:
    """Every element in its neighbour's place; of one byte, as bytes: CUDA rolls no float8."""
    flat = value.flatten()
    elements = flat.view(torch.uint8) if value.element_size() == 1 else flat
    return elements.roll(1).view(value.dtype).reshape(value.shape)


def _lower_precision(scene: Scene) -> dict[str, Tensor]:
    """Below the float32 of accumulators lies the case's own dtype, or float16."""
    dtype = dtype_of(scene.case.dtype)
    lower = torch.float16 if dtype.itemsize > 2 else dtype  # noqa: PLR2004
    return outputs_in(lower, scene.op, scene.case, scene.inputs)


IMPOSTORS: Final[dict[str, Callable[[Scene], Mapping[str, Tensor]]]] = {
    "zeros": _each(torch.zeros_like),
    "negated": _each(_negated),
    "constant": _each(_constant),
    "input": _the_input,
    "shifted": _each(_shifted),
    "lower": _lower_precision,
    "previous": _previous,
}
_SAID: Final = {
    "zeros": "all zeros",
    "negated": "the negated result",
    "constant": "its first element everywhere",
    "input": "the first input",
    "shifted": "the result one element too far",
    "lower": "the result computed in the next lower precision",
    "previous": "the result of another case",
}
