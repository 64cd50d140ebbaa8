"""The libdevice functions that kernels commonly call, at least as accurate as on a GPU.

float32 functions are computed in float64 and rounded once, so their results are the nearest float32
but for rare cases; what a GPU returns may differ from them by the error that the CUDA programming
guide gives for each function.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.emulated_formats import exact_fma, to_integer

__all__ = ["find", "fma"]

Array = np.ndarray[Any, Any]
Function = Callable[..., Array]


def find(symbol: str) -> Function | None:
    """Return the function behind a libdevice symbol such as ``__nv_erff``; None if it is missing.

    It takes arrays of the symbol's argument types. The array it returns may be of a wider type than
    the symbol's result.
    """
    name = symbol.removeprefix("__nv_")
    if name in _EXACT:
        return _EXACT[name]
    if name in _FLOAT32_ALIASES:
        return _wide(_REAL[_FLOAT32_ALIASES[name]])
    if name.endswith("f") and name[:-1] in _REAL:
        return _wide(_REAL[name[:-1]])
    return _REAL.get(name)


def _wide(function: Function) -> Function:
    def narrowed(*arguments: Array) -> Array:
        return function(
            *(a.astype(np.float64) if a.dtype == np.float32 else a for a in arguments)
        ).astype(np.float32)

    return narrowed


def _each(function: Callable[..., float], domain_error: float = math.nan) -> Function:
    def safe(*arguments: float) -> float:
        try:
            return function(*arguments)
        except ValueError:
            return domain_error
        except OverflowError:
            return math.inf

    return np.vectorize(safe, otypes=[np.float64])


def _round_half_away(x: Array) -> Array:
    whole = np.trunc(x)
    half = 0.5
    return np.asarray(np.copysign(np.abs(whole) + (np.abs(x - whole) >= half), x))


def _remainder(x: Array, y: Array) -> Array:
    return _each(math.remainder)(x, y)


def _fdim(x: Array, y: Array) -> Array:
    return np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(x > y, x - y, 0.0))


def _sinpi(x: Array) -> Array:
    reduced = np.fmod(x, 2.0)
    return np.where(reduced == np.trunc(reduced), np.copysign(0.0, x), np.sin(np.pi * reduced))


def _cospi(x: Array) -> Array:
    reduced = np.abs(np.fmod(x, 2.0))
    return np.where(np.isin(reduced, (0.5, 1.5)), 0.0, np.cos(np.pi * reduced))


def _power(x: Array, y: Array) -> Array:
    return np.asarray(np.power(x, y.astype(np.float64)))


def _cube_root_reciprocal(x: Array) -> Array:
    return np.asarray(1.0 / np.cbrt(x))


def _norm(*components: Array) -> Array:
    return np.asarray(np.sqrt(functools.reduce(np.add, (c * c for c in components))))


def _reciprocal_norm(*components: Array) -> Array:
    return 1.0 / _norm(*components)


def _log_gamma(x: Array) -> Array:
    return _each(math.lgamma, domain_error=math.inf)(x)


def _fma64(x: Array, y: Array, z: Array) -> Array:
    fma = ctypes.CDLL(None).fma
    fma.restype, fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
    return np.asarray(np.vectorize(fma, otypes=[np.float64])(x, y, z))


def _fma32(x: Array, y: Array, z: Array) -> Array:
    return exact_fma(x, y, z).astype(np.float32)


def fma(x: Array, y: Array, z: Array) -> Array:
    """Return x * y + z of arrays of one floating-point type, rounded once, to float32 at least."""
    return _fma64(x, y, z) if z.dtype == np.float64 else _fma32(x, y, z)


def _ldexp(x: Array, exponent: Array) -> Array:
    return np.ldexp(x, exponent)


# Functions of reals: the float64 symbol has this name, the float32 symbol the same with an `f`.
_REAL: dict[str, Function] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "copysign": np.copysign,
    "cos": np.cos,
    "cosh": np.cosh,
    "cospi": _cospi,
    "erf": _each(math.erf),
    "erfc": _each(math.erfc),
    "exp": np.exp,
    "exp10": lambda x: np.power(10.0, x),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fabs": np.abs,
    "fdim": _fdim,
    "floor": np.floor,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "ldexp": _ldexp,
    "lgamma": _log_gamma,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "nearbyint": np.rint,
    "norm3d": _norm,
    "norm4d": _norm,
    "normcdf": lambda x: 0.5 * _each(math.erfc)(-x * math.sqrt(0.5)),
    "pow": np.power,
    "powi": _power,
    "rcbrt": _cube_root_reciprocal,
    "remainder": _remainder,
    "rhypot": _reciprocal_norm,
    "rint": np.rint,
    "rnorm3d": _reciprocal_norm,
    "rnorm4d": _reciprocal_norm,
    "round": _round_half_away,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "scalbn": _ldexp,
    "sin": np.sin,
    "sinh": np.sinh,
    "sinpi": _sinpi,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "tgamma": _each(math.gamma),
    "trunc": np.trunc,
}

# float32 symbols of other spellings. A GPU approximates the fast ones; these are more accurate.
_FLOAT32_ALIASES = {
    "fast_cosf": "cos",
    "fast_exp10f": "exp10",
    "fast_expf": "exp",
    "fast_log10f": "log10",
    "fast_log2f": "log2",
    "fast_logf": "log",
    "fast_powf": "pow",
    "fast_sinf": "sin",
    "fast_tanf": "tan",
    "frsqrt_rn": "rsqrt",
    "fsqrt_rn": "sqrt",
}


def _population(x: Array) -> Array:
    return np.asarray(np.bitwise_count(x.view(f"uint{8 * x.itemsize}")), dtype=np.int32)


def _leading_zeros(x: Array) -> Array:
    bits = 8 * x.itemsize
    unsigned = x.view(f"uint{bits}")
    return np.asarray(sum(((unsigned >> n) == 0).astype(np.int32) for n in range(bits)))


def _first_set(x: Array) -> Array:
    lowest = x & -x
    return np.where(x == 0, 0, 8 * x.itemsize - _leading_zeros(lowest)).astype(np.int32)


def _high_product(x: Array, y: Array) -> Array:
    wide = np.dtype(f"{x.dtype.kind}8")
    return np.asarray((x.astype(wide) * y.astype(wide)) >> 32, dtype=x.dtype)


def _saturate(x: Array) -> Array:
    return np.where(np.isnan(x), np.float32(0), np.clip(x, np.float32(0), np.float32(1)))


def _bits_as(dtype: str) -> Function:
    return lambda x: x.view(dtype)


def _cast(dtype: str) -> Function:
    return lambda x: x.astype(dtype)


def _to_integer_by(rounded: Function, dtype: str) -> Function:
    return lambda x: to_integer(rounded(x), np.dtype(dtype))


_EXACT: dict[str, Function] = {
    # Correctly rounded by IEEE 754, which NumPy's operations are.
    **{f"{prefix}add_rn": np.add for prefix in "fd"},
    **{f"{prefix}sub_rn": np.subtract for prefix in "fd"},
    **{f"{prefix}mul_rn": np.multiply for prefix in "fd"},
    **{f"{prefix}div_rn": np.divide for prefix in "fd"},
    **{f"{prefix}rcp_rn": np.reciprocal for prefix in "fd"},
    "fast_fdividef": np.divide,
    "dsqrt_rn": np.sqrt,
    "fma": _fma64,
    "fma_rn": _fma64,
    "fmaf": _fma32,
    "fmaf_rn": _fma32,
    "saturatef": _saturate,
    # Predicates, which libdevice returns as integers.
    "isnanf": np.isnan,
    "isnand": np.isnan,
    "isinff": np.isinf,
    "isinfd": np.isinf,
    "finitef": np.isfinite,
    "isfinited": np.isfinite,
    "signbitf": np.signbit,
    "signbitd": np.signbit,
    # Integers.
    "abs": np.abs,
    "llabs": np.abs,
    "clz": _leading_zeros,
    "clzll": _leading_zeros,
    "ffs": _first_set,
    "ffsll": _first_set,
    "popc": _population,
    "popcll": _population,
    "mulhi": _high_product,
    "umulhi": _high_product,
    # Conversions.
    "float_as_int": _bits_as("int32"),
    "float_as_uint": _bits_as("uint32"),
    "int_as_float": _bits_as("float32"),
    "uint_as_float": _bits_as("float32"),
    "double_as_longlong": _bits_as("int64"),
    "longlong_as_double": _bits_as("float64"),
    "double2float_rn": _cast("float32"),
    **{f"{source}2float_rn": _cast("float32") for source in ("int", "uint", "ll", "ull")},
    **{f"{source}2double_rn": _cast("float64") for source in ("int", "uint", "ll", "ull")},
    **{
        f"{source}2{target}_{mode}": _to_integer_by(rounded, dtype)
        for source in ("float", "double")
        for target, dtype in (
            ("int", "int32"),
            ("uint", "uint32"),
            ("ll", "int64"),
            ("ull", "uint64"),
        )
        for mode, rounded in (("rn", np.rint), ("rz", np.trunc), ("rd", np.floor), ("ru", np.ceil))
    },
    **{f"llrint{suffix}": _to_integer_by(np.rint, "int64") for suffix in ("", "f")},
    **{f"llround{suffix}": _to_integer_by(_round_half_away, "int64") for suffix in ("", "f")},
}
