"""What a wrapper with a silent fallback returns: the right values, by no kernel at all."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness import registry
from harness.budget import Expected
from harness.reference import output_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.declare import Op


def eager(op: str, arguments: Mapping[str, object]) -> Tensor | tuple[Tensor, ...]:
    """The declared reference of ``op``, rounded to what a kernel of it would return.

    ``arguments`` are those of the public function, by name. Raises UnknownName for an op that is
    not declared.
    """
    declared = registry.op(op)
    dtype = _dtype(declared, arguments)
    params = {name: arguments[name] for name in declared.params}
    wide = {name: _widen(arguments[name]) for name in declared.inputs}
    wants = "dtype" in inspect.signature(declared.reference).parameters
    extra = {"dtype": dtype} if wants and "dtype" not in params else {}
    result = declared.reference(**wide, **params, **extra)
    values = list(result.values()) if isinstance(result, dict) else [result]
    rounded = tuple(
        _value(value).to(output_dtype(spec, dtype, params)).contiguous()
        for value, spec in zip(values, declared.outputs.values(), strict=True)
    )
    return rounded if len(rounded) > 1 else rounded[0]


def _dtype(op: Op, arguments: Mapping[str, object]) -> torch.dtype:
    """The dtype of the inputs whose dtype is the case's."""
    for name, spec in op.inputs.items():
        value = arguments[name]
        if spec.dtype is None and isinstance(value, Tensor):
            return value.dtype
    msg = f"op={op.name!r} has no input of the case's dtype; a fallback cannot tell it"
    raise ValueError(msg)


def _widen(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _value(value: object) -> Tensor:
    found = value.value if isinstance(value, Expected) else value
    return torch.as_tensor(found)
