"""The reference in lower precision: what plain arithmetic of a dtype makes of a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.budget import Expected
from harness.reference import call, dtype_of, output_dtype, tensor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.case import Case
    from harness.declare import Op


class RoundedAtEveryStep(TorchFunctionMode):
    """Float64 results of all that torch computes in the scope are rounded to a dtype, kept wide."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (tuple, list)):
            return type(result)(self._rounded(part) for part in result)
        return self._rounded(result)

    def _rounded(self, value: object) -> object:
        if isinstance(value, Tensor) and value.dtype is torch.float64:
            return value.to(self._dtype).double()
        return value


def outputs_in(
    arithmetic: torch.dtype, op: Op, case: Case, inputs: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """The outputs by the reference in ``arithmetic``, rounded to their dtypes.

    Float32 is the reference called with float32 tensors; what it computes in float64 all the same
    is rounded at every step, as is all of it in a lower precision.
    """
    dtype, params = dtype_of(case.dtype), op.param_values(dict(case.params))
    with RoundedAtEveryStep(arithmetic):
        raw = _in_float32(op, inputs, params, dtype) if arithmetic is torch.float32 else None
        if raw is None:
            raw = call(op, _floats_as(torch.float64, inputs), params, dtype)
    found = {}
    for name, spec in op.outputs.items():
        part = raw[name]
        value = tensor_of(op, name, part.value if isinstance(part, Expected) else part)
        found[name] = value.to(output_dtype(spec, dtype, params))
    return found


def _in_float32(
    op: Op,
    inputs: Mapping[str, Tensor | None],
    params: Mapping[str, object],
    dtype: torch.dtype,
) -> dict[str, object] | None:
    try:
        return call(op, _floats_as(torch.float32, inputs), params, dtype)
    except (RuntimeError, TypeError, ValueError):  # it takes nothing but float64
        return None


def _floats_as(dtype: torch.dtype, inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {
        name: value.to(dtype) if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }
