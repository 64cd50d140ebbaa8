"""Value families: what numbers the inputs of a case hold, reproducible from a generator alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness import draws, expression

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Generator, Tensor

    from harness.case import Case
    from harness.declare import Op, TensorSpec

    Shape = tuple[int, ...]
    Numbers = Callable[[Shape, torch.dtype, Generator], Tensor]
    Plain = Callable[[Shape, Generator], Tensor]


@dataclass(frozen=True)
class Family:
    """How the inputs of a case are made in one family.

    ``make`` takes an input's name, role, shape, dtype and generator, and returns a CPU tensor that
    is then rounded to the dtype; None means ``normal``. Of an index it returns integers of any
    size, whose remainders by its bound are the indices: -1 is the last one. ``random`` says that
    elements are independent draws.
    """

    make: Callable[[str, str, tuple[int, ...], torch.dtype, Generator], Tensor | None]
    random: bool = False


class UnknownFamily(LookupError):
    """A value family that an op does not have; the message lists those that it has."""


class InvalidFamily(ValueError):
    """A family whose ``make`` returned what the declared input cannot be."""


def families_of(op: Op) -> dict[str, Family]:
    """Every family that cases of ``op`` may have, the simplest first: generic ones, then its own.

    A family of the op's own replaces the generic one of its name.
    """
    generic = {name: family for name, family in FAMILIES.items() if name not in op.excludes}
    return generic | dict(op.families)


def is_random(op: Op, family: str) -> bool:
    """Whether elements of the inputs are independent draws in ``family``."""
    return families_of(op)[family].random


def make(op: Op, name: str, case: Case, dtype: torch.dtype, generator: Generator) -> Tensor:
    """A CPU tensor for the input ``name`` of ``case``, of ``dtype``.

    Raises UnknownFamily if the op has no such family, InvalidFamily if a family of its own gives
    another shape, or on an exact grid values that ``dtype`` does not hold.
    """
    spec, known = op.inputs[name], families_of(op)
    if case.values not in known:
        msg = f"values={case.values!r} is no family of {op.name}; families: {', '.join(known)}"
        raise UnknownFamily(msg)
    shape = spec.dims(case.size_of)
    made = known[case.values].make(name, spec.role, shape, dtype, generator)
    if made is None:
        made = FAMILIES["normal"].make(name, spec.role, shape, dtype, generator)
    if spec.below is not None and isinstance(made, torch.Tensor):
        made = _below(spec.below, made, case)
    return _spoiled(spec, case, _fitting(op, name, case, made, dtype))


def _spoiled(spec: TensorSpec, case: Case, made: Tensor) -> Tensor:
    """0xFF for padding, in every other case: kernels that read it meet both that and numbers."""
    if spec.unread is None or case.seed % 2 == 0 or not made.numel():
        return made
    padding = spec.unread(case.size_of).expand(made.shape)
    octets = made.view(torch.uint8).reshape(*made.shape, made.itemsize)
    return octets.masked_fill(padding[..., None], 0xFF).view(made.dtype).reshape(made.shape)


def _below(bound: str, drawn: Tensor, case: Case) -> Tensor:
    """Indices below the bound, which a draw does not know."""
    return drawn.remainder(max(1, expression.evaluate(bound, case.size_of)))


def _fitting(op: Op, name: str, case: Case, made: Tensor | None, dtype: torch.dtype) -> Tensor:
    shape = op.inputs[name].dims(case.size_of)
    where = f"family {case.values!r} of {op.name}: {name}"
    if not isinstance(made, torch.Tensor) or made.device.type != "cpu":
        msg = f"{where} is {_said(made)}; return a CPU tensor, or None for normal values"
        raise InvalidFamily(msg)
    if tuple(made.shape) != shape:
        msg = f"{where} has shape {tuple(made.shape)}; it is given, and must return, {shape}"
        raise InvalidFamily(msg)
    fitting = draws.to_dtype(made, dtype) if made.dtype is not dtype else made
    if case.values in op.exact and not torch.equal(fitting.to(made.dtype), made):
        msg = f"{where} has values that {dtype} does not hold, but is declared exact; use others"
        raise InvalidFamily(msg)
    return fitting.contiguous()


def _said(made: object) -> str:
    if isinstance(made, torch.Tensor):
        return f"a tensor on {made.device}"
    return f"of type {type(made).__name__}"


_plain_scale: Plain = partial(draws.positive, range(-2, 2))


@dataclass(frozen=True)
class _Generic:
    """A family by role. Integer inputs get ``unit`` for 1, rounded; ``weight`` None is ``data``."""

    data: Numbers
    weight: Numbers | None = None
    scale: Plain = _plain_scale
    code: Plain = draws.any_code
    index: Plain = draws.any_index
    unit: int = 1

    def __call__(
        self, name: str, role: str, shape: Shape, dtype: torch.dtype, generator: Generator
    ) -> Tensor:
        """An input of that role."""
        del name
        if role == "code":
            return _codes(self.code, shape, dtype, generator)
        if role == "scale":
            return self.scale(shape, generator)
        if role == "index":
            return self.index(shape, generator)
        draw = self.weight if role == "weight" and self.weight else self.data
        values = draw(shape, dtype, generator)
        return values if dtype.is_floating_point else values * self.unit


def _codes(draw: Plain, shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Codes of any integer dtype, made of bytes."""
    made = draw((*shape[:-1], shape[-1] * dtype.itemsize), generator)
    return made % 2 > 0 if dtype is torch.bool else made.view(dtype)


