"""A warpgroup's asynchronous matrix products, as the PTX ISA 9.0 defines them (9.7.15).

Of a warpgroup's product each warp has its own part: 16 of the 64 rows. Operands lie in shared
memory, which a product reads at some time between its instruction and the wait for it; here it is
read at both ends, and must be the same. What it is to read has to have been stored, then fenced by
the thread that stored it, then a barrier of the block passed. Until the wait its sums hold nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from suites.numeric.ptx_mma import GROUP, QUAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Vector = npt.NDArray[Any]

K: Final = 16  # along k in a product
NOTHING: Final = 0xFFFF_FFFF  # what sums under way hold, a NaN
_ROW: Final = 128  # bytes of a row, and of a swizzled one
_EIGHT_ROWS: Final = 8 * _ROW
_SWIZZLED: Final = 1  # by 128 bytes


class Operand(NamedTuple):
    """Where rows of an operand lie and what they held when a product was asked for."""

    places: Vector
    octets: Vector


def rows_of(descriptor: int, rows: int) -> Vector:
    """Places ``[rows, 32]`` of 16 fp16 numbers of each row, along k, of a matrix descriptor.

    "Matrix Descriptor Format": only K-major rows of 128 bytes, swizzled by 128 bytes, are known
    here, eight of them 1024 bytes after another. Swizzling is of addresses: bits 4 to 6 are XORed
    with bits 7 to 9, so that a start may lie within the first row.
    """
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    assert descriptor >> 62 == _SWIZZLED, "a layout that is not swizzled by 128 bytes"
    assert stride == _EIGHT_ROWS, f"eight rows are {stride} bytes apart"
    assert descriptor >> 49 & 7 == 0, "a base offset"
    assert start % _EIGHT_ROWS + 2 * K <= _ROW, "a start that is not in the first of eight rows"
    row = np.arange(rows)[:, None]
    linear = start + row // 8 * stride + row % 8 * _ROW + np.arange(2 * K)
    return np.asarray(linear ^ (linear >> 7 & 7) << 4)


def columns_of(words: Sequence[str]) -> int:
    """The columns of a product of fp16 numbers that is added to fp32 ones."""
    shape = re.fullmatch(r"m64n(\d+)k16", words[0])
    assert shape is not None, words
    assert tuple(words[1:]) == ("f32", "f16", "f16"), words
    return int(shape[1])


@dataclass
class Products:
    """The products of a warp that are under way, and what their sums will be."""

    fenced: bool = False
    open: list[Operand] = field(default_factory=list)
    committed: list[list[Operand]] = field(default_factory=list)
    sums: dict[str, Vector] = field(default_factory=dict)

    def add(
        self, names: Sequence[str], sums: Callable[[str], Vector], a: Operand, b: Operand
    ) -> None:
        """Add ``A B^T`` to the sums of those names; ``sums`` reads such as are not under way."""
        assert self.fenced, "no wgmma.fence since sums were last looked at"
        left, right = (each.octets.view(np.float16).astype(np.float64) for each in (a, b))
        made = left @ right.T
        for i, name in enumerate(names):
            before = self.sums[name] if name in self.sums else sums(name)
            added = made[GROUP + i // 2 % 2 * 8, i // 4 * 8 + 2 * QUAD + i % 2]
            self.sums[name] = (before + added).astype(np.float32)
        self.open += [a, b]

    def commit(self) -> None:
        """End a group."""
        self.committed.append(self.open)
        self.open = []

    def wait(self, shared: Vector, *, left: int) -> dict[str, Vector]:
        """End all groups but so many; the sums, if that is all."""
        assert not self.open, "products that no group has"
        while len(self.committed) > left:
            for places, octets in self.committed.pop(0):
                same = (shared[places] == octets).all()
                assert same, "shared memory was written while it was read"
        if left:
            return {}
        found, self.sums, self.fenced = self.sums, {}, False
        return found


class Stores:
    """Which bytes of shared memory were stored and cannot be read asynchronously yet."""

    def __init__(self, octets: int) -> None:
        self._by = np.zeros(octets, np.int64)  # the thread from 1, or -1 once it has fenced

    def store(self, threads: Vector, places: Vector) -> None:
        """``places`` has a row for each thread."""
        self._by[places] = threads[:, None] + 1

    def fence(self, threads: Vector) -> None:
        """These threads' stores are fenced."""
        self._by[np.isin(self._by, threads + 1)] = -1

    def pass_barrier(self) -> None:
        """All threads know of what is fenced."""
        self._by[self._by < 0] = 0

    def require_seen(self, places: Vector) -> None:
        """What a product reads is to be seen by it."""
        assert (self._by[places] >= 0).all(), "no barrier after fence.proxy.async"
        assert not self._by[places].any(), "no fence.proxy.async after a store"
