"""Checks of a kernel's arguments: a refusal names the argument, its value, the bound, the way out.

All but `require_finite` read metadata only, so a kernel and its fake run the same checks and refuse
the same calls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def require_tensors(**tensors: object) -> None:
    """Raise TypeError for a value that is not a tensor, ValueError for one without data.

    For public functions only: a fake may well be given a meta tensor.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            msg = f"{name}={value!r} is a {type(value).__name__}; pass a torch.Tensor"
            raise TypeError(msg)
        if value.device.type == "meta":
            msg = f"{name} is on device 'meta', where nothing computes; move it with .cuda()"
            raise ValueError(msg)


def require_dtype(name: str, value: Tensor, allowed: Collection[torch.dtype]) -> None:
    """Raise TypeError unless the tensor has one of the ``allowed`` dtypes."""
    if value.dtype not in allowed:
        names = " or ".join(str(dtype) for dtype in allowed)
        msg = f"{name}.dtype={value.dtype} is not supported; convert {name} to {names}"
        raise TypeError(msg)


def require_shape(name: str, value: Tensor, axes: Sequence[str], **sizes: int) -> None:
    """Raise ValueError unless the tensor is dense storage of one size an axis.

    ``axes`` name the dimensions; ``sizes`` are those that are already fixed by other arguments.
    """
    if value.layout is not torch.strided:
        msg = f"{name}.layout={value.layout} is not strided; pass {name}.to_dense()"
        raise ValueError(msg)
    wanted = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
    if value.dim() != len(axes):
        msg = f"{name} has shape {_shape(value)}, of rank {value.dim()}; reshape it to [{wanted}]"
        raise ValueError(msg)
    for dim, axis in enumerate(axes):
        if axis in sizes and value.shape[dim] != sizes[axis]:
            msg = f"{name} has shape {_shape(value)}; the other tensors need [{wanted}]"
            raise ValueError(msg)


def require_contiguous(name: str, value: Tensor) -> None:
    """Raise ValueError unless the tensor is contiguous."""
    if not value.is_contiguous():
        msg = (
            f"{name} has strides {list(value.stride())}; this backend reads it as it lies in "
            f"memory: pass {name}.contiguous()"
        )
        raise ValueError(msg)


def require_aligned(name: str, value: Tensor, alignment: int) -> None:
    """Raise ValueError unless the tensor begins at a multiple of ``alignment`` bytes.

    Counted from the begin of its storage: a fake has no address. See `require_addresses`.
    """
    if value.storage_offset() * value.element_size() % alignment:
        msg = (
            f"{name} begins {value.storage_offset()} elements into its storage, which is not a "
            f"multiple of {alignment} bytes; pass {name}.clone()"
        )
        raise ValueError(msg)


def require_addresses(alignment: int, **tensors: Tensor | None) -> None:
    """Raise ValueError unless each tensor that is given lies at a multiple of ``alignment`` bytes.

    For real tensors only, whose storage may begin anywhere if another library made it.
    """
    for name, value in tensors.items():
        if value is not None and value.data_ptr() % alignment:
            msg = (
                f"{name} lies at address {value.data_ptr():#x}, which is not a multiple of "
                f"{alignment} bytes; pass {name}.clone()"
            )
            raise ValueError(msg)


def require_size(
    axis: str,
    value: int,
    *,
    min: int = 0,  # noqa: A002 - the words of a domain
    max: int,  # noqa: A002
    multiple_of: int = 1,
) -> None:
    """Raise ValueError unless ``min <= value <= max`` and ``value % multiple_of == 0``."""
    if value < min or value > max:
        msg = f"{axis}={value} is outside {min}..{max}; split or pad the tensors along {axis}"
        raise ValueError(msg)
    if value % multiple_of != 0:
        msg = f"{axis}={value} is not a multiple of {multiple_of}; pad the tensors along {axis}"
        raise ValueError(msg)


def require_one_device(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors that are given live on the device of the first."""
    given = {name: value for name, value in tensors.items() if value is not None}
    first, *others = given
    for name in others:
        if given[name].device != given[first].device:
            msg = (
                f"{name} is on device {str(given[name].device)!r} and {first} on "
                f"{str(given[first].device)!r}; move {name} with .to({first}.device)"
            )
            raise ValueError(msg)


def require_finite(name: str, value: Tensor) -> None:
    """Raise ValueError unless every element is finite; for what prepares a state, as it waits."""
    if count := int((~value.detach().isfinite()).sum()):
        msg = f"{name} has {count} elements that are not finite; it may have none"
        raise ValueError(msg)


def require_number(name: str, value: object) -> None:
    """Raise TypeError for what is no real number, ValueError for NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        msg = f"{name}={value!r} is a {type(value).__name__}; pass a float"
        raise TypeError(msg)
    if not -math.inf < value < math.inf:
        msg = f"{name}={value!r} is not finite; pass a finite float"
        raise ValueError(msg)


def require_positive(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is a finite number above zero."""
    require_number(name, value)
    if not value > 0:  # type: ignore[operator]
        msg = f"{name}={value!r} is not positive; pass a float above 0, e.g. 1e-6"
        raise ValueError(msg)


def require_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a bool."""
    if not isinstance(value, bool):
        msg = f"{name}={value!r} is a {type(value).__name__}; pass True or False"
        raise TypeError(msg)


def require_config(value: object, known: Collection[str]) -> None:
    """Raise unless ``value`` is None (the kernel's own choice) or one of the ``known`` names."""
    if value is not None and not isinstance(value, str):
        msg = f"config={value!r} is a {type(value).__name__}; pass a name or None"
        raise TypeError(msg)
    if value is not None and value not in known:
        msg = f"config={value!r} is unknown; use None or one of {', '.join(known)}"
        raise ValueError(msg)


def _shape(value: Tensor) -> list[int]:
    return list(value.shape)
