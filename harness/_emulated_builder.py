"""The operations of Triton's interpreter that differ from a GPU's, as a GPU does them.

Imports triton: only `harness.emulation` imports this, when it is first used.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from harness import emulated_libdevice
from harness.emulated_formats import (
    FORMATS,
    Array,
    Rounding,
    decode,
    encode,
    exact_fma,
    to_integer,
    truncate_to_tf32,
)

__all__ = ["METHODS", "MODULE_FUNCTIONS", "Unsupported"]

_ir = interpreter._ir
_Handle = interpreter.TensorHandle
_NO_CONVERSION = ("fp8e4b15", "fp8e4b8", "fp8e5b16")


_native_storage_of = interpreter._get_np_dtype
_storages: dict[str, np.dtype[Any]] = {}


def _storage_of(dtype: Any) -> np.dtype[Any]:
    """As the interpreter's own, which builds its table anew at each of very many calls."""
    scalar = dtype.scalar
    if scalar.name not in _storages:
        _storages[scalar.name] = _native_storage_of(scalar)
    return _storages[scalar.name]


class Unsupported(Exception):
    """What an operation cannot imitate; the launch adds the kernel's name."""


def values(handle: Any) -> Array:
    """The values of a block as NumPy can compute with them; bfloat16 and fp8 as float32."""
    name = handle.dtype.scalar.name
    if name in _NO_CONVERSION:
        msg = f"{name} is not a format of the emulated GPUs; use fp8e4nv or fp8e5"
        raise Unsupported(msg)
    data: Array = handle.data
    return decode(data, name) if name in FORMATS and data.dtype.kind == "u" else data


def block(data: Array, dtype: Any, rounding: Rounding = "rn") -> Any:
    """Round floating-point values to ``dtype``, and hold them as the interpreter does."""
    scalar = dtype.scalar
    if scalar.name in _NO_CONVERSION:
        msg = f"{scalar.name} is not a format of the emulated GPUs; use fp8e4nv or fp8e5"
        raise Unsupported(msg)
    storage = _storage_of(scalar)
    if scalar.name in FORMATS and data.dtype.kind == "f" and data.dtype != storage:
        data = encode(data, scalar.name, rounding).view(storage)
    return _Handle(data.astype(storage, copy=False), scalar)


def _operand(handle: Any) -> Array:
    """The values of an operand of arithmetic."""
    if handle.dtype.scalar.is_fp8():
        msg = f"arithmetic in {handle.dtype.scalar.name}; convert to a wider format first"
        raise Unsupported(msg)
    return values(handle)


def _result(output: Array, dtype: Any) -> Any:
    # Comparisons stay booleans, whatever type the interpreter says that they have.
    return _Handle(output, dtype.scalar) if output.dtype == np.bool_ else block(output, dtype)


def _binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
    if lhs.dtype.scalar.is_ptr():
        return _Handle(op(lhs.data, rhs.data), lhs.dtype.scalar)
    x, y = _operand(lhs), _operand(rhs)
    if x.dtype == np.bool_ and y.dtype == np.bool_:  # int1 is an integer that wraps around
        return _Handle(
            (op(x.astype(np.int8), y.astype(np.int8)) & 1).astype(np.bool_), lhs.dtype.scalar
        )
    return _result(op(x, y), lhs.dtype)


def _unary_op(self: Any, arg: Any, op: Any) -> Any:
    return _result(op(_operand(arg)), arg.dtype)


def _ternary_op(self: Any, lhs: Any, rhs: Any, other: Any, op: Any) -> Any:
    if op is np.where:  # moves bits
        return _Handle(np.where(lhs.data, rhs.data, other.data), other.dtype.scalar)
    return _result(op(_operand(lhs), _operand(rhs), _operand(other)), other.dtype)


def _fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    operands = np.broadcast_arrays(_operand(x), _operand(y), _operand(z))
    if z.dtype.scalar.is_fp64():
        return _Handle(emulated_libdevice.fma(*operands), z.dtype.scalar)
    return block(exact_fma(*operands), z.dtype)


def _clamp(self: Any, arg: Any, low: Any, high: Any, propagate_nan: Any) -> Any:
    if propagate_nan == _ir.PROPAGATE_NAN.NONE:
        return self.binary_op(self.binary_op(arg, low, np.fmax), high, np.fmin)
    return self.ternary_op(arg, low, high, np.clip)


