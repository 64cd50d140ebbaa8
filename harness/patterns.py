"""Structures in a plane that no product of spans describes: diagonals, triangles, tiles.

Each is yielded as a place that holds all true elements; whether it fits is for the caller to judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from harness.spans import BLOCKS, Axis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]

_NAMED: Final = 4  # so many tiles are named one by one
_LEAST_DIAGONAL: Final = 3
_SAMPLE: Final = 256  # rows that tell most masks from a checkerboard
_LEAST_CHECKERBOARD: Final = 4
_WIDE: Final = {2: np.uint16, 8: np.uint64}


@dataclass(frozen=True)
class Place:
    """A set of elements in words, how many it holds, and what it takes to tell it from others."""

    words: str
    area: int
    bits: float = 0.0

    def gain(self, count: int, total: int) -> float:
        """Bits saved by this place over naming ``count`` of ``total`` elements one by one."""
        return count * math.log2(total / self.area) - self.bits


def of_plane(plane: Marks, axes: tuple[Axis, Axis]) -> Iterator[Place]:
    """Every structure that holds all true elements of ``plane``, of which there are some."""
    yield from _lines(plane)
    yield from _tilings(plane, axes)


def _lines(plane: Marks) -> Iterator[Place]:
    """Diagonals and triangles that hold all true elements."""
    rows, columns = plane.shape
    hit = np.flatnonzero(plane.any(1))
    first = plane.argmax(1)[hit]
    last = columns - 1 - plane[:, ::-1].argmax(1)[hit]
    low, high = int((first - hit).min()), int((last - hit).max())
    bits = math.log2(rows + columns)
    if low == high and hit.size >= _LEAST_DIAGONAL:
        words = "the main diagonal" if not low else f"the diagonal of column - row = {low}"
        yield Place(words, _diagonal(rows, columns, low), bits)
    total = int((first + hit).min())
    if total == int((last + hit).max()) and hit.size >= _LEAST_DIAGONAL:
        length = _diagonal(rows, columns, columns - 1 - total)
        yield Place(f"the antidiagonal of row + column = {total}", length, bits)
    offsets = range(1 - rows, columns)
    for words, held in (
        (f"the triangle of column - row >= {low}", range(low, columns)),
        (f"the triangle of column - row <= {high}", range(1 - rows, high + 1)),
    ):
        area = sum(_diagonal(rows, columns, offset) for offset in held)
        if len(held) < len(offsets) and 4 * area <= 3 * rows * columns:
            yield Place(words, area, bits)


def _diagonal(rows: int, columns: int, offset: int) -> int:
    """How many elements have column - row = offset."""
    return max(0, min(rows, columns - offset) - max(0, -offset))


def _tilings(plane: Marks, axes: tuple[Axis, Axis]) -> Iterator[Place]:
    """Tiles of every size that hold all true elements: a checkerboard, a diagonal, or a few."""
    sizes = [[size for size in (1, *BLOCKS) if size < axis.length] for axis in axes]
    band, height = plane, 1
    for next_height in sizes[0]:
        band, height = _occupied(band, next_height // height, 0), next_height
        tiles, width = band, 1
        for next_width in sizes[1]:
            tiles, width = _occupied(tiles, next_width // width, 1), next_width
            yield from _tiles(tiles, (height, width), axes)


def _occupied(plane: Marks, block: int, axis: int) -> Marks:
    """Which blocks along an axis hold a true element."""
    if block == 1:
        return plane
    short = -plane.shape[axis] % block
    if short:
        plane = np.pad(plane, ((0, short), (0, 0)) if axis == 0 else ((0, 0), (0, short)))
    if axis == 0:
        held: Marks = np.logical_or.reduce(plane.reshape(-1, block, plane.shape[1]), axis=1)
        return held
    # As one wide integer a block is read at once: 40 times faster than any() over a short axis.
    wide = np.ascontiguousarray(plane).view(_WIDE[block])
    return np.asarray(wide != 0)


def _tiles(tiles: Marks, size: tuple[int, int], axes: tuple[Axis, Axis]) -> Iterator[Place]:
    """What the occupied tiles of one size are."""
    single = size == (1, 1)
    kind = " x ".join(
        f"{block} {axis.noun}{'s' if block > 1 else ''}"
        for block, axis in zip(size, axes, strict=True)
    )
    if (parity := _checkerboard(tiles, least=_LEAST_CHECKERBOARD if single else 2)) is not None:
        cells = np.zeros_like(tiles)
        cells[parity::2, ::2] = cells[1 - parity :: 2, 1::2] = True
        of, index = ("", "") if single else (f" of tiles of {kind}", "tile ")
        words = f"a checkerboard{of}: {index}row + {index}column is {('even', 'odd')[parity]}"
        yield Place(words, _area(cells, size, axes), 2.0)
    if single:
        return
    area, occupied = _area(tiles, size, axes), int(np.count_nonzero(tiles))
    square = tiles.shape[0] == tiles.shape[1] == occupied
    if square and occupied >= _LEAST_DIAGONAL and bool(tiles.diagonal().all()):
        yield Place(f"the main diagonal of tiles of {kind}", area, 2.0)
    yield Place(_named(tiles, size, kind, axes), area, _choices(tiles.size, occupied))


def _area(tiles: Marks, size: tuple[int, int], axes: tuple[Axis, Axis]) -> int:
    """Elements in the occupied tiles, the last row and column of which may be cut off."""
    height, width = size
    down, across = (-(-axis.length // block) for axis, block in zip(axes, size, strict=True))
    below, beside = down * height - axes[0].length, across * width - axes[1].length
    whole, last, rightmost = map(np.count_nonzero, (tiles, tiles[-1], tiles[:, -1]))
    outside = last * below * width + rightmost * beside * height
    return int(whole * height * width - outside + int(tiles[-1, -1]) * below * beside)


def _checkerboard(tiles: Marks, *, least: int) -> int | None:
    """Whether row + column is even (0) or odd (1) for all true elements; None if it is both."""
    if min(tiles.shape) == 1 or all(_colours(tiles[:_SAMPLE])):
        return None
    even, odd = _colours(tiles)
    if even == odd or np.count_nonzero(tiles) < least:
        return None
    return int(odd)


def _colours(tiles: Marks) -> tuple[bool, bool]:
    """Whether row + column is even, and whether it is odd, for some true element."""
    even = tiles[::2, ::2].any() or tiles[1::2, 1::2].any()
    odd = tiles[1::2, ::2].any() or tiles[::2, 1::2].any()
    return bool(even), bool(odd)


def _choices(number: int, chosen: int) -> float:
    """Bits that it takes to say which of ``number`` are chosen."""
    terms = (math.lgamma(n + 1) for n in (number, chosen, number - chosen))
    whole, one, other = terms
    return (whole - one - other) / math.log(2)


def _named(tiles: Marks, size: tuple[int, int], kind: str, axes: tuple[Axis, Axis]) -> str:
    down, across = tiles.shape
    count = int(np.count_nonzero(tiles))
    places = np.argwhere(tiles).tolist() if count <= _NAMED else []
    if count == 1:
        ranges = (
            f"{axis.noun}s {i * block}..{min(axis.length, (i + 1) * block) - 1}"
            for i, block, axis in zip(places[0], size, axes, strict=True)
        )
        return f"one of the {down} x {across} tiles of {kind}, {' and '.join(ranges)}"
    listed = f": {', '.join(str(place) for place in places)}" if places else ""
    return f"{count} of the {down} x {across} tiles of {kind}{listed}"
