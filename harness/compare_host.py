"""Comparison on the CPU: one pass in pieces that stay in cache, a few MiB of memory at any size.

Each piece is screened in float32: how far an error is from its budget, with every approximation on
the side of suspicion. What the screen does not clear is judged again, element by element, by
`judged`, which is the definition. So a result is as exact as if all were judged that way, and a
correct output costs a fraction of the time. Where output and reference have one dtype and few
elements have different bits, these alone are judged, without a screen.

The screen works relative to the binade of the reference: ``scale = 2 / binade(|expected|)`` comes
from its exponent bits alone, puts ``|expected| * scale`` into 2..4, makes an ulp of the output
``2^(1 - mantissa bits)``, and multiplying by it is exact.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness.budget import mantissa_bits, smallest_subnormal, ulp
from harness.tally import CLEAR, LARGEST_STEP, SHARP, TILE, Operands, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Elements of a piece: its buffers fit the second-level cache, and torch shares only operations on
# 32,768 and more among threads, which costs milliseconds where the cores are busy with others.
PIECE: Final = 384 * 64
COLUMNS: Final = 384
SHARED: Final = 16  # pieces a thread that are worth starting it
_EXPONENT: Final = {torch.float32: 0xFF << 23, torch.float64: 0x7FF << 52}
_WILD: Final = 16.0
_WIDE: Final = ("work", "other", "expected", "scale")  # buffers of the working dtype
_SHARED: Final = ("error", "place")  # where float32 is that dtype, these are the first two
_HUGE: Final = 1e30
_SIGN: Final = -(1 << 31)
_LARGE: Final = 1 << 20  # elements whose bits are compared together
_FEW: Final = 16  # if more than one in so many differ, the screen is faster
_INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_INTEGER: Final = {torch.float32: torch.int32, torch.float64: torch.int64}
_HIGHEST: Final = {torch.float16: 15, torch.float64: 1023}  # binade of the largest value; else 127


@dataclass(frozen=True)
class Judged:
    """Elements judged one by one, in float64."""

    units: Tensor  # |error| in units of the budget; infinite where NaN or infinities differ
    wrong: Tensor
    finite: Tensor
    mismatch: Tensor
    error: Tensor  # in ulps, at most LARGEST_STEP; 0 where not finite
    step: Tensor
    reach: Tensor  # what accumulation may do, in ulps


def judged(part: Operands) -> Judged:
    """Judge every element of ``part``; memory is some dozen times that of float64 elements."""
    dtype, value, expected = part.budget.dtype, part.actual.double(), part.expected.double()
    size = expected.abs()
    reach = part.budget.accumulation(expected, _magnitude(part))
    if part.near_ties is not None:
        reach = reach + part.near_ties
    total = reach
    if part.reference_is_rounded:
        least = max(torch.finfo(t).smallest_normal for t in (dtype, part.expected.dtype))
        total = reach + ulp(size.clamp_min(least), part.expected.dtype) / 2
    allowed = ulp(size + total, dtype) / 2 + total + smallest_subnormal(dtype)
    error = value - expected
    finite = value.isfinite() & expected.isfinite()
    same = (value == expected) | (value.isnan() & expected.isnan())
    same |= value.isinf() & _may_overflow(expected, allowed, value, dtype)
    units = torch.where(error == 0, 0.0, error.abs() / allowed)
    units = torch.where(finite, units, torch.where(same, 0.0, torch.inf))
    spacing, most = ulp(size, dtype), torch.finfo(dtype).max
    rounded = expected.to(dtype).double() if part.steps_need_rounding else expected
    step = torch.where(finite, (value - rounded.clamp(-most, most)) / spacing, 0.0)
    return Judged(
        units=units,
        wrong=~(units <= 1),
        finite=finite,
        mismatch=~finite & ~same,
        error=torch.where(finite, error / spacing, 0.0).clamp(-LARGEST_STEP, LARGEST_STEP),
        step=step.clamp(-LARGEST_STEP, LARGEST_STEP),
        reach=reach / spacing,
    )


def _magnitude(part: Operands) -> Tensor:
    return part.expected.double().abs() if part.magnitude is None else part.magnitude.double()


def _may_overflow(expected: Tensor, allowed: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    # What rounds to infinity lies half a spacing beyond the largest; ``allowed`` has that half.
    beyond = 2.0 ** _HIGHEST.get(dtype, 127)  # half of it: all of float64's would be infinite
    reach = expected.abs() / 2 + allowed / 2 >= beyond
    return reach & (expected.sign() == value.sign()) & ~expected.isnan()


def pieces(rows: int, columns: int, *, piece: int = PIECE) -> Iterator[tuple[slice, slice]]:
    """Cover a matrix with blocks of whole tiles, about ``piece`` elements each."""
    if not rows * columns:
        return
    high = min(rows, TILE)
    width = min(columns, max(COLUMNS, piece // high // TILE * TILE))
    high = max(TILE, piece // width // TILE * TILE)
    for row in range(0, rows, high):
        for column in range(0, columns, width):
            yield slice(row, min(row + high, rows)), slice(column, min(column + width, columns))


def cut(whole: Operands, rows: slice, columns: slice) -> Operands:
    """A block of the operands."""

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows, columns]

    return Operands(
        whole.actual[rows, columns],
        whole.expected[rows, columns],
        of(whole.magnitude),
        of(whole.near_ties),
        whole.budget,
    )


def measure(whole: Operands) -> Tally:
    """Count ``whole`` in one pass, on as many threads as torch uses."""
    rows, columns = whole.actual.shape
    tiles = torch.zeros(math.ceil(rows / TILE), math.ceil(columns / TILE))
    blocks = list(pieces(rows, columns, piece=_LARGE if whole.of_one_dtype else PIECE))
    workers = max(1, min(torch.get_num_threads(), len(blocks) // SHARED))
    shares = [blocks[worker::workers] for worker in range(workers)]
    if workers == 1:
        counts = _count(whole, blocks, tiles)
    else:
        with ThreadPoolExecutor(workers) as pool:
            counts = sum(
                pool.map(lambda share: _count(whole, share, tiles), shares), start=_Counts()
            )
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


def _count(whole: Operands, blocks: Sequence[tuple[slice, slice]], tiles: Tensor) -> _Counts:
    """Count some blocks; their largest errors go to ``tiles``."""
    counts = _Counts()
    screen = _Screen(whole)
    for block in blocks:
        part = cut(whole, *block)
        found = _by_bits(part, counts) if whole.of_one_dtype else screen(part, counts)
        if found is not None:
            _tiles_of(tiles, *block)[...] = found
            continue
        inner = _tiles_of(tiles, *block)
        for piece in pieces(*part.actual.shape):
            _tiles_of(inner, *piece)[...] = screen(cut(part, *piece), counts)
    return counts


def _tiles_of(tiles: Tensor, across: slice, along: slice) -> Tensor:
    """The tiles of a block that begins at one."""
    down, right = (slice(part.start // TILE, -(-part.stop // TILE)) for part in (across, along))
    return tiles[down, right]


def _by_bits(part: Operands, counts: _Counts) -> Tensor | None:
    """Count a block of one dtype by its elements of different bits; None if they are many."""
    kind = _INTEGERS[part.actual.dtype.itemsize]
    actual, expected = part.actual.view(kind), part.expected.view(kind)
    differs = actual != expected
    count = int(differs.count_nonzero())
    if count * _FEW > differs.numel():
        return None
    where = torch.nonzero(differs, as_tuple=True)
    verdict = judged(_gathered(part, where))
    counts.add(verdict, part.expected[where], 2.0 ** (1 - mantissa_bits(part.budget.dtype)))
    exponent = torch.tensor(torch.inf, dtype=part.actual.dtype).view(kind)
    exponents = expected & exponent
    finite = differs.numel() - count + int(verdict.finite.count_nonzero())
    if int(exponents.max()) == int(exponent):
        finite -= int(((exponents == exponent) & ~differs).count_nonzero())
    counts.counted += finite
    counts.allowance += finite * 4 * (part.budget.of_magnitude + part.budget.of_expected)
    down, right = (length // TILE for length in _padded(*part.actual.shape))
    places = where[0] // TILE * right + where[1] // TILE
    tiles = torch.zeros(down * right)
    return tiles.scatter_reduce_(0, places, verdict.units.float(), "amax").view(down, right)


def _worst(whole: Operands, tiles: Tensor) -> tuple[int, float]:
    """Flat index of the worst element, and its error in units of its budget."""
    row, column = divmod(int(tiles.argmax()), tiles.shape[1])
    top, left = row * TILE, column * TILE
    part = cut(whole, slice(top, top + TILE), slice(left, left + TILE))
    units = judged(part).units
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
        verdict = judged(cut(whole, across, along))
        wrong[across, along] = verdict.wrong
        squares = verdict.units.clamp(max=_WILD).square()
        of_rows[across] += squares.sum(1)
        of_columns[along] += squares.sum(0)
    return Survey(wrong, int(of_rows.argmax()), int(of_columns.argmax()))


@dataclass
class _Counts:
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

    def add(self, verdict: Judged, expected: Tensor, ulp: float) -> None:
        """Count elements judged one by one, of which none that differ are left out."""
        error, step = verdict.error * ulp, verdict.step * ulp
        self.violations += int(verdict.wrong.sum())
        self.mismatches += int(verdict.mismatch.sum())
        self.absolute += float(error.abs().sum())
        self.squared += _square(error)
        self.squared_steps += _square(step)
        self.steps += float(step.sum())
        self.steps_outward += float(torch.where(expected.signbit(), -step, step).sum())

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class _Room:
    """Buffers for a piece of one shape; where float32 suffices some are the same memory."""

    expected: Tensor
    scale: Tensor
    work: Tensor
    other: Tensor
    error: Tensor
    place: Tensor  # of the reference in its binade: 2..4, signed
    step: Tensor
    reach: Tensor
    spare: Tensor
    padded: Tensor
    units: Tensor  # the part of ``padded`` that there are elements for


class _Screen:
    """The constants and buffers of a pass; called with one piece after the other."""

    def __init__(self, whole: Operands) -> None:
        dtype = whole.budget.dtype
        self.kind = torch.float64 if whole.wide else torch.float32
        self.device = whole.actual.device
        self.ulp = 2.0 ** (1 - mantissa_bits(dtype))
        self.half = self.ulp / 4  # of an ulp, relative to the binade and not to its scale
        self.of_magnitude, self.of_expected = whole.budget.of_magnitude, whole.budget.of_expected
        self.subnormal = smallest_subnormal(dtype)
        largest = torch.tensor(2 / torch.finfo(dtype).smallest_normal, dtype=self.kind)
        self.largest_scale = int(largest.view(_INTEGER[self.kind]))
        self.magic = 1.5 * self.ulp / torch.finfo(self.kind).eps  # adding it rounds to whole ulps
        self.own = 2.0 ** -mantissa_bits(whole.expected.dtype) if whole.reference_is_rounded else 0
        blocks = pieces(*whole.actual.shape)
        self.area = max(math.prod(_padded(*map(_length, block))) for block in blocks)
        self.memory: dict[str, Tensor] = {}
        self.rooms: dict[tuple[int, int], _Room] = {}

    def room(self, rows: int, columns: int) -> _Room:
        """The buffers for a piece."""
        if (rows, columns) not in self.rooms:
            padded = self._matrix("units", torch.float32, *_padded(rows, columns))
            wide = {n: self._matrix(n, self.kind, rows, columns) for n in _WIDE}
            shared = {} if self.kind == torch.float64 else dict(zip(_SHARED, _WIDE, strict=False))
            narrow = {
                n: wide[shared[n]] if n in shared else self._matrix(n, torch.float32, rows, columns)
                for n in (*_SHARED, "step", "reach", "spare")
            }
            self.rooms[rows, columns] = _Room(
                **wide, **narrow, padded=padded, units=padded[:rows, :columns]
            )
        return self.rooms[rows, columns]

    def _matrix(self, name: str, kind: torch.dtype, rows: int, columns: int) -> Tensor:
        if name not in self.memory:
            self.memory[name] = torch.empty(self.area, dtype=kind, device=self.device)
        return self.memory[name][: rows * columns].view(rows, columns)

    def __call__(self, part: Operands, counts: _Counts) -> Tensor:
        """Count one piece; the largest error of each of its tiles, in units of the budget."""
        room = self.room(*part.actual.shape)
        if room.units.shape != room.padded.shape:
            room.padded.zero_()
        step = self._fill(part, room)
        _check_bounds(part, counts)
        down, right = (length // TILE for length in room.padded.shape)
        tiled = room.padded.view(down, TILE, right, TILE)
        tiles = tiled.amax((1, 3))
        finite = part.actual.numel()
        if not bool((tiles <= CLEAR).all()):
            finite -= self._suspects(part, room, step, counts)
            tiles = tiled.amax((1, 3))
        self._sum(part, room, step, finite, counts)
        return tiles

    def _fill(self, part: Operands, room: _Room) -> Tensor:
        """Errors, places, reaches and units; the steps are returned, errors where they are that."""
        expected = part.expected
        if expected.dtype != self.kind:
            expected = room.expected.copy_(expected)
        field = room.scale.view(_INTEGER[self.kind])
        torch.bitwise_not(expected.view(_INTEGER[self.kind]), out=field)
        field.bitwise_and_(_EXPONENT[self.kind]).clamp_max_(self.largest_scale)
        room.work.copy_(part.actual).sub_(expected).mul_(room.scale)
        torch.mul(expected, room.scale, out=room.other)
        if self.kind == torch.float64:
            room.error.copy_(room.work)
            room.place.copy_(room.other)
        step = room.error
        if part.steps_need_rounding:
            torch.add(room.other, self.magic, out=room.expected)
            room.expected.sub_(self.magic).sub_(room.other)
            step = torch.sub(room.error, room.step.copy_(room.expected), out=room.step)
        self._reach(part, room)
        self._units(room)
        return step

    def _reach(self, part: Operands, room: _Room) -> None:
        size = torch.abs(room.place, out=room.spare)
        if part.magnitude is None:
            torch.mul(size, self.of_magnitude + self.of_expected, out=room.reach)
        else:
            room.reach.copy_(self._scaled(part.magnitude, room)).mul_(self.of_magnitude)
            if self.of_expected:
                room.reach.add_(size, alpha=self.of_expected)
        if part.near_ties is not None:
            room.reach.add_(self._scaled(part.near_ties, room))

    def _scaled(self, values: Tensor, room: _Room) -> Tensor:
        return torch.mul(values, room.scale, out=room.expected)

    def _units(self, room: _Room) -> None:
        # Rounded down a little, so that float32 never puts a reference into the next binade.
        binade = room.spare
        if self.kind == torch.float64:
            binade.mul_(1 - torch.finfo(torch.float32).eps)
        binade.add_(room.reach)
        if self.own:
            binade.add_(self.own)
        binade.view(torch.int32).bitwise_and_(_EXPONENT[torch.float32])
        allowed = torch.add(room.reach, binade.clamp_min_(2.0), alpha=self.half, out=room.units)
        if self.kind == torch.float32:
            allowed.add_(room.scale, alpha=self.subnormal)
        else:
            torch.mul(room.scale, self.subnormal, out=room.expected)
            allowed.add_(room.spare.copy_(room.expected))
        if self.own:
            allowed.add_(self.own)
        torch.div(torch.abs(room.error, out=room.spare), allowed, out=room.units)

    def _suspects(self, part: Operands, room: _Room, step: Tensor, counts: _Counts) -> int:
        """Judge what the screen did not clear; returns how many elements are not finite."""
        where = torch.nonzero(~(room.units <= CLEAR), as_tuple=True)
        verdict = judged(_gathered(part, where))
        room.units[where] = verdict.units.float()
        room.error[where] = (verdict.error * self.ulp).float()
        step[where] = (verdict.step * self.ulp).float()
        reach = torch.where(verdict.finite, verdict.reach * self.ulp, torch.inf)
        room.reach[where] = reach.float()
        torch.abs(room.error, out=room.spare)
        counts.violations += int(verdict.wrong.sum())
        counts.mismatches += int(verdict.mismatch.sum())
        return verdict.finite.numel() - int(verdict.finite.sum())

    def _sum(self, part: Operands, room: _Room, step: Tensor, finite: int, counts: _Counts) -> None:
        sizes = room.spare
        if part.reach_varies:
            sharp = torch.le(room.reach.clamp_max_(_HUGE), SHARP * self.ulp, out=room.units)
            for values in (room.reach, sizes, step):
                values.mul_(sharp)
            finite = int(sharp.sum())
            counts.allowance += float(room.reach.sum())
        else:  # at most: the reference may lie at the top of its binade
            counts.allowance += finite * 4 * (self.of_magnitude + self.of_expected)
        counts.counted += finite
        counts.absolute += float(sizes.sum())
        counts.squared += _square(sizes)
        counts.squared_steps += _square(step)
        counts.steps += float(step.sum())
        sign = room.place.view(torch.int32).bitwise_and_(_SIGN)
        outward = sign.bitwise_xor_(step.view(torch.int32)).view(torch.float32)
        counts.steps_outward += float(outward.sum())


def _length(part: slice) -> int:
    return int(part.stop) - int(part.start)


def _padded(rows: int, columns: int) -> tuple[int, int]:
    return math.ceil(rows / TILE) * TILE, math.ceil(columns / TILE) * TILE


def _square(values: Tensor) -> float:
    flat = values.view(-1)
    return float(torch.dot(flat, flat))


def _gathered(part: Operands, where: tuple[Tensor, ...]) -> Operands:
    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[where]

    return Operands(
        part.actual[where],
        part.expected[where],
        of(part.magnitude),
        of(part.near_ties),
        part.budget,
    )


def _check_bounds(part: Operands, counts: _Counts) -> None:
    """Note a magnitude, or near_ties, that is negative or bounds nothing."""
    for values in (part.magnitude, part.near_ties):
        if values is None:
            continue
        low, high = (float(extreme) for extreme in torch.aminmax(values))
        if low >= 0 and high < math.inf:
            continue
        counts.negative |= bool((values < 0).any())
        counts.unbounded |= bool((part.expected.isfinite() & ~values.isfinite()).any())
