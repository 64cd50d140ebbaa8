"""Which indices of one axis are meant, in words: a range, a block, the tail, a period, a few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS: Final = (8, 16, 32, 64, 128, 256)  # sizes of tiles and groups along one axis
SIGNIFICANT: Final = 20.0  # bits: chance finds a structure of that weight once in a million masks
_LISTED: Final = 4  # so many runs are named one by one
_ALWAYS_LISTED: Final = 2  # even where they leave out little
_LEAST_PERIODS: Final = 3


@dataclass(frozen=True)
class Axis:
    """What an index of an axis is called; ``tail`` follows its length, as in " along axis 0"."""

    noun: str
    length: int
    tail: str = ""

    @property
    def of(self) -> str:
        """Of how many."""
        return f"of {self.length}{self.tail}"


@dataclass(frozen=True)
class Span:
    """Indices of one axis in words, and how many those words cover.

    ``bits`` is what it takes to tell the span from others of its kind: chance has that many tries.
    ``scattered`` says that the words name no structure, but count indices; ``block`` that the span
    is one of the aligned blocks that a kernel cuts an axis into.
    """

    words: str
    size: int
    bits: float = 0.0
    scattered: bool = False
    block: bool = False


def exact(hit: NDArray[np.bool_], axis: Axis) -> Span:
    """The words that name exactly the true indices of a boolean vector; some are true."""
    indices = np.flatnonzero(hit)
    count, length = indices.size, axis.length
    if count == length:
        return Span("", length)
    runs = _runs(indices)
    if len(runs) == 1:
        return _range(*runs[0], axis)
    if words := _periodic(indices, runs, axis):
        return Span(words, count, 2 * math.log2(length))
    if len(runs) <= _LISTED and (len(runs) <= _ALWAYS_LISTED or 2 * count <= length):
        listed = [f"{a}" if a == b else f"{a}..{b}" for a, b in runs]
        words = f"{axis.noun}s {', '.join(listed[:-1])} and {listed[-1]} {axis.of}"
        return Span(words, count, 2 * len(runs) * math.log2(length))
    if words := _whole_blocks(runs, axis):
        return Span(words, count, float(length))
    return Span(f"{count} scattered {axis.noun}s {axis.of}", count, float(length), scattered=True)


def cover(hit: NDArray[np.bool_], axis: Axis) -> Span:
    """The narrowest period that holds all true indices, where chance does not; else all indices."""
    indices = np.flatnonzero(hit)
    found = Span("", axis.length)
    for period in (p for p in (2, 4, *BLOCKS) if 2 * p <= axis.length):
        residues = np.unique(indices % period)
        runs = _runs(residues)
        if len(runs) > 1 or residues.size == period:
            continue
        weight = indices.size * math.log2(period / residues.size)
        size = int(np.isin(np.arange(axis.length) % period, residues).sum())
        if weight >= SIGNIFICANT and size < found.size:
            words = _every(runs[0][0], residues.size, period, axis)
            found = Span(words, size, 2 * math.log2(period))
    return found


def hull(hit: NDArray[np.bool_], axis: Axis) -> Span:
    """From the first true index to the last, or the block that those nearly fill."""
    indices = np.flatnonzero(hit)
    first, last = int(indices[0]), int(indices[-1])
    size = last - first + 1
    for block in BLOCKS:
        start = first // block * block
        stop = min(start + block, axis.length)
        if last < stop and 4 * size >= 3 * (stop - start) >= 3 * size:
            first, last = start, stop - 1
            break
    if last - first + 1 == axis.length:
        return Span("", axis.length)
    return _range(first, last, axis)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffixes = {1: "st", 2: "nd", 3: "rd"}
    teen = number // 10 % 10 == 1
    return f"{number}{'th' if teen else suffixes.get(number % 10, 'th')}"


def _runs(indices: NDArray[np.intp]) -> list[tuple[int, int]]:
    """First and last index of each stretch of neighbours."""
    gaps = np.flatnonzero(np.diff(indices) > 1)
    firsts = np.concatenate([indices[:1], indices[gaps + 1]])
    lasts = np.concatenate([indices[gaps], indices[-1:]])
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _range(first: int, last: int, axis: Axis) -> Span:
    size, bits = last - first + 1, 2 * math.log2(axis.length)
    if size == 1:
        note = " (the last)" if last == axis.length - 1 else ""
        return Span(f"{axis.noun} {first} {axis.of}{note}", 1, bits)
    note = _note(first, size, axis)
    words = f"{axis.noun}s {first}..{last} {axis.of}{note}"
    return Span(words, size, bits, block="block" in note)


def _note(start: int, size: int, axis: Axis) -> str:
    """Which block a range is, or that it is the tail."""
    if size in BLOCKS and start % size == 0:
        return f" (the {ordinal(start // size + 1)} of {-(-axis.length // size)} blocks of {size})"
    if start + size < axis.length:
        return ""
    rest = [block for block in BLOCKS if size < block <= start and start % block == 0]
    return f" (the tail after blocks of {rest[-1]})" if rest else " (the tail)"


def _periodic(indices: NDArray[np.intp], runs: list[tuple[int, int]], axis: Axis) -> str:
    """Words for equal runs at equal distances over the whole axis, or nothing."""
    period = runs[1][0] - runs[0][0]
    if len(runs) > 2:  # noqa: PLR2004
        period = runs[2][0] - runs[1][0]
    twice = len(runs) > 1 and axis.length == 2 * period
    if len(runs) < _LEAST_PERIODS and not (twice and period in BLOCKS):
        return ""
    size = max(last - first + 1 for first, last in runs)
    start = runs[1][0] % period
    places = np.arange(axis.length)
    repeated = places[(places - start) % period < size]
    return _every(start, size, period, axis) if np.array_equal(repeated, indices) else ""


def _every(start: int, size: int, period: int, axis: Axis) -> str:
    if size == 1:
        return f"every {ordinal(period)} {axis.noun} from {start} {axis.of}"
    stop = start + size - 1
    if stop < period:
        return f"{axis.noun}s {start}..{stop} of every {period} {axis.of}"
    return f"{axis.noun}s {start}..{period - 1} and 0..{stop - period} of every {period} {axis.of}"


def _whole_blocks(runs: list[tuple[int, int]], axis: Axis) -> str:
    edges = [edge for first, last in runs for edge in (first, last + 1)]
    fitting = [b for b in BLOCKS if all(e % b == 0 or e == axis.length for e in edges)]
    if not fitting:
        return ""
    block = fitting[-1]
    count = sum(-(-(last + 1 - first) // block) for first, last in runs)
    return f"{count} of the {-(-axis.length // block)} blocks of {block} {axis.noun}s{axis.tail}"
