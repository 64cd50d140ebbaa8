"""Comparison on a GPU: one fused kernel reads each tensor once; what it suspects is read again.

Tiling: a program owns a band of 64 rows and some columns, and walks down it in steps of a few rows.
A thread owns neighbouring columns, so loads are vectors, and sums over rows stay in its registers
until the end of the band.

Order of work: bands are screened as on the CPU (`harness.compare_host`), in float32 but for what a
float64 reference needs, and a second kernel adds up. If a band holds an element that was not
cleared, a third kernel reads such bands again and judges them exactly, in float64 if the reference
or the output is, else in float32, and the sums are taken anew. It is apart because its registers
would halve the programs that the first can have in flight.

Where nothing but the rounding of two equal dtypes is allowed for, the screen takes every budget to
be the least within its binade: of elements that pass, the worst that is reported may then be up to
a sixteenth worse than another of the same output.

Memory: 64 bytes a program and 4 bytes a tile of 64 x 64, 128 KiB at 8192 x 8192.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
import triton
import triton.language as tl

from harness.budget import mantissa_bits, smallest_subnormal
from harness.device import on
from harness.launches import suspended
from harness.tally import CLEAR, LARGEST_STEP, SHARP, TILE, Operands, Tally

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS: Final = 16  # of a band's record, of which this many are used:
_USED: Final = 12
_AWAITING: Final = 11  # the field that says whether a closer look is due
_JUDGES: Final = 1024  # programs that look for such bands


@dataclass(frozen=True)
class Tuning:
    """How the work is cut: columns of a band, elements of a step, warps that share a band.

    ``stages`` is how many steps' loads are in flight; beyond 1 they pass through shared memory.
    ``registers`` is the most that a thread may have, None leaving it to the compiler.
    """

    columns: int
    step: int
    warps: int
    stages: int = 1
    registers: int | None = None


NARROW: Final = Tuning(columns=2048, step=8192, warps=8)
WIDE: Final = Tuning(columns=1024, step=1024, warps=4)


class Rule(NamedTuple):
    """What is compiled into the kernels: which tensors there are, and constants of the dtypes.

    Exponents are biased as in the arithmetic's format, ``ulp`` is the output's where a binade
    is 2.
    """

    float64: bool
    magnitude: bool
    near_ties: bool
    rounds: bool  # the reference has more bits than the output
    flat: bool  # within a binade the budget hardly grows, and the reference has the output's bits
    own: float  # half an ulp of the reference where a binade is 2; 0 for a float64 reference
    own_ulp: float  # twice that
    own_least: int  # exponent of the smallest normal of either dtype
    ulp: float
    magic: float  # adding it rounds to whole ulps
    least: int  # exponent of the smallest normal of the output
    subnormal: int  # bits of the smallest positive value of the output
    beyond: float  # half of what rounds to infinity
    clear: float
    sharp: float
    most: float


@triton.jit
def _larger(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _subnormal(RULE: tl.constexpr):
    if RULE.float64:
        return tl.full((), RULE.subnormal, tl.int64).to(tl.float64, bitcast=True)
    else:
        return tl.full((), RULE.subnormal, tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _scale(expected, RULE: tl.constexpr):
    """2 / binade of ``|expected|``, taken as at least the smallest normal; 0 for infinity, NaN."""
    if RULE.float64:
        high = (expected.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
        field = tl.minimum((~high) & 0x7FF00000, (2047 - RULE.least) << 20)
        return (field.to(tl.int64) << 32).to(tl.float64, bitcast=True)
    else:
        bits = expected.to(tl.int32, bitcast=True)
        field = tl.minimum((~bits) & 0x7F800000, (255 - RULE.least) << 23)
        return field.to(tl.float32, bitcast=True)


@triton.jit
def _binade(size, LEAST: tl.constexpr, RULE: tl.constexpr):
    """The largest power of two up to ``size``: finite, and at least that of exponent ``LEAST``."""
    if RULE.float64:
        high = (size.to(tl.int64, bitcast=True) >> 32).to(tl.int32) & 0x7FF00000
        field = tl.minimum(tl.maximum(high, LEAST << 20), 2046 << 20)
        return (field.to(tl.int64) << 32).to(tl.float64, bitcast=True)
    else:
        field = size.to(tl.int32, bitcast=True) & 0x7F800000
        return tl.minimum(tl.maximum(field, LEAST << 23), 254 << 23).to(tl.float32, bitcast=True)


@triton.jit
def _outward(step, expected, RULE: tl.constexpr):
    """``step`` with its sign turned where ``expected`` is negative."""
    if RULE.float64:
        sign = (expected.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    else:
        sign = expected.to(tl.int32, bitcast=True)
    turned = step.to(tl.int32, bitcast=True) ^ (sign & -2147483648)
    return turned.to(tl.float32, bitcast=True)


@triton.jit
def _unfit(bound):
    """Whether a bound has its sign bit set, or is NaN or infinite."""
    if bound.dtype == tl.float64:
        high = (bound.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
        return (high < 0) | (high >= 0x7FF00000)
    else:
        bits = bound.to(tl.float32).to(tl.int32, bitcast=True)
        return (bits < 0) | (bits >= 0x7F800000)


@triton.jit
def _unit(of_magnitude, of_expected, RULE: tl.constexpr):
    """What units of the screen are in: with a flat rule the budget at 2, the least of a binade."""
    if RULE.flat:
        return 0.5 * RULE.ulp + RULE.own + 2.0 * (of_magnitude + of_expected).to(tl.float32)
    else:
        return 1.0


@triton.jit
def _screen_each(
    actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE: tl.constexpr
):
    """Error, step and reach where the binade of ``expected`` is 2, and units of the budget.

    NaN or beyond ``clear`` in units for all that a closer look is due to.
    """
    scale = _scale(expected, RULE)
    error = ((actual - expected) * scale).to(tl.float32)
    place = expected * scale
    step = error
    if RULE.rounds:
        step = error - ((place + RULE.magic) - RULE.magic - place).to(tl.float32)
    size = tl.abs(place).to(tl.float32)
    if RULE.magnitude:
        reach = (magnitude * scale).to(tl.float32) * of_magnitude.to(tl.float32)
        reach += size * of_expected.to(tl.float32)
    else:
        reach = size * (of_magnitude + of_expected).to(tl.float32)
    if RULE.near_ties:
        reach += (near_ties * scale).to(tl.float32)
    total = reach + RULE.own
    # Rounded down a little, so that float32 never puts a reference into the next binade.
    far = (size * (1 - 2.0**-23) if RULE.float64 else size) + total
    binade = (far.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    allowed = tl.maximum(binade, 2.0) * (RULE.ulp / 4) + total
    allowed += (scale * _subnormal(RULE)).to(tl.float32)
    # One instruction and two products, where even an approximate division takes six.
    root = tl.rsqrt(allowed)
    units = (tl.abs(error) * root) * root
    return error, step, reach, units


@triton.jit
def _screen(actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE: tl.constexpr):
    """As ``_screen_each``; units are in ``_unit``."""
    if RULE.flat:
        # A third of the instructions, without which the arithmetic outlasts the loads.
        error = (actual - expected) * _scale(expected, RULE)
        return error, error, error, tl.abs(error)
    else:
        return _screen_each(actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE)


@triton.jit
def _bounded(steps, RULE: tl.constexpr):
    # Not tl.clamp, which Triton 3.9 does not compile in float64.
    return tl.minimum(tl.maximum(steps, -RULE.most), RULE.most)


@triton.jit
def _judge(actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE: tl.constexpr):
    """As `compare_host.judged`: wrong, mismatch, finite, units, error, step, reach."""
    infinity = float("inf")
    size = tl.abs(expected)
    if RULE.magnitude:
        reach = magnitude * of_magnitude + size * of_expected
    else:
        reach = size * (of_magnitude + of_expected)
    if RULE.near_ties:
        reach += near_ties
    total = reach
    own = 0.0
    if RULE.own > 0:
        own = _binade(size, RULE.own_least, RULE) * (RULE.own_ulp / 2)
        total += own / 2
    spacing = _binade(size + total, RULE.least, RULE) * (RULE.ulp / 2)
    allowed = (spacing + own) * 0.5 + reach + _subnormal(RULE)
    error = actual - expected
    finite = (tl.abs(actual) < infinity) & (size < infinity)
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    sided = ((actual > 0) & (expected > 0)) | ((actual < 0) & (expected < 0))
    reaches = size * 0.5 + allowed * 0.5 >= RULE.beyond
    same |= (tl.abs(actual) == infinity) & sided & reaches
    wrong = tl.where(finite, tl.abs(error) > allowed, ~same)
    ratio = tl.abs(error) / allowed if RULE.float64 else tl.div_rn(tl.abs(error), allowed)
    units = tl.where(finite, tl.where(error == 0, 0.0, ratio), tl.where(same, 0.0, infinity))
    scale = _scale(expected, RULE)
    place = expected * scale
    shift = 0.0
    if RULE.rounds:
        shift = (place + RULE.magic) - RULE.magic - place
    error *= scale
    step = tl.where(finite, _bounded(error - shift, RULE), 0.0)
    error = tl.where(finite, _bounded(error, RULE), 0.0)
    reach = tl.where(finite, reach * scale, infinity)
    return (
        wrong,
        ~finite & ~same,
        finite,
        units.to(tl.float32),
        error.to(tl.float32),
        step.to(tl.float32),
        reach.to(tl.float32),
    )


@triton.jit
def _load(pointer, rows, columns, row_stride, column_stride, inside, EVEN: tl.constexpr):
    """A block as it is stored, zero outside; ``rows`` and ``columns`` are 64 bit."""
    place = pointer + rows[:, None] * row_stride + columns[None, :] * column_stride
    if EVEN:
        return tl.load(place)
    else:
        return tl.load(place, mask=inside, other=0.0)


@triton.jit
def _sum(values):
    return tl.sum(tl.sum(values, 1), 0)


@triton.jit
def _count(marks):
    return _sum(tl.where(marks, 1.0, 0.0))


@triton.jit
def _wide(values, RULE: tl.constexpr):
    if RULE.float64:
        return values.to(tl.float64)
    else:
        return values.to(tl.float32)


@triton.jit
def _screen_kernel(
    actual,
    expected,
    magnitude,
    near_ties,
    records,
    tiles,
    rows,
    columns,
    actual_row,
    actual_column,
    expected_row,
    expected_column,
    magnitude_row,
    magnitude_column,
    near_row,
    near_column,
    high_of_magnitude,
    low_of_magnitude,
    high_of_expected,
    low_of_expected,
    RULE: tl.constexpr,
    EVEN: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    FIELDS: tl.constexpr,
):
    # Triton passes floats as float32, so each factor comes in two parts.
    of_magnitude = _wide(high_of_magnitude, RULE) + _wide(low_of_magnitude, RULE)
    of_expected = _wide(high_of_expected, RULE) + _wide(low_of_expected, RULE)
    bands = tl.cdiv(columns, BLOCK)
    program = tl.program_id(0)
    top = (program // bands) * TILE
    left = (program % bands) * BLOCK
    lanes = left + tl.arange(0, BLOCK)
    along = lanes.to(tl.int64)
    within = lanes < columns
    high = tl.minimum(rows - top, TILE)

    largest = tl.zeros((BLOCK,), tl.float32)
    steps = tl.zeros((BLOCK,), tl.float32)
    outward = tl.zeros((BLOCK,), tl.float32)
    squared_steps = tl.zeros((BLOCK,), tl.float32)
    absolute = tl.zeros((BLOCK,), tl.float32)
    squared = tl.zeros((BLOCK,), tl.float32)
    allowance = tl.zeros((BLOCK,), tl.float32)
    counted = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, high, STEP, num_stages=STAGES):
        down = top + start + tl.arange(0, STEP)
        inside = (down < rows)[:, None] & within[None, :]
        across = down.to(tl.int64)
        a = _load(actual, across, along, actual_row, actual_column, inside, EVEN)
        e = _load(expected, across, along, expected_row, expected_column, inside, EVEN)
        m = e
        n = e
        if RULE.magnitude:
            m = _load(magnitude, across, along, magnitude_row, magnitude_column, inside, EVEN)
        if RULE.near_ties:
            n = _load(near_ties, across, along, near_row, near_column, inside, EVEN)
        wide = _wide(e, RULE)
        error, step, reach, units = _screen(
            _wide(a, RULE), wide, _wide(m, RULE), _wide(n, RULE), of_magnitude, of_expected, RULE
        )
        if RULE.magnitude:
            units = tl.where(_unfit(m), float("inf"), units)
        if RULE.near_ties:
            units = tl.where(_unfit(n), float("inf"), units)
        largest = _larger(largest, tl.reduce(units, 0, _larger))
        if RULE.magnitude or RULE.near_ties:
            sharp = reach <= RULE.sharp
            if not EVEN:
                sharp &= inside
            error = tl.where(sharp, error, 0.0)
            step = tl.where(sharp, step, 0.0)
            allowance += tl.sum(tl.where(sharp, reach, 0.0), 0)
            counted += tl.sum(tl.where(sharp, 1.0, 0.0), 0)
        steps += tl.sum(step, 0)
        outward += tl.sum(_outward(step, wide, RULE), 0)
        absolute += tl.sum(tl.abs(error), 0)
        squared += tl.sum(error * error, 0)
        if RULE.rounds:
            squared_steps += tl.sum(step * step, 0)

    largest = largest / _unit(of_magnitude, of_expected, RULE)
    if not RULE.magnitude and not RULE.near_ties:
        counted = tl.where(within, high.to(tl.float32), 0.0)
    if not RULE.rounds:
        squared_steps = squared
    record = records + program * FIELDS
    tl.store(record, tl.sum(counted, 0))
    tl.store(record + 1, tl.sum(steps, 0))
    tl.store(record + 2, tl.sum(outward, 0))
    tl.store(record + 3, tl.sum(squared_steps, 0))
    tl.store(record + 4, tl.sum(absolute, 0))
    tl.store(record + 5, tl.sum(squared, 0))
    tl.store(record + 6, tl.sum(allowance, 0))
    tl.store(record + 7, 0.0)
    tl.store(record + 8, 0.0)
    tl.store(record + 9, 0.0)
    tl.store(record + 10, 0.0)
    clear = tl.reduce(largest, 0, _larger) <= RULE.clear
    tl.store(record + 11, tl.where(clear, 0.0, 1.0))
    tile = left // TILE + tl.arange(0, BLOCK // TILE)
    tile_columns = tl.cdiv(columns, TILE)
    picture = tiles + (top // TILE) * tile_columns + tile
    maxima = tl.max(tl.reshape(largest, (BLOCK // TILE, TILE)), 1)
    tl.store(picture, maxima, mask=tile < tile_columns)


@triton.jit
def _judge_kernel(
    actual,
    expected,
    magnitude,
    near_ties,
    records,
    tiles,
    rows,
    columns,
    actual_row,
    actual_column,
    expected_row,
    expected_column,
    magnitude_row,
    magnitude_column,
    near_row,
    near_column,
    high_of_magnitude,
    low_of_magnitude,
    high_of_expected,
    low_of_expected,
    RULE: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    FIELDS: tl.constexpr,
):
    of_magnitude = _wide(high_of_magnitude, RULE) + _wide(low_of_magnitude, RULE)
    of_expected = _wide(high_of_expected, RULE) + _wide(low_of_expected, RULE)
    infinity = float("inf")
    bands = tl.cdiv(columns, BLOCK)
    count = tl.cdiv(rows, TILE) * bands
    tile_columns = tl.cdiv(columns, TILE)
    for band in range(tl.program_id(0), count, tl.num_programs(0)):
        record = records + band * FIELDS
        if tl.load(record + 11) != 0.0:
            top = (band // bands) * TILE
            left = (band % bands) * BLOCK
            high = tl.minimum(rows - top, TILE)
            field = tl.arange(0, FIELDS)
            total = tl.zeros((FIELDS,), tl.float32)
            for start in range(left, tl.minimum(left + BLOCK, columns), TILE):
                lanes = start + tl.arange(0, TILE)
                along = lanes.to(tl.int64)
                largest = tl.zeros((TILE,), tl.float32)
                for row in range(top, top + high, STEP):
                    down = row + tl.arange(0, STEP)
                    across = down.to(tl.int64)
                    inside = (down < rows)[:, None] & (lanes < columns)[None, :]
                    a = _load(actual, across, along, actual_row, actual_column, inside, False)
                    e = _load(expected, across, along, expected_row, expected_column, inside, False)
                    m = e
                    n = e
                    a = _wide(a, RULE)
                    wide = _wide(e, RULE)
                    negative = 0.0
                    unbounded = 0.0
                    bounded = tl.abs(wide) < infinity
                    if RULE.magnitude:
                        m = _load(
                            magnitude, across, along, magnitude_row, magnitude_column, inside, False
                        )
                        negative += _count(m < 0)
                        unbounded += _count(bounded & ~(tl.abs(m) < infinity))
                    if RULE.near_ties:
                        n = _load(near_ties, across, along, near_row, near_column, inside, False)
                        negative += _count(n < 0)
                        unbounded += _count(bounded & ~(tl.abs(n) < infinity))
                    m = _wide(m, RULE)
                    n = _wide(n, RULE)
                    wrong, mismatch, finite, units, error, step, reach = _judge(
                        a, wide, m, n, of_magnitude, of_expected, RULE
                    )
                    sharp = finite & inside
                    if RULE.magnitude or RULE.near_ties:
                        sharp &= reach <= RULE.sharp
                    error = tl.where(sharp, error, 0.0)
                    step = tl.where(sharp, step, 0.0)
                    reach = tl.where(sharp, reach, 0.0)
                    largest = tl.maximum(largest, tl.max(units, 0))
                    total += tl.where(field == 0, _count(sharp), 0.0)
                    total += tl.where(field == 1, _sum(step), 0.0)
                    total += tl.where(field == 2, _sum(_outward(step, wide, RULE)), 0.0)
                    total += tl.where(field == 3, _sum(step * step), 0.0)
                    total += tl.where(field == 4, _sum(tl.abs(error)), 0.0)
                    total += tl.where(field == 5, _sum(error * error), 0.0)
                    total += tl.where(field == 6, _sum(reach), 0.0)
                    total += tl.where(field == 7, _count(wrong), 0.0)
                    total += tl.where(field == 8, _count(mismatch), 0.0)
                    total += tl.where(field == 9, negative, 0.0)
                    total += tl.where(field == 10, unbounded, 0.0)
                place = (top // TILE) * tile_columns + start // TILE
                tl.store(tiles + place, tl.max(largest, 0))
            tl.store(record + field, total, mask=field < 12)


@triton.jit
def _finish_kernel(
    actual,
    expected,
    magnitude,
    near_ties,
    records,
    tiles,
    result,
    programs,
    rows,
    columns,
    actual_row,
    actual_column,
    expected_row,
    expected_column,
    magnitude_row,
    magnitude_column,
    near_row,
    near_column,
    high_of_magnitude,
    low_of_magnitude,
    high_of_expected,
    low_of_expected,
    RULE: tl.constexpr,
    TILE: tl.constexpr,
    FIELDS: tl.constexpr,
    USED: tl.constexpr,
    RECORDS: tl.constexpr,
    MAXIMA: tl.constexpr,
):
    of_magnitude = _wide(high_of_magnitude, RULE) + _wide(low_of_magnitude, RULE)
    of_expected = _wide(high_of_expected, RULE) + _wide(low_of_expected, RULE)
    field = tl.arange(0, FIELDS)
    total = tl.zeros((FIELDS,), tl.float64)
    for start in range(0, programs, RECORDS):
        which = start + tl.arange(0, RECORDS)
        place = records + which.to(tl.int64)[:, None] * FIELDS + field[None, :]
        known = (which < programs)[:, None] & (field < USED)[None, :]
        total += tl.sum(tl.load(place, mask=known, other=0.0).to(tl.float64), 0)
    tl.store(result + field, total, mask=field < USED)

    tile_columns = tl.cdiv(columns, TILE)
    count = tl.cdiv(rows, TILE) * tile_columns
    best = tl.full((MAXIMA,), -1.0, tl.float32)
    best_at = tl.zeros((MAXIMA,), tl.int32)
    for start in range(0, count, MAXIMA):
        which = start + tl.arange(0, MAXIMA)
        units = tl.load(tiles + which, mask=which < count, other=-1.0)
        best_at = tl.where(units > best, which, best_at)
        best = tl.maximum(best, units)
    worst_tile = tl.min(tl.where(best == tl.max(best, 0), best_at, count), 0)

    down = (worst_tile // tile_columns) * TILE + tl.arange(0, TILE)
    right = (worst_tile % tile_columns) * TILE + tl.arange(0, TILE)
    inside = (down < rows)[:, None] & (right < columns)[None, :]
    across = down.to(tl.int64)
    along = right.to(tl.int64)
    a = _wide(_load(actual, across, along, actual_row, actual_column, inside, False), RULE)
    e = _wide(_load(expected, across, along, expected_row, expected_column, inside, False), RULE)
    m = e
    n = e
    if RULE.magnitude:
        m = _load(magnitude, across, along, magnitude_row, magnitude_column, inside, False)
    if RULE.near_ties:
        n = _load(near_ties, across, along, near_row, near_column, inside, False)
    _, _, _, units, _, _, _ = _judge(
        a, e, _wide(m, RULE), _wide(n, RULE), of_magnitude, of_expected, RULE
    )
    units = tl.where(inside, units, -1.0)
    worst = tl.max(tl.max(units, 1), 0)
    index = across[:, None] * columns + along[None, :]
    first = tl.min(tl.min(tl.where(units == worst, index, 0x7FFFFFFFFFFFFFFF), 1), 0)
    chosen = index == first
    tl.store(result + USED, worst.to(tl.float64))
    tl.store(result + USED + 1, first.to(tl.float64))
    tl.store(result + USED + 2, tl.sum(tl.sum(tl.where(chosen, a, 0.0), 1), 0).to(tl.float64))
    tl.store(result + USED + 3, tl.sum(tl.sum(tl.where(chosen, e, 0.0), 1), 0).to(tl.float64))


@dataclass(frozen=True)
class Pending:
    """A pass that was enqueued: its results, once the device is done."""

    operands: Operands
    bands: _Bands
    result: Tensor
    records: Tensor
    tiles: Tensor

    def tally(self) -> Tally:
        """Wait for the device and read what it counted; launches again if it suspects an element.

        Raises no error: what is wrong is in the counts.
        """
        found = self.result.tolist()
        if found[_AWAITING]:
            self._judge()
            self.finish()
            found = self.result.tolist()
        rows, columns = self.operands.actual.shape
        in_ulps = 2.0 ** (mantissa_bits(self.operands.budget.dtype) - 1)
        budget, counted = self.operands.budget, int(found[0])
        allowance = found[6] * in_ulps
        if not self.operands.reach_varies:
            allowance = counted * 4 * in_ulps * (budget.of_magnitude + budget.of_expected)
        return Tally(
            total=rows * columns,
            columns=columns,
            counted=counted,
            steps=found[1] * in_ulps,
            steps_outward=found[2] * in_ulps,
            squared_steps=found[3] * in_ulps**2,
            absolute=found[4] * in_ulps,
            squared=found[5] * in_ulps**2,
            allowance=allowance,
            violations=int(found[7]),
            mismatches=int(found[8]),
            negative=bool(found[9]),
            unbounded=bool(found[10]),
            worst=found[_USED],
            index=int(found[_USED + 1]),
            actual=found[_USED + 2],
            expected=found[_USED + 3],
            tiles=self.tiles,
        )

    def screen(self, tuning: Tuning) -> None:
        """Enqueue the pass that reads every element."""
        bands, (rows, columns) = self.bands, self.operands.actual.shape
        with on(self.tiles.device):
            _screen_kernel[(bands.programs,)](
                *bands.tensors,
                self.records,
                self.tiles,
                rows,
                columns,
                *bands.numbers,
                RULE=bands.rule,
                EVEN=rows % TILE == 0 and columns % bands.block == 0,
                TILE=TILE,
                STEP=max(1, min(TILE, triton.next_power_of_2(rows), tuning.step // bands.block)),
                BLOCK=bands.block,
                STAGES=tuning.stages,
                FIELDS=_FIELDS,
                num_warps=tuning.warps,
                **({} if tuning.registers is None else {"maxnreg": tuning.registers}),
            )

    def finish(self) -> None:
        """Enqueue the sum over all bands and the search for the worst element."""
        bands = self.bands
        with on(self.tiles.device):
            _finish_kernel[(1,)](
                *bands.tensors,
                self.records,
                self.tiles,
                self.result,
                bands.programs,
                *self.operands.actual.shape,
                *bands.numbers,
                RULE=bands.rule,
                TILE=TILE,
                FIELDS=_FIELDS,
                USED=_USED,
                RECORDS=512,
                MAXIMA=8192,
                num_warps=16,
            )

    def _judge(self) -> None:
        bands = self.bands
        with on(self.tiles.device):
            _judge_kernel[(min(bands.programs, _JUDGES),)](
                *bands.tensors,
                self.records,
                self.tiles,
                *self.operands.actual.shape,
                *bands.numbers,
                RULE=bands.rule,
                TILE=TILE,
                STEP=16,
                BLOCK=bands.block,
                FIELDS=_FIELDS,
                num_warps=4,
            )


@dataclass(frozen=True)
class _Bands:
    """What all kernels of a pass are given, and how the matrix is cut among programs."""

    rule: Rule
    block: int
    programs: int
    tensors: tuple[Tensor, ...]
    numbers: tuple[float, ...]  # strides of the tensors, then the budget's factors


def measure(operands: Operands, tuning: Tuning | None = None) -> Tally:
    """Count ``operands`` in one pass on their device; no open scope sees the launches."""
    with suspended():
        return enqueue(operands, tuning).tally()


def enqueue(operands: Operands, tuning: Tuning | None = None) -> Pending:
    """Launch a pass over ``operands``, which must not be empty."""
    tuning = tuning or (WIDE if operands.wide else NARROW)
    (rows, columns), device = operands.actual.shape, operands.actual.device
    bands = _bands(operands, max(TILE, min(tuning.columns, triton.next_power_of_2(columns))))
    pending = Pending(
        operands,
        bands,
        result=torch.empty(_FIELDS, dtype=torch.float64, device=device),
        records=torch.empty(bands.programs * _FIELDS, dtype=torch.float32, device=device),
        tiles=torch.empty(math.ceil(rows / TILE), math.ceil(columns / TILE), device=device),
    )
    pending.screen(tuning)
    pending.finish()
    return pending


def _bands(operands: Operands, block: int) -> _Bands:
    rows, columns = operands.actual.shape
    optional = (operands.magnitude, operands.near_ties)
    tensors = (
        operands.actual,
        operands.expected,
        *(operands.actual if tensor is None else tensor for tensor in optional),
    )
    budget = operands.budget
    return _Bands(
        rule=_rule(operands),
        block=block,
        programs=math.ceil(rows / TILE) * math.ceil(columns / block),
        tensors=tensors,
        numbers=(
            *(stride for tensor in tensors for stride in tensor.stride()),
            *_parts(budget.of_magnitude),
            *_parts(budget.of_expected),
        ),
    )


def _rule(operands: Operands) -> Rule:
    kind = torch.float64 if operands.wide else torch.float32
    bias = 1023 if operands.wide else 127
    dtype, reference = operands.budget.dtype, operands.expected.dtype
    ulp = 2.0 ** (1 - mantissa_bits(dtype))
    own_ulp = 2.0 ** (1 - mantissa_bits(reference)) if operands.reference_is_rounded else 0.0
    smallest = [torch.finfo(t).smallest_normal for t in (dtype, reference)]
    form = ("<d", "<q") if operands.wide else ("<f", "<i")
    return Rule(
        float64=operands.wide,
        magnitude=operands.magnitude is not None,
        near_ties=operands.near_ties is not None,
        rounds=operands.steps_need_rounding,
        flat=_is_flat(operands, ulp),
        own=own_ulp / 2,
        own_ulp=own_ulp,
        own_least=_exponent(max(smallest)) + bias,
        ulp=ulp,
        magic=1.5 * ulp / torch.finfo(kind).eps,
        least=_exponent(smallest[0]) + bias,
        subnormal=struct.unpack(form[1], struct.pack(form[0], smallest_subnormal(dtype)))[0],
        beyond=2.0 ** _exponent(torch.finfo(dtype).max),
        clear=CLEAR,
        sharp=SHARP * ulp,
        most=LARGEST_STEP * ulp,
    )


def _is_flat(operands: Operands, ulp: float) -> bool:
    """Whether what accumulates within a binade is less than a sixteenth of an ulp of the output."""
    reach = 4 * (operands.budget.of_magnitude + operands.budget.of_expected)
    varies = operands.wide or operands.reach_varies or operands.steps_need_rounding
    return not varies and reach < ulp / 16


def _exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def _parts(value: float) -> tuple[float, float]:
    """``value`` as the sum of two float32."""
    high = struct.unpack("<f", struct.pack("<f", value))[0]
    return high, value - high
