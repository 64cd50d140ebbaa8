"""Small floating-point formats are decoded exactly, and encoded with one rounding, as GPUs do.

Pure NumPy, on arrays of bit patterns. The rounding modes are those of PTX: ``rn`` (nearest, ties to
even) and ``rz`` (toward zero). A NaN becomes the format's canonical NaN, as ``cvt`` makes it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "FORMATS",
    "Format",
    "Rounding",
    "decode",
    "encode",
    "exact_fma",
    "to_integer",
    "truncate_to_tf32",
]

Array = np.ndarray[Any, Any]
Rounding = Literal["rn", "rz"]


@dataclass(frozen=True)
class Format:
    """A binary format with subnormals.

    Without ``has_infinity``, the top exponent holds numbers. With ``saturates``, what is too large
    becomes the largest number, infinity included (``cvt.satfinite``, the only conversion to 8-bit
    formats that the hardware has).
    """

    bits: int
    mantissa: int
    bias: int
    has_infinity: bool
    saturates: bool
    nan: int

    @property
    def storage(self) -> np.dtype[Any]:
        """The unsigned NumPy type of the bit patterns."""
        return np.dtype(f"uint{self.bits}")

    @property
    def infinity(self) -> int:
        """The pattern after the largest number: infinity, where there is one."""
        return (
            self.nan if not self.has_infinity else ((1 << (self.bits - 1)) - (1 << self.mantissa))
        )


# PTX ISA, "alternate floating point data formats" and "cvt": NaN is made 0x7fff, in fp8 0x7f.
FORMATS = {
    "fp16": Format(bits=16, mantissa=10, bias=15, has_infinity=True, saturates=False, nan=0x7FFF),
    "bf16": Format(bits=16, mantissa=7, bias=127, has_infinity=True, saturates=False, nan=0x7FFF),
    "fp8e4nv": Format(bits=8, mantissa=3, bias=7, has_infinity=False, saturates=True, nan=0x7F),
    "fp8e5": Format(bits=8, mantissa=2, bias=15, has_infinity=True, saturates=True, nan=0x7F),
}


def decode(patterns: Array, name: str) -> Array:
    """Return the float32 values of bit patterns; exact for every format here."""
    if name == "bf16":
        wide: Array = (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    values: Array = _values(name)[patterns.view(FORMATS[name].storage)]
    return values


@functools.cache
def _values(name: str) -> Array:
    """Every value of a format, by bit pattern."""
    form = FORMATS[name]
    patterns = np.arange(1 << form.bits, dtype=np.int64)
    magnitude = patterns & ((1 << (form.bits - 1)) - 1)
    exponent = magnitude >> form.mantissa
    fraction = (magnitude & ((1 << form.mantissa) - 1)) + np.where(
        exponent > 0, 1 << form.mantissa, 0
    )
    values = np.ldexp(
        fraction.astype(np.float64), np.maximum(exponent, 1) - form.bias - form.mantissa
    )
    values[magnitude == form.infinity] = np.inf
    values[magnitude > form.infinity] = np.nan
    if not form.has_infinity:
        values[magnitude == form.nan] = np.nan
    values[patterns >= 1 << (form.bits - 1)] *= -1
    table: Array = values.astype(np.float32)
    table.setflags(write=False)
    return table


def encode(values: Array, name: str, rounding: Rounding = "rn") -> Array:
    """Round floating-point values of any width to a format, once; returns bit patterns."""
    if rounding == "rn" and name == "bf16" and values.dtype == np.float32:
        return _encode_bfloat16(values)
    form = FORMATS[name]
    exact = values.astype(np.float64)
    magnitude = np.abs(exact)
    _, exponent = np.frexp(magnitude)
    # The weight of the last place: that of the value's own binade, no smaller than a subnormal's.
    lowest = 1 - form.bias - form.mantissa
    place = np.where(magnitude == 0, lowest, np.maximum(exponent - (form.mantissa + 1), lowest))
    finite = np.isfinite(magnitude)
    scaled = np.ldexp(np.where(finite, magnitude, 0.0), -place)
    digits = (np.rint(scaled) if rounding == "rn" else np.trunc(scaled)).astype(np.int64)
    # Patterns of one sign are in the order of their values: a carry out of the digits counts on.
    patterns = ((place.astype(np.int64) - lowest) << form.mantissa) + digits
    in_range = np.minimum(patterns, _overflow(form, rounding))
    patterns = np.where(finite, in_range, _overflow_of_infinity(form, rounding))
    patterns = np.where(
        np.isnan(exact),
        form.nan,
        patterns | (np.signbit(exact).astype(np.int64) << (form.bits - 1)),
    )
    return patterns.astype(form.storage)


def _overflow(form: Format, rounding: Rounding) -> int:
    """What a finite number that is too large becomes."""
    return form.infinity - 1 if form.saturates or rounding == "rz" else form.infinity


def _overflow_of_infinity(form: Format, rounding: Rounding) -> int:
    # The conversions toward zero to fp8 are Triton's own, by way of float16, and keep infinity.
    saturates = form.saturates and (rounding == "rn" or not form.has_infinity)
    return form.infinity - 1 if saturates else form.infinity


def _encode_bfloat16(values: Array) -> Array:
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(FORMATS["bf16"].nan), rounded)


def truncate_to_tf32(values: Array) -> Array:
    """Drop the 13 bits of float32 that a TF32 matrix instruction does not read.

    Triton hands float32 operands to ``mma`` and ``wgmma`` as they are: its PTX has no
    ``cvt.rna.tf32``.
    """
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def to_integer(values: Array, target: np.dtype[Any]) -> Array:
    """Convert as ``cvt.rzi`` does: toward zero, saturating, NaN to 0 or, with 64 bits, the lowest.

    Integers of 8 bits go through 16 and lose the upper ones, as in the code that LLVM generates.
    """
    kind = "i" if target.kind == "i" else "u"
    wide = np.dtype(f"{kind}{max(target.itemsize, 2)}")
    info = np.iinfo(wide)
    # Measured on an H200: a NaN becomes the pattern 0x80... where either side has 64 bits.
    double = 8
    of_nan = 1 << (8 * wide.itemsize - 1) if double in {values.itemsize, wide.itemsize} else 0
    exact = np.trunc(np.nan_to_num(values.astype(np.float64), nan=0.0))
    # The largest 64-bit integers are no float64: compare, rather than clip and overflow.
    inside = (exact > float(info.min) - 1) & (exact < float(info.max))
    bounds = np.where(exact < 0, info.min, info.max).astype(wide)
    converted = np.where(inside, np.where(inside, exact, 0.0).astype(wide), bounds)
    nan_pattern = np.array(of_nan, dtype=f"uint{8 * wide.itemsize}").view(wide)
    return np.where(np.isnan(values), nan_pattern, converted).astype(target)


def exact_fma(x: Array, y: Array, z: Array) -> Array:
    """Return ``x * y + z`` of float32 or narrower values as float64, rounded to odd.

    The product is exact in float64. A sum that is rounded to odd can be rounded once more, to a
    format at least two bits narrower, as if it had been exact (Boldo and Melquiond, "Emulation of
    FMA and correctly rounded sums", 2008).
    """
    product = x.astype(np.float64) * y.astype(np.float64)
    addend = z.astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    is_even = (total.view(np.int64) & 1) == 0
    inexact = np.isfinite(total) & (error != 0) & is_even
    return np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