def _arithmetic_shift(self: Any, lhs: Any, rhs: Any) -> Any:
    signed = (
        lhs.data.view(f"int{8 * lhs.data.itemsize}") if lhs.data.dtype != np.bool_ else lhs.data
    )
    return _Handle(np.right_shift(signed, rhs.data.astype(signed.dtype)), lhs.dtype.scalar)


def _high_product(self: Any, lhs: Any, rhs: Any) -> Any:
    bits = 8 * lhs.data.itemsize
    x, y = (handle.data.view(f"uint{bits}").astype(object) for handle in (lhs, rhs))
    high = np.asarray((x * y) >> bits, dtype=f"uint{bits}")
    return _Handle(high.view(lhs.data.dtype), lhs.dtype.scalar)


def _convert(src: Any, dst_type: Any, rounding: Rounding = "rn") -> Any:
    """Convert between any two of integers and floating-point formats, with one rounding."""
    target = dst_type.scalar
    data = values(src)
    if target.is_floating():
        wide = data.astype(np.float64) if data.dtype.kind != "f" else data
        if rounding == "rz" and target.is_fp32():
            return _Handle(_toward_zero(wide), target)
        return block(wide, target, rounding)
    storage = _storage_of(target)
    return _Handle(
        to_integer(data, storage) if data.dtype.kind == "f" else data.astype(storage), target
    )


def _toward_zero(wide: Array) -> Array:
    nearest = wide.astype(np.float32)
    too_far = np.abs(nearest) > np.abs(wide)
    return np.where(too_far & np.isfinite(wide), np.nextafter(nearest, np.float32(0)), nearest)


def _cast(self: Any, src: Any, dst_type: Any) -> Any:
    return _convert(src, dst_type)