def _mixed(
    choices: tuple[Numbers, ...], shape: Shape, dtype: torch.dtype, generator: Generator
) -> Tensor:
    """Another family for each input: normal ones beside extreme ones."""
    return choices[draws.choice(len(choices), generator)](shape, dtype, generator)


def _zero_code(shape: Shape, generator: Generator) -> Tensor:
    return draws.any_code(shape, generator) * draws.kept_groups(shape, generator)


def _constant_code(shape: Shape, generator: Generator) -> Tensor:
    return draws.any_code((), generator).expand(shape).clone()


def _constant_scale(shape: Shape, generator: Generator) -> Tensor:
    return draws.positive(range(-2, 2), (), generator).expand(shape).clone()


def _tie_scale(shape: Shape, _: Generator) -> Tensor:
    return torch.ones(shape)


def _mixed_scale(shape: Shape, generator: Generator) -> Tensor:
    """Ordinary, all small, all large, or from one end to the other, within normal float16."""
    ranges = (range(-2, 2), range(-14, -10), range(8, 12), range(-14, 12))
    return draws.positive(ranges[draws.choice(len(ranges), generator)], shape, generator)


def _mixed_code(shape: Shape, generator: Generator) -> Tensor:
    kinds = (draws.any_code, _zero_code, _constant_code, _huge_code)
    return kinds[draws.choice(len(kinds), generator)](shape, generator)


def _zero_index(shape: Shape, _: Generator) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _last_index(shape: Shape, _: Generator) -> Tensor:
    return torch.full(shape, -1)


def _constant_index(shape: Shape, generator: Generator) -> Tensor:
    return draws.any_index((), generator).expand(shape).clone()


def _counted_index(shape: Shape, _: Generator) -> Tensor:
    """Each place its own, as long as the bound reaches."""
    return torch.arange(math.prod(shape)).reshape(shape)


def _mixed_index(shape: Shape, generator: Generator) -> Tensor:
    kinds = (draws.any_index, _zero_index, _last_index, _counted_index)
    return kinds[draws.choice(len(kinds), generator)](shape, generator)


_huge_code: Plain = partial(draws.nibbles, (7, 8))
_PLAIN: Final = (draws.normal, draws.normal, draws.outlier, draws.tiny, draws.huge)
_MIXED: Final = _Generic(
    partial(_mixed, (*_PLAIN, draws.zero)),
    weight=partial(_mixed, (*_PLAIN, draws.constant)),
    scale=_mixed_scale,
    code=_mixed_code,
    index=_mixed_index,
    unit=16,
)

# The simplest first: a failing case shrinks towards it.
FAMILIES: Final[Mapping[str, Family]] = {
    "normal": Family(_Generic(draws.normal, unit=16), random=True),
    "exact": Family(_Generic(draws.exact, scale=partial(draws.powers_of_two, range(3)))),
    "constant": Family(
        _Generic(
            draws.constant,
            scale=_constant_scale,
            code=_constant_code,
            index=_constant_index,
            unit=4,
        )
    ),
    "zero": Family(
        _Generic(draws.zero, weight=draws.normal, code=_zero_code, index=_zero_index, unit=16)
    ),
    "probe": Family(
        _Generic(
            draws.probe,
            weight=draws.probe_beside,
            scale=partial(draws.powers_of_two, range(-1, 2)),
            code=draws.probe_code,
            index=_counted_index,
        )
    ),
    "outlier": Family(_Generic(draws.outlier), random=True),
    "tiny": Family(
        _Generic(draws.tiny, weight=draws.normal, code=partial(draws.nibbles, (0, 1, 15)))
    ),
    "huge": Family(_Generic(draws.huge, weight=draws.normal, code=_huge_code, index=_last_index)),
    "cancelling": Family(_Generic(draws.cancelling, unit=16), random=True),
    "ties": Family(_Generic(draws.ties, scale=_tie_scale, unit=2)),
    "mixed": Family(_MIXED),
    "special": Family(_Generic(draws.special, weight=draws.normal, unit=16)),
}
