"""A warp's matrix products, as the PTX ISA defines them: which thread holds which element.

Registers are given as ``[warps, 32]`` words. Sections are those of PTX ISA 9.0. Sums are exact but
for one rounding to fp32 at the end, which no tensor core promises.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

Vector = npt.NDArray[Any]

LANES: Final = np.arange(32)
GROUP: Final = LANES // 4
QUAD: Final = LANES % 4
# E2M1, by code.
_E2M1: Final = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_SIGN: Final = 0x80


def halves(words: Vector) -> Vector:
    """The two fp16 numbers of each word, low one first."""
    found: Vector = np.ascontiguousarray(words)[..., None].view(np.float16)
    return found


def codes(words: Vector) -> Vector:
    """The eight E2M1 numbers of each word, low ones first."""
    nibbles = words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & np.uint32(15)
    return np.asarray(np.where(nibbles > 7, -1.0, 1.0) * _E2M1[nibbles & 7])


def by_rows(registers: Sequence[Vector]) -> Vector:
    """Operand A ``[warps, 16, k]`` of four registers' elements ``[warps, 32, width]``.

    "Matrix Fragments for mma.m16n8k16 with floating point type" (9.7.14.5.8) and "for mma.m16n8k64"
    (9.7.14.5.11) are one rule, of 2 and of 8 elements a register.
    """
    warps, _, width = registers[0].shape
    made = np.empty((warps, 16, 8 * width))
    made[:, *_places_by_rows(width)] = np.stack(registers, 1)
    return made


def by_columns(registers: Sequence[Vector]) -> Vector:
    """Operand B ``[warps, k, 8]`` of two registers' elements; the same sections."""
    warps, _, width = registers[0].shape
    made = np.empty((warps, 8 * width, 8))
    made[:, *_places_by_columns(width)] = np.stack(registers, 1)
    return made


@cache
def _places_by_rows(width: int) -> tuple[Vector, Vector]:
    """Row and column of each register's elements ``[4, 32, width]``."""
    i, k = np.arange(4)[:, None, None], np.arange(width)
    rows, columns = GROUP[:, None] + i % 2 * 8, width * QUAD[:, None] + k + i // 2 * 4 * width
    return np.broadcast_to(rows, columns.shape), columns


@cache
def _places_by_columns(width: int) -> tuple[Vector, Vector]:
    """Row and column of each register's elements ``[2, 32, width]``."""
    i, k = np.arange(2)[:, None, None], np.arange(width)
    rows = width * QUAD[:, None] + k + i * 4 * width
    return rows, np.broadcast_to(GROUP[:, None], rows.shape)


@cache
def place_of_sum(i: int) -> tuple[Vector, Vector]:
    """Row and column of a thread's ``i``-th sum, in either shape."""
    return GROUP + i // 2 * 8, 2 * QUAD + i % 2


def scales(words: Vector, lanes: Vector) -> Vector:
    """Scales ``[warps, rows, 4]`` of which row r is in the register of thread ``lanes[r]``.

    "Block Scaling for mma.sync" (9.7.14.3): with ``scale_vec::4X`` all four bytes count, each for
    16 along k. They are unsigned E4M3: what has a sign, as padding and memory never written may, is
    NaN here, whatever hardware makes of it.
    """
    octets = np.ascontiguousarray(words[:, lanes])[..., None].view(np.uint8)
    values: Vector = torch.from_numpy(octets).view(torch.float8_e4m3fn).double().numpy()
    return np.where(octets & _SIGN, np.nan, values)


def scales_of_rows(words: Vector, selectors: str) -> Vector:
    """Scales of A: thread 0 of quad g has row g, thread 1 row g + 8, if ``thread-id`` is 0."""
    require_first(selectors)
    rows = np.arange(16)
    return scales(words, rows % 8 * 4 + rows // 8)


def scales_of_columns(words: Vector, selectors: str) -> Vector:
    """Scales of B: thread 0 of quad g has column g, if ``thread-id`` is 0."""
    require_first(selectors)
    return scales(words, np.arange(8) * 4)


def require_first(selectors: str) -> None:
    """``{byte-id, thread-id}``, of which ``scale_vec::4X`` allows no other byte."""
    assert selectors.replace(" ", "") == "{0,0}", f"{selectors} are not known here; add them"


def scaled(a: Vector, b: Vector, rows: Vector, columns: Vector) -> Vector:
    """``(A scale_A) (B scale_B)``, scales shared by 16 along k."""
    left = a * rows.repeat(16, axis=2)
    right = b * columns.repeat(16, axis=2).swapaxes(1, 2)
    return np.asarray(left @ right)


def of_halves(a: Sequence[Vector], b: Sequence[Vector]) -> Vector:
    """The product of fp16 operands in registers."""
    left, right = ([halves(each) for each in registers] for registers in (a, b))
    return np.asarray(by_rows(left) @ by_columns(right))


def of_codes(a: Sequence[Vector], b: Sequence[Vector], rows: Vector, columns: Vector) -> Vector:
    """The product of E2M1 operands in registers, scaled."""
    left, right = ([codes(each) for each in registers] for registers in (a, b))
    return scaled(by_rows(left), by_columns(right), rows, columns)