def _fp_to_fp(self: Any, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
    return _convert(src, dst_type, "rz" if rounding_mode == _ir.ROUNDING_MODE.RTZ else "rn")


def _get_bfloat16(self: Any, value: float) -> Any:
    return block(np.array([value], dtype=np.float32), tl.bfloat16)


def _all_ones(self: Any, type: Any) -> Any:  # noqa: A002  - the interpreter's name
    storage = _storage_of(type)
    if storage.kind not in "iub":
        msg = f"type={type!r} has no value of all ones; use an integer type"
        raise TypeError(msg)
    return _Handle(~np.zeros(1, dtype=storage), type.scalar)


def _dot(
    self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any
) -> Any:
    x, y = values(a), values(b)
    if d.dtype.scalar.is_int():
        # Sums of products of bytes are exact in float64, where NumPy has a fast product.
        product = np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(d.data.dtype)
        return _Handle(product + d.data, d.dtype.scalar)
    if a.dtype.scalar.is_fp32() and input_precision == _ir.INPUT_PRECISION.TF32:
        x, y = truncate_to_tf32(x), truncate_to_tf32(y)
    if d.dtype.scalar.is_fp16():
        return _Handle(_dot_in_float16(x, y, d.data), d.dtype.scalar)
    return _Handle(np.matmul(x, y, dtype=d.data.dtype) + d.data, d.dtype.scalar)


_MMA_DEPTH: Final = 16  # products that one matrix instruction of 16-bit operands sums


def _dot_in_float16(x: Array, y: Array, total: Array) -> Array:
    """A float16 accumulator is rounded after every matrix instruction."""
    for start in range(0, x.shape[-1], _MMA_DEPTH):
        stop = start + _MMA_DEPTH
        product = np.matmul(x[..., start:stop], y[..., start:stop, :], dtype=np.float32)
        total = (product + total.astype(np.float32)).astype(np.float16)
    return total


def _scaled_operand(handle: Any) -> Array:
    """The values of an operand of ``tl.dot_scaled``; e2m1 arrives as bytes."""
    if handle.dtype.scalar == tl.uint8:
        return np.asarray(_e2m1_to_float32(handle.data))
    return values(handle).astype(np.float32)


def _scale_to_float32(handle: Any, compute_type: Any) -> Array:
    """e4m3 scales are numbers; bytes are e8m0, powers of two with 255 for NaN."""
    if handle.dtype.scalar.is_fp8():
        return values(handle)
    return np.asarray(_scale_of_bytes(handle, compute_type))


_e2m1_to_float32: Any = getattr(interpreter, "_e2m1_to_f32", None)
_scale_of_bytes: Any = getattr(interpreter, "_dot_scaled_scale_to_f32", None)


_ATOMIC_ADD: Final = (_ir.ATOMIC_OP.FADD,)


def _atomic_rmw(self: Any, rmw_op: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any) -> Any:
    if not val.dtype.scalar.is_bf16():
        return _native_atomic_rmw(self, rmw_op, ptr, val, mask, sem, scope)
    if rmw_op not in _ATOMIC_ADD and rmw_op != _ir.ATOMIC_OP.XCHG:
        msg = f"atomic {rmw_op} in bf16; a GPU adds and exchanges only"
        raise Unsupported(msg)
    before = np.zeros(ptr.data.shape, dtype=np.uint16)
    pointers, addends, active = (np.broadcast_to(h.data, before.shape) for h in (ptr, val, mask))
    one = _Handle(np.ones(1, dtype=np.bool_), tl.int1)
    for index in zip(*np.nonzero(active), strict=True):  # in order: two lanes may have one address
        where = _Handle(pointers[index].reshape(1), ptr.dtype)
        old = interpreter._interpreter.load(
            where.data, one.data, np.zeros(1, np.uint16), np.dtype(np.uint16)
        )
        before[index] = old[0]
        addend = _Handle(addends[index].reshape(1), val.dtype)
        new = (
            addend
            if rmw_op not in _ATOMIC_ADD
            else self.create_fadd(_Handle(old, val.dtype), addend)
        )
        interpreter._interpreter.store(where.data, new.data, one.data)
    return _Handle(before, val.dtype.scalar)


_native_atomic_rmw = interpreter.InterpreterBuilder.create_atomic_rmw


def _extern_elementwise(
    self: Any, name: str, path: str, symbol: str, arguments: list[Any], result: Any, is_pure: bool
) -> Any:
    function = emulated_libdevice.find(symbol)
    if function is None or path:
        msg = f"it calls {symbol}{f' of {path}' if path else ''}, which has no counterpart here"
        raise Unsupported(msg)
    output = np.asarray(function(*(values(argument) for argument in arguments)))
    return block(output.astype(_storage_of(result.scalar)), result)


# Programs run one after another here, so a kernel never waits for the one before it.
_NO_EFFECT = re.compile(r"\s*griddepcontrol\.(wait|launch_dependents)\b")


def _inline_asm(
    self: Any,
    asm: str,
    constraints: str,
    operands: list[Any],
    types: list[Any],
    is_pure: bool,
    pack: int,
) -> Any:
    if not _NO_EFFECT.match(asm):
        msg = f"it contains inline PTX: {' '.join(asm.split())[:80]!r}"
        raise Unsupported(msg)
    results = [_Handle(np.zeros(1, dtype=_storage_of(t)), t.scalar) for t in types]
    return SimpleNamespace(get_result=results.__getitem__)


METHODS: dict[str, Any] = {
    "binary_op": _binary_op,
    "unary_op": _unary_op,
    "ternary_op": _ternary_op,
    "cast_impl": _cast,
    "create_fp_to_fp": _fp_to_fp,
    "create_fma": _fma,
    "create_clampf": _clamp,
    "create_minnumf": lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin),
    "create_maxnumf": lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax),
    "create_fneg": lambda self, arg: self.unary_op(arg, np.negative),
    "create_ashr": _arithmetic_shift,
    "create_umulhi": _high_product,
    "create_dot": _dot,
    "create_atomic_rmw": _atomic_rmw,
    "create_extern_elementwise": _extern_elementwise,
    "create_inline_asm": _inline_asm,
    "create_grid_dependency_wait": lambda _: None,
    "create_grid_dependency_launch_dependents": lambda _: None,
    "get_bf16": _get_bfloat16,
    "get_all_ones_value": _all_ones,
}
"""Methods of ``InterpreterBuilder``."""

MODULE_FUNCTIONS: dict[str, Any] = {
    "_get_np_dtype": _storage_of,
    "_mxfp_value_handle_to_float32": _scaled_operand,
    "_dot_scaled_scale_to_f32": _scale_to_float32,
}
"""Functions of ``triton.runtime.interpreter``, where that has them (triton 3.8 and later)."""
