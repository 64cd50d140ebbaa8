"""Evaluation of an op's dense reference on the very bits that a kernel was given."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness import device as devices
from harness import expression
from harness.budget import UNIT_ROUNDOFF, Budget, Expected, Within, ulp
from harness.calibration import constants
from harness.compare import InvalidReference
from harness.values import is_random

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.case import Case
    from harness.declare import Kernel, Op, OutputSpec
    from harness.truths import TruthCache


@dataclass(frozen=True)
class Truth:
    """One output as the reference has it.

    ``oracle`` is ``exact`` where bytes must be equal, ``within`` where they may be any that a right
    intermediate leads to, ``bitwise`` where exact arithmetic leaves one correctly rounded result
    (zeros of either sign), else ``budget``. ``scale`` is what rounding errors of sums are relative
    to; ``near_ties`` an allowance of its own. ``random`` says that elements are independent draws,
    whose rounding errors must not be biased.
    """

    expected: Tensor
    scale: Tensor
    budget: Budget | None
    oracle: str = "budget"
    near_ties: Tensor | None = None
    random: bool = False
    within: Within | None = None

    @property
    def rounded(self) -> Tensor:
        """What a perfect kernel returns."""
        return self.expected.to(self.budget.dtype) if self.budget else self.expected


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of that name; raises InvalidReference."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        msg = f"dtype={name!r} is no dtype of torch; e.g. 'float16', 'bfloat16', 'uint8'"
        raise InvalidReference(msg)
    return found


def output_dtype(spec: OutputSpec, dtype: torch.dtype, params: Mapping[str, object]) -> torch.dtype:
    """The dtype that an output must have in a case of ``dtype``."""
    if spec.dtype is None:
        return dtype
    return dtype_of(spec.dtype) if isinstance(spec.dtype, str) else spec.dtype(dtype, params)


def evaluate(
    op: Op,
    kernel: Kernel,
    case: Case,
    inputs: Mapping[str, Tensor | None],
    *,
    cache: TruthCache | None = None,
) -> dict[str, Truth]:
    """What each output must be, and its budget.

    With a ``cache`` the reference is evaluated once for all kernels of the op; the inputs must then
    be the case's own. Raises InvalidReference if the reference returns another number of outputs,
    or a shape or dtype that the declaration does not have.
    """
    make = partial(expectations, op, case, inputs)
    values = make() if cache is None else cache.get(op, case, inputs, make)
    return {name: _truth(op, kernel, case, name, values[name]) for name in op.outputs}


def expectations(op: Op, case: Case, inputs: Mapping[str, Tensor | None]) -> dict[str, Expected]:
    """What the reference says of each output, whatever the kernel; raises InvalidReference.

    No tensor of it shares storage with an input, which a kernel may return as its output.
    """
    dtype, params = dtype_of(case.dtype), op.param_values(dict(case.params))
    wide = {name: _widen(value) for name, value in inputs.items()}
    raw = call(op, wide, params, dtype)
    absolute: dict[str, object] | None = None
    found = {}
    for name, spec in op.outputs.items():
        value = raw[name]
        if not isinstance(value, Expected):
            plain = tensor_of(op, name, value)
            bound: Tensor = plain.abs()
            if spec.sums_over and not spec.exact:
                absolute = absolute or call(op, _absolute(wide), params, dtype)
                bound = tensor_of(op, name, absolute[name])
            value = Expected(plain, bound)
        _check_value(op, case, name, value)
        found[name] = _own(value, inputs)
    return found


def _own(value: Expected, inputs: Mapping[str, Tensor | None]) -> Expected:
    places = {t.untyped_storage().data_ptr() for t in inputs.values() if t is not None}

    def own(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().data_ptr() in places else tensor

    return replace(value, value=own(value.value), magnitude=own(value.magnitude))


def _check_value(op: Op, case: Case, name: str, value: Expected) -> None:
    spec, sizes = op.outputs[name], case.size_of
    if tuple(value.value.shape) != spec.dims(sizes):
        msg = (
            f"the reference of {op.name} returned {name} of shape {tuple(value.value.shape)}; "
            f"declared {' '.join(spec.shape)} = {spec.dims(sizes)} at {case.id}"
        )
        raise InvalidReference(msg)
    if not spec.exact and value.value.dtype != torch.float64:
        msg = f"the reference of {op.name} returned {name} as {value.value.dtype}; need float64"
        raise InvalidReference(msg)
    if not spec.exact and value.within is not None:
        msg = f"the reference of {op.name} returned {name} with within=; declare it exact=True"
        raise InvalidReference(msg)


def _truth(op: Op, kernel: Kernel, case: Case, name: str, value: Expected) -> Truth:
    spec, params = op.outputs[name], op.param_values(dict(case.params))
    target = output_dtype(spec, dtype_of(case.dtype), params)
    if spec.exact:
        oracle = "exact" if value.within is None else "within"
        exact = value.value.to(target)
        return Truth(exact, value.magnitude, None, oracle=oracle, within=value.within)
    words = (spec.sums_over or "1").split()
    summed = math.prod(expression.evaluate(word, case.size_of) for word in words)
    tensor_core = kernel.accumulates == "tensor_core" and spec.sums_over is not None
    random = is_random(op, case.values)
    budget = Budget(
        dtype=target,
        terms_summed=summed,
        tensor_core=tensor_core,
        random=random,
        terms=op.terms,
        constants=constants(devices.arch_of(value.value.device), kernel.accumulates),
    )
    quantum = op.exact.get(case.values)
    if quantum is not None and _one_result(value, quantum, budget):
        return Truth(value.value.to(target), value.magnitude, None, oracle="bitwise")
    return Truth(
        value.value,
        _scale(value) if random else value.magnitude,
        budget,
        near_ties=value.near_ties,
        random=random and case.layout != "expanded",
    )


def _scale(value: Expected) -> Tensor:
    """The scale of the partial sums of terms of random sign; ordered signs go far beyond it."""
    if value.squares is None:
        return value.magnitude
    partial = value.value.abs() + 3 * value.squares.sqrt()
    return torch.minimum(value.magnitude, partial)


def _one_result(value: Expected, quantum: float, budget: Budget) -> bool:
    """Whether exact sums leave one correct result: no declared term reaches a rounding tie."""
    if not bool((value.magnitude <= quantum / UNIT_ROUNDOFF).all()):
        return False
    wide = value.value
    apart = (wide - wide.to(budget.dtype).double()).abs()
    reach = budget.declared(wide, value.magnitude)
    alone = apart + reach < ulp(wide.abs(), budget.dtype) / 2
    return bool((alone | (reach == 0)).all())


def call(
    op: Op, inputs: Mapping[str, Tensor | None], params: Mapping[str, object], dtype: torch.dtype
) -> dict[str, object]:
    """What the reference returns for ``inputs`` as they are, by output; raises InvalidReference."""
    wants_dtype = "dtype" in inspect.signature(op.reference).parameters
    extra = {"dtype": dtype} if wants_dtype and "dtype" not in params else {}
    result = op.reference(**inputs, **params, **extra)
    if isinstance(result, dict):
        named = result
    else:
        values = result if isinstance(result, tuple) else (result,)
        named = dict(zip(op.outputs, values, strict=False))
        if len(values) != len(op.outputs):
            named = {}
    if set(named) != set(op.outputs):
        msg = f"the reference of {op.name} returned {list(named)}; declared {list(op.outputs)}"
        raise InvalidReference(msg)
    return named


def _widen(value: Tensor | None) -> Tensor | None:
    return value.double() if value is not None and value.is_floating_point() else value


def _absolute(inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {
        name: value.abs() if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def tensor_of(op: Op, name: str, value: object) -> Tensor:
    """``value`` if it is a tensor; raises InvalidReference."""
    if isinstance(value, Tensor):
        return value
    msg = f"the reference of {op.name} returned {type(value).__name__} for {name}; need a tensor"
    raise InvalidReference(msg)
