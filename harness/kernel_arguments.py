"""What a CUDA kernel is launched with is what it declares: a wrong argument never gets there."""

from __future__ import annotations

import ctypes
import math
import operator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = ["ANY", "Kind", "check_kind", "convert", "extents", "tensors"]

Kind = str | type[Any]
"""``"float16"``: a pointer to a tensor of that dtype; ``"tensor"``: of any; with ``?`` or None.
A type of ctypes: a scalar of that width."""

ANY: Final = "tensor"
_INTEGERS: Final = (
    *(ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64),
    *(ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64),
)
_FLOATS: Final = (ctypes.c_float, ctypes.c_double)
_GRID: Final = (2**31 - 1, 65535, 65535)
_BLOCK: Final = (1024, 1024, 64)
_THREADS: Final = 1024
_CLUSTER: Final = (8, 8, 8)  # and 8 together: what every arch with clusters launches


def check_kind(name: str, kind: Kind) -> None:
    """Raise TypeError if ``kind`` is no kind of parameter."""
    if isinstance(kind, str) or kind in (*_INTEGERS, *_FLOATS, ctypes.c_bool):
        return
    msg = (
        f"parameter {name!r} is declared as {kind!r}; use a dtype's name such as 'float16', "
        f"{ANY!r}, or a type of ctypes such as c_int32 or c_float"
    )
    raise TypeError(msg)


def convert(kernel: str, name: str, kind: Kind, value: object) -> Any:
    """What the launch passes for ``value``: the tensor itself, None, or an instance of ``kind``.

    Raises TypeError for a value of another type or dtype and ValueError for one that does not fit.
    """
    if isinstance(kind, str):
        _check_tensor(kernel, name, kind, value)
        return value
    wanted = bool if kind is ctypes.c_bool else int if kind in _INTEGERS else (int, float)
    # A bool is an int to Python, and never what a size or a stride should be.
    if not isinstance(value, wanted) or (kind is not ctypes.c_bool and isinstance(value, bool)):
        msg = f"{kernel}: {name}={value!r} is a {type(value).__name__}; pass a {kind.__name__}"
        raise TypeError(msg)
    made = kind(value)
    if kind in _INTEGERS and made.value != value:
        msg = f"{kernel}: {name}={value!r} does not fit into {kind.__name__}; declare a wider one"
        raise ValueError(msg)
    return made


def _check_tensor(kernel: str, name: str, kind: str, value: object) -> None:
    import torch

    wanted, optional = kind.removesuffix("?"), kind.endswith("?")
    if value is None and optional:
        return
    if not isinstance(value, torch.Tensor):
        said = f"is a {type(value).__name__}; pass a tensor{' or None' if optional else ''}"
        msg = f"{kernel}: {name}={value!r} {said}"
        raise TypeError(msg)
    dtype = str(value.dtype).removeprefix("torch.")
    if wanted not in (ANY, dtype):
        msg = f"{kernel}: {name}.dtype={dtype!r}; the kernel reads {wanted}; convert {name}"
        raise TypeError(msg)


def tensors(values: Sequence[object]) -> list[Tensor]:
    """The tensors among the values of a launch."""
    import torch

    return [value for value in values if isinstance(value, torch.Tensor)]


def extents(
    kernel: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    cluster: int | Sequence[int] | None = None,
) -> Mapping[str, tuple[int, ...]]:
    """Grid, block and cluster (one block if None) as tuples.

    Raises TypeError or ValueError for what no device launches.
    """
    made = {"grid": _extent(kernel, "grid", grid, _GRID)}
    made["block"] = _extent(kernel, "block", block, _BLOCK)
    if math.prod(made["block"]) > _THREADS:
        msg = f"{kernel}: block={block!r} has more than {_THREADS} threads; use a smaller one"
        raise ValueError(msg)
    made["cluster"] = _extent(kernel, "cluster", 1 if cluster is None else cluster, _CLUSTER)
    blocks = math.prod(made["cluster"])
    divides = all(g % c == 0 for g, c in zip_longest(made["grid"], made["cluster"], fillvalue=1))
    if blocks > _CLUSTER[0] or not divides:
        msg = (
            f"{kernel}: cluster={cluster!r} has {blocks} blocks, of grid={grid!r}; "
            f"use at most {_CLUSTER[0]} that divide the grid, extent by extent"
        )
        raise ValueError(msg)
    return made


def _extent(
    kernel: str, what: str, value: int | Sequence[int], limits: tuple[int, ...]
) -> tuple[int, ...]:
    try:
        made = tuple(map(operator.index, (value,) if isinstance(value, int) else value))
    except TypeError as error:
        msg = f"{kernel}: {what}={value!r} is not 1 to 3 integers"
        raise TypeError(msg) from error
    fits = all(1 <= each <= limit for each, limit in zip(made, limits, strict=False))
    if not 1 <= len(made) <= len(limits) or not fits:
        msg = (
            f"{kernel}: {what}={value!r}; each of 1 to 3 extents is at least 1 and at most "
            f"{', '.join(map(str, limits))}; launch nothing where there is nothing to do"
        )
        raise ValueError(msg)
    return made
