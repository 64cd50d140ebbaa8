"""Values as PTX's types have them: what a register holds, arithmetic on it, one rounding."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from torch import Tensor

Vector = npt.NDArray[Any]

BITS: Final = {"pred": np.bool_, "8": np.uint8, "16": np.uint16, "32": np.uint32, "64": np.uint64}
SIGNED: Final = {"s16": np.int16, "s32": np.int32, "s64": np.int64}
INTEGERS: Final = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "mul": np.multiply,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
}
FLOATS: Final = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
HALVES: Final = {"f16": torch.float16, "bf16": torch.bfloat16}
COMPARISONS: Final = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@cache
def types_of(kind: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """What a register of a type of PTX holds, and as what it is seen."""
    held = np.dtype(BITS["pred" if kind == "pred" else re.sub(r"\D", "", kind)])
    return held, np.dtype(SIGNED[kind]) if kind in SIGNED else held


@cache
def number_of(operand: str, dtype: np.dtype[Any]) -> int:
    """A constant, as so many bits."""
    return int(int(re.sub("^0f", "0x", operand), 0) & (2 ** (8 * dtype.itemsize) - 1))


def bits_of(values: Vector) -> Vector:
    """Integers of either sign as a register holds them."""
    return values if values.dtype == np.bool_ else values.view(f"u{values.dtype.itemsize}")


def rounded(words: Vector, to: str, how: str) -> Tensor:
    """Numbers of 16 bits near those of 32: the nearest, ties to even, or the next towards zero."""
    wide = torch.from_numpy(words.view(np.float32))
    near = wide.to(HALVES[to])
    if how == "rn":
        return near
    if how != "rz":
        msg = f"rounding {how!r} is not known here; add it"
        raise NotImplementedError(msg)
    beyond = near.float().abs() > wide.abs()  # the bits of a magnitude are those of an integer
    return (near.view(torch.int16) - beyond.to(torch.int16)).view(HALVES[to])
