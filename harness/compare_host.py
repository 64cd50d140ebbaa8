"""Comparison on the CPU: one pass in pieces that stay in cache, a few MiB of memory at any size."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness.budget import mantissa_bits
from harness.compare_bits import BLOCK, count_by_bits
from harness.compare_elements import judged
from harness.compare_screen import Counts, Screen
from harness.tally import TILE, Operands, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

# Elements of a piece: its buffers stay in the caches of a core or are shared by few, and numpy's
# calls cost a tenth of the arithmetic.
PIECE: Final = 1 << 17
SHARED: Final = 4  # pieces a thread that are worth starting it
_WILD: Final = 16.0


def pieces(rows: int, columns: int, *, piece: int = PIECE) -> Iterator[tuple[slice, slice]]:
    """Cover a matrix with blocks of up to ``piece`` elements, a multiple of a tile's columns.

    Each is of whole tiles, or lies within one row of them; long rows are read fastest.
    """
    if not rows * columns:
        return
    along = _evenly(columns, piece, TILE)
    high = max(1, piece // max(part.stop - part.start for part in along))
    for across in _rows(rows, high):
        for part in along:
            yield across, part


def _rows(rows: int, high: int) -> Iterator[slice]:
    if high >= TILE:
        yield from _evenly(rows, high // TILE * TILE, TILE)
        return
    for top in range(0, rows, TILE):
        for part in _evenly(min(TILE, rows - top), high, 1):
            yield slice(top + part.start, top + part.stop)


def _evenly(length: int, most: int, unit: int) -> list[slice]:
    """Cut ``length`` into parts of whole units, which differ by one at most."""
    units = math.ceil(length / unit)
    number = math.ceil(units / (most // unit))
    ends = [min(units * part // number * unit, length) for part in range(number + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def measure(whole: Operands) -> Tally:
    """Count ``whole`` in one pass, on as many threads as torch uses."""
    rows, columns = whole.actual.shape
    tiles = torch.zeros(math.ceil(rows / TILE), math.ceil(columns / TILE))
    counts = _counted(whole, tiles)
    index, worst = _worst(whole, tiles)
    in_ulps = 2.0 ** (mantissa_bits(whole.budget.dtype) - 1)
    return Tally(
        total=whole.actual.numel(),
        columns=columns,
        violations=counts.violations,
        mismatches=counts.mismatches,
        worst=worst,
        index=index,
        actual=float(whole.actual[divmod(index, columns)]),
        expected=float(whole.expected[divmod(index, columns)]),
        counted=counts.counted,
        steps=counts.steps * in_ulps,
        steps_outward=counts.steps_outward * in_ulps,
        squared_steps=counts.squared_steps * in_ulps**2,
        absolute=counts.absolute * in_ulps,
        squared=counts.squared * in_ulps**2,
        allowance=counts.allowance * in_ulps,
        negative=counts.negative,
        unbounded=counts.unbounded,
        tiles=tiles,
    )


def _counted(whole: Operands, tiles: Tensor) -> Counts:
    """Count all pieces; their largest errors go to ``tiles``."""
    shares = list(_shares(*whole.actual.shape))
    if len(shares) == 1:
        return _count(whole, tiles)
    with ThreadPoolExecutor(len(shares)) as pool:
        counts = pool.map(lambda share: _count(whole.at(share), _tiles_of(tiles, *share)), shares)
        return sum(counts, start=Counts())


def _shares(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix along its longer side into a part of whole tiles for each thread."""
    threads = max(1, min(torch.get_num_threads(), rows * columns // (SHARED * PIECE)))
    length = max(rows, columns)
    for part in _evenly(length, math.ceil(length / threads / TILE) * TILE, TILE):
        yield (part, slice(0, columns)) if rows == length else (slice(0, rows), part)


def _count(whole: Operands, tiles: Tensor) -> Counts:
    counts = Counts()
    screen = Screen(whole)
    for block in pieces(*whole.actual.shape, piece=BLOCK if whole.of_one_dtype else PIECE):
        part, largest = whole.at(block), _tiles_of(tiles, *block)
        found = count_by_bits(part, counts) if whole.of_one_dtype else screen(part, counts)
        if found is None:
            _screen(part, screen, counts, largest)
        else:
            torch.maximum(largest, found, out=largest)
    return counts


def _screen(part: Operands, screen: Screen, counts: Counts, tiles: Tensor) -> None:
    for piece in pieces(*part.actual.shape):
        largest = _tiles_of(tiles, *piece)
        torch.maximum(largest, screen(part.at(piece), counts), out=largest)


def _tiles_of(tiles: Tensor, across: slice, along: slice) -> Tensor:
    """The tiles that a block has elements of."""
    down, right = (slice(part.start // TILE, -(-part.stop // TILE)) for part in (across, along))
    return tiles[down, right]


def _worst(whole: Operands, tiles: Tensor) -> tuple[int, float]:
    """Flat index of the worst element, and its error in units of its budget."""
    row, column = divmod(int(tiles.argmax()), tiles.shape[1])
    top, left = row * TILE, column * TILE
    units = judged(whole.at((slice(top, top + TILE), slice(left, left + TILE)))).units
    down, right = divmod(int(units.argmax()), units.shape[1])
    return (top + down) * whole.actual.shape[1] + left + right, float(units[down, right])


@dataclass(frozen=True)
class Survey:
    """Where the errors of an output lie: a second look, at what has failed."""

    wrong: Tensor
    row: int
    column: int


def survey(whole: Operands) -> Survey:
    """Which elements are wrong, and the row and column of the greatest root mean square error.

    Units beyond ``_WILD`` count as that, so that one wild element does not outweigh a whole row.
    """
    rows, columns = whole.actual.shape
    device = whole.actual.device
    wrong = torch.zeros(rows, columns, dtype=torch.bool, device=device)
    of_rows = torch.zeros(rows, dtype=torch.float64, device=device)
    of_columns = torch.zeros(columns, dtype=torch.float64, device=device)
    for across, along in pieces(rows, columns, piece=PIECE if device.type == "cpu" else 16 * PIECE):
        verdict = judged(whole.at((across, along)))
        wrong[across, along] = verdict.wrong
        squares = verdict.units.clamp(max=_WILD).square()
        of_rows[across] += squares.sum(1)
        of_columns[along] += squares.sum(0)
    return Survey(wrong, int(of_rows.argmax()), int(of_columns.argmax()))
