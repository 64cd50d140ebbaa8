"""``tl.reduce`` and ``tl.associative_scan`` over whole blocks, with the rounding of every step.

Imports triton: only `harness.emulation` imports this, when it is first used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["associative_scan", "reduce"]

_Arrays = list[Any]


def reduce(  # the names of the arguments are Triton's
    input: Any,  # noqa: A002
    axis: Any,
    combine_fn: Any,
    keep_dims: Any = False,
    **_: Any,
) -> Any:
    """``tl.reduce``: neighbours are combined in a tree, as they are between the lanes of a warp."""
    blocks = _blocks(input)
    axis = _unwrap(axis)
    data = [block.handle.data for block in blocks]
    if axis is None:
        kept: tuple[int, ...] = (1,) * data[0].ndim
        data, axis = [array.reshape(-1) for array in data], 0
    else:
        axis %= data[0].ndim
        kept = (*data[0].shape[:axis], 1, *data[0].shape[axis + 1 :])
    reduced = _at_once(data, blocks, axis, combine_fn)
    if reduced is None:
        reduced = _tree(data, blocks, axis, combine_fn)
    shape = kept if _unwrap(keep_dims) else reduced[0].shape
    results = [
        _tensor(array.reshape(shape), block.dtype)
        for array, block in zip(reduced, blocks, strict=True)
    ]
    return tuple(results) if isinstance(input, tuple | tl.tuple) else results[0]


def associative_scan(
    input: Any,  # noqa: A002
    axis: Any,
    combine_fn: Any,
    reverse: Any = False,
    **_: Any,
) -> Any:
    """``tl.associative_scan``: one element after another along the axis."""
    blocks = _blocks(input)
    axis = _unwrap(axis) % blocks[0].handle.data.ndim
    data = [np.moveaxis(block.handle.data, axis, 0) for block in blocks]
    if _unwrap(reverse):
        data = [array[::-1] for array in data]
    steps = [[array[:1] for array in data]]
    for index in range(1, data[0].shape[0]):
        here = [array[index : index + 1] for array in data]
        steps.append(_combine(steps[-1], here, blocks, combine_fn))
    scanned = [np.concatenate([step[i] for step in steps]) for i in range(len(blocks))]
    if _unwrap(reverse):
        scanned = [array[::-1] for array in scanned]
    results = [
        _tensor(np.ascontiguousarray(np.moveaxis(array, 0, axis)), block.dtype)
        for array, block in zip(scanned, blocks, strict=True)
    ]
    return tuple(results) if isinstance(input, tuple | tl.tuple) else results[0]


def _at_once(data: _Arrays, blocks: _Arrays, axis: int, combine_fn: Any) -> _Arrays | None:
    """Use NumPy's own reduction where it rounds no differently from a tree."""
    array, dtype = data[0], blocks[0].dtype
    if combine_fn is tl.standard._sum_combine and (
        dtype.is_int() or dtype.is_fp32() or dtype.is_fp64()
    ):
        return [np.sum(array, axis=axis, dtype=array.dtype)]
    floating = array.dtype.kind == "f"
    if combine_fn is tl.standard._elementwise_max and not dtype.is_bf16():
        return [(np.fmax if floating else np.maximum).reduce(array, axis=axis)]
    if combine_fn is tl.standard._elementwise_min and not dtype.is_bf16():
        return [(np.fmin if floating else np.minimum).reduce(array, axis=axis)]
    return None


def _tree(data: _Arrays, blocks: _Arrays, axis: int, combine_fn: Any) -> _Arrays:
    data = [np.moveaxis(array, axis, 0) for array in data]
    while data[0].shape[0] > 1:  # a power of two, as every extent of a block
        data = _combine([a[0::2] for a in data], [a[1::2] for a in data], blocks, combine_fn)
    return [array[0] for array in data]


def _combine(left: _Arrays, right: _Arrays, blocks: _Arrays, combine_fn: Any) -> _Arrays:
    operands = [
        tl.core.tensor(
            interpreter.TensorHandle(array, block.dtype),
            tl.block_type(block.dtype, list(array.shape)),
        )
        for side in (left, right)
        for array, block in zip(side, blocks, strict=True)
    ]
    combined = combine_fn(*operands)
    combined = combined if isinstance(combined, tuple | tl.tuple) else (combined,)
    return [
        np.broadcast_to(result.handle.data, array.shape).astype(array.dtype, copy=False)
        for result, array in zip(combined, left, strict=True)
    ]


def _blocks(operands: Any) -> _Arrays:
    return list(operands) if isinstance(operands, tuple | tl.tuple) else [operands]


def _unwrap(value: Any) -> Any:
    return value.value if isinstance(value, tl.constexpr) else value


def _tensor(array: Any, dtype: Any) -> Any:
    shape = array.shape
    handle = interpreter.TensorHandle(array.reshape(shape or (1,)), dtype.scalar)
    return tl.core.tensor(handle, tl.block_type(dtype, list(shape)) if shape else dtype)
