"""The screen of the comparison on the CPU: what it clears, `compare_elements.judged` would pass.

An error's distance from its budget is bounded in float32, with every approximation on the side of
suspicion, and what is not cleared is judged element by element. So verdicts are as exact as if all
were judged that way, and a correct output costs a fraction of the time. An output of float64, for
which no narrower arithmetic would do, is judged throughout.

The screen works relative to the binade of the reference: ``scale = 2 / binade(|expected|)`` comes
from its exponent bits alone, puts ``|expected| * scale`` into 2..4, makes an ulp of the output
``2^(1 - mantissa bits)``, and multiplying by it is exact. Of a float64 reference the scale, the
place in its binade and the error are taken in float64, then rounded once each: what cancels, and
what float32 has no exponent for, is settled by then. The sums are those of the judged elements but
for the rounding of float32, about 1e-6 of them.

In numpy, whose operations stay on the thread that calls them whatever the size: torch shares those
on 32,768 elements and more, which costs milliseconds each where the cores are busy with others, and
on fewer the calls outlast the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from harness.budget import mantissa_bits, smallest_subnormal
from harness.compare_elements import judged
from harness.tally import CLEAR, SHARP, TILE, Operands

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_NARROW: Final = ("scale", "error", "place", "step", "reach", "spare", "other")
_LOST: Final = 2.0**-149  # at most, by two bounds that float32 has no exponent for
_LOW: Final = 1 - 2.0**-20  # of a reach, lest float32 puts it above the true one
_LOWER: Final = 1 - 2.0**-22  # of a reference, lest float32 puts it into the next binade
_HUGE: Final = 1e30
_HUGE_BITS: Final = int(np.float32(_HUGE).view(np.int32))
_EXPONENT: Final = np.int32(0xFF << 23)
_WIDE_EXPONENT: Final = np.int64(0x7FF << 52)
_SIGN: Final = np.int32(-(1 << 31))
_UNSHARED: Final = 32704  # elements of an operation that torch leaves to one thread
_SUMMED: Final = 1024  # products that are summed in float32; of 10,000, BLAS shares the work
_ONES: Final = np.ones(_SUMMED, dtype=np.float32)


@dataclass
class Counts:
    """Sums so far, errors relative to the binade of the reference, as the screen has them."""

    violations: int = 0
    mismatches: int = 0
    counted: int = 0
    steps: float = 0.0
    steps_outward: float = 0.0
    squared_steps: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    allowance: float = 0.0
    negative: bool = False
    unbounded: bool = False

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class _Room:
    """Buffers for a piece of one shape."""

    scale: Array
    error: Array
    place: Array  # of the reference in its binade: 2..4, signed
    step: Array
    reach: Array
    spare: Array
    other: Array
    padded: Array
    units: Array  # the part of ``padded`` that there are elements for
    wide: tuple[Array, ...]  # two of float64, if the reference is


class Screen:
    """The constants and buffers of a pass; called with one piece after the other."""

    def __init__(self, whole: Operands) -> None:
        dtype, budget = whole.budget.dtype, whole.budget
        self.judges_all = dtype == torch.float64
        self.wide = whole.wide and not self.judges_all
        self.ulp = 2.0 ** (1 - mantissa_bits(dtype))
        self.subnormal = smallest_subnormal(dtype) - _LOST
        self.largest = torch.finfo(dtype).max
        self.largest_scale = 2 / torch.finfo(dtype).smallest_normal
        self.magic = 1.5 * self.ulp / float(np.finfo(np.float32).eps)  # rounds to whole ulps
        self.own = 2.0 ** -mantissa_bits(whole.expected.dtype) if whole.reference_is_rounded else 0
        self.of_both = budget.of_magnitude + budget.of_expected
        self.of_magnitude = budget.of_magnitude * _LOW
        of_size = self.of_both if whole.magnitude is None else budget.of_expected
        self.of_size = of_size * _LOW
        self.memory: dict[str, Array] = {}
        self.rooms: dict[tuple[int, int], _Room] = {}

    def room(self, rows: int, columns: int) -> _Room:
        """The buffers for a piece."""
        if (rows, columns) not in self.rooms:
            padded = self._matrix("padded", np.float32, *_padded(rows, columns))
            wide = ("scale in float64", "work") if self.wide else ()
            self.rooms[rows, columns] = _Room(
                **{name: self._matrix(name, np.float32, rows, columns) for name in _NARROW},
                padded=padded,
                units=padded[:rows, :columns],
                wide=tuple(self._matrix(name, np.float64, rows, columns) for name in wide),
            )
        return self.rooms[rows, columns]

    def _matrix(self, name: str, kind: type[np.floating[Any]], rows: int, columns: int) -> Array:
        if name not in self.memory or self.memory[name].size < rows * columns:
            self.memory[name] = np.empty(rows * columns, dtype=kind)
        return self.memory[name][: rows * columns].reshape(rows, columns)

    def __call__(self, part: Operands, counts: Counts) -> Tensor:
        """Count one piece; the largest error of each of its tiles, in units of the budget."""
        room = self.room(*part.actual.shape)
        if room.units.shape != room.padded.shape:
            room.padded.fill(0)
        with np.errstate(all="ignore"):
            step = self._fill(part, room, counts)
            tiles = _tiles(room.padded)
            finite = part.actual.numel()
            if not (tiles <= CLEAR).all():
                finite -= self._suspects(part, room, step, counts)
                tiles = _tiles(room.padded)
            self._sum(part, room, step, finite, counts)
        return torch.from_numpy(tiles)

    def _fill(self, part: Operands, room: _Room, counts: Counts) -> Array:
        """Errors, places, reaches and units; the steps are returned, errors where they are that."""
        if self.judges_all:
            room.place[...] = _array(part.expected.float())  # for the signs
            room.units.fill(np.inf)
            return room.step
        step = self._from_float64(part, room) if self.wide else self._from_float32(part, room)
        self._reach(part, room, counts)
        self._units(room)
        return step

    def _from_float32(self, part: Operands, room: _Room) -> Array:
        """Errors, places and steps of a reference that float32 holds."""
        actual = _in_float32(part.actual, room.step)
        expected = _in_float32(part.expected, room.other)
        field = room.scale.view(np.int32)
        np.bitwise_and(np.invert(expected.view(np.int32), out=field), _EXPONENT, out=field)
        np.clip(room.scale, 0, self.largest_scale, out=room.scale)
        np.subtract(actual, expected, out=room.error)
        np.multiply(room.error, room.scale, out=room.error)
        np.multiply(expected, room.scale, out=room.place)
        return self._rounded(actual, room) if part.steps_need_rounding else room.error

    def _from_float64(self, part: Operands, room: _Room) -> Array:
        """The same of a float64 reference."""
        scale, work = room.wide
        actual, expected = _in_float32(part.actual, room.step), _array(part.expected)
        field = scale.view(np.int64)
        np.bitwise_and(np.invert(expected.view(np.int64), out=field), _WIDE_EXPONENT, out=field)
        np.clip(scale, 0, self.largest_scale, out=scale)
        room.scale[...] = scale
        np.copyto(work, actual)
        np.subtract(work, expected, out=work)
        room.error[...] = np.multiply(work, scale, out=work)
        room.place[...] = np.multiply(expected, scale, out=work)
        if part.actual.dtype != torch.float32:
            return self._rounded(actual, room)
        room.other[...] = expected
        rounded = np.clip(room.other, -self.largest, self.largest, out=room.other)
        np.subtract(actual, rounded, out=room.step)
        return np.multiply(room.step, room.scale, out=room.step)

    def _rounded(self, actual: Array, room: _Room) -> Array:
        """Steps of an output of 16 bits."""
        rounded = np.add(room.place, self.magic, out=room.other)
        np.subtract(rounded, self.magic, out=rounded)
        np.multiply(actual, room.scale, out=room.step)
        return np.subtract(room.step, rounded, out=room.step)

    def _reach(self, part: Operands, room: _Room, counts: Counts) -> None:
        np.abs(room.place, out=room.spare)
        np.multiply(room.spare, self.of_size, out=room.reach)
        for values, factor in ((part.magnitude, self.of_magnitude), (part.near_ties, _LOW)):
            if values is not None:
                self._add_reach(values, factor, part, room, counts)

    def _add_reach(
        self, values: Tensor, factor: float, part: Operands, room: _Room, counts: Counts
    ) -> None:
        """Add ``factor * values``, or NaN where that bounds nothing, or float32 cannot hold it."""
        # The factor comes first: in units of a subnormal reference a magnitude may overflow, but
        # its share of roundoffs does so only where it exceeds every error that float32 holds.
        share = np.multiply(_in_float32(values, room.other), factor, out=room.other)
        bits = share.view(np.int32)
        if bits.min() < 0 or bits.max() >= _HUGE_BITS:
            share[~(share < _HUGE)] = np.nan
            counts.negative |= bool((values < 0).any())
            counts.unbounded |= bool((part.expected.isfinite() & ~values.isfinite()).any())
        np.add(room.reach, np.multiply(share, room.scale, out=share), out=room.reach)

    def _units(self, room: _Room) -> None:
        total = room.reach
        if self.own:
            total = np.add(total, np.float32(self.own), out=room.other)
        binade = np.add(total, room.spare, out=room.units)
        np.multiply(binade, _LOWER, out=binade)
        field = binade.view(np.int32)
        np.bitwise_and(field, _EXPONENT, out=field)
        allowed = np.multiply(np.clip(binade, 2, np.inf, out=binade), self.ulp / 4, out=binade)
        allowed += total
        if self.subnormal:
            allowed += np.multiply(room.scale, np.float32(self.subnormal), out=room.spare)
        np.divide(np.abs(room.error, out=room.spare), allowed, out=room.units)

    def _suspects(self, part: Operands, room: _Room, step: Array, counts: Counts) -> int:
        """Judge what the screen did not clear; returns how many elements are not finite."""
        where = np.nonzero(~(room.units <= CLEAR))
        verdict = judged(part.at(tuple(torch.from_numpy(index) for index in where)))
        room.units[where] = _array(verdict.units)
        room.error[where] = _array(verdict.error * self.ulp)
        step[where] = _array(verdict.step * self.ulp)
        reach = torch.where(verdict.finite, verdict.reach * self.ulp, torch.inf)
        room.reach[where] = _array(reach)
        np.abs(room.error, out=room.spare)
        counts.violations += int(verdict.wrong.sum())
        counts.mismatches += int(verdict.mismatch.sum())
        return verdict.finite.numel() - int(verdict.finite.sum())

    def _sum(self, part: Operands, room: _Room, step: Array, finite: int, counts: Counts) -> None:
        sizes = room.spare
        if part.reach_varies:
            sharp = np.less_equal(room.reach, SHARP * self.ulp, out=room.scale)
            sizes *= sharp
            step *= sharp
            finite = int(_dot(sharp, sharp))
            counts.allowance += _dot(np.clip(room.reach, 0, _HUGE, out=room.reach), sharp)
        else:  # at most: the reference may lie at the top of its binade
            counts.allowance += finite * 4 * self.of_both
        counts.counted += finite
        counts.absolute += _total(sizes)
        counts.squared += (squared := _dot(sizes, sizes))
        counts.squared_steps += squared if step is room.error else _dot(step, step)
        counts.steps += _total(step)
        sign, bits = room.place.view(np.int32), step.view(np.int32)
        np.bitwise_xor(np.bitwise_and(sign, _SIGN, out=sign), bits, out=sign)
        counts.steps_outward += _total(room.place)


def _padded(rows: int, columns: int) -> tuple[int, int]:
    high = min(rows, TILE)
    return math.ceil(rows / high) * high, math.ceil(columns / TILE) * TILE


def _tiles(padded: Array) -> Array:
    """The largest of each tile, of whole rows of tiles or of a part of one; NaN if there is one."""
    rows, columns = padded.shape
    across = padded.reshape(-1, min(rows, TILE), columns).max(axis=1)
    largest: Array = across.reshape(len(across), columns // TILE, TILE).max(axis=2)
    return largest


def _array(values: Tensor) -> Array:
    array: Array = values.cpu().numpy()
    return array


def _in_float32(values: Tensor, room: Array) -> Array:
    """``values`` in float32, in ``room`` unless they are that; infinite beyond its range."""
    if values.dtype == torch.float32:
        return _array(values)
    if values.dtype == torch.float64:
        room[...] = _array(values)
    elif values.dtype == torch.bfloat16:
        bits = room.view(np.int32)
        np.copyto(bits, _array(values.view(torch.int16)))
        np.left_shift(bits, 16, out=bits)
    else:  # float16, which numpy converts in software
        high = max(1, _UNSHARED // values.shape[1])
        for top in range(0, len(values), high):
            torch.from_numpy(room[top : top + high]).copy_(values[top : top + high])
    return room


def _dot(one: Array, other: Array) -> float:
    """The sum of products."""
    flat, against = one.reshape(-1), other.reshape(-1)
    end = flat.size - flat.size % _SUMMED
    rows = (values[:end].reshape(-1, _SUMMED) for values in (flat, against))
    return float(np.vecdot(*rows).sum(dtype=np.float64) + np.dot(flat[end:], against[end:]))


def _total(values: Array) -> float:
    flat = values.reshape(-1)
    end = flat.size - flat.size % _SUMMED
    rows = np.vecdot(flat[:end].reshape(-1, _SUMMED), _ONES)
    return float(rows.sum(dtype=np.float64) + flat[end:].sum(dtype=np.float64))
