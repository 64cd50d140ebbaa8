"""The Triton kernels of a comparison on a GPU; `harness.compare_device` launches them.

Every kernel takes ``tensors``, the output, the reference, the magnitude and the near ties as
matrices, the output standing in for what there is not; ``strides``, of rows and columns of each;
and ``factors``, of the magnitude and of the reference, each in two parts, since Triton passes
floats as float32.

A record holds the sums over a band, then its largest error; the result of a pass the sums over all
bands, then the worst element. `Fields` says where.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from harness.compare_blocks import judge, larger, outward_of, screen, unfit, unit
from harness.tally import TILE

__all__ = ["Fields", "finish_kernel", "judge_kernel", "screen_kernel"]

_TILE = tl.constexpr(TILE)


class Fields(NamedTuple):
    """Where the numbers of a record stand, and those of the result."""

    counted: int = 0
    steps: int = 1
    outward: int = 2
    squared_steps: int = 3
    absolute: int = 4
    squared: int = 5
    allowance: int = 6
    violations: int = 7
    mismatches: int = 8
    negative: int = 9
    unbounded: int = 10
    awaiting: int = 11  # whether a closer look is due
    largest: int = 12  # error; all before it are sums
    width: int = 16  # of a record, for its address to be a multiple of 64 bytes
    worst: int = 12  # of the result: error, index, value and reference of the worst element


@triton.jit
def _load(pointer, rows, columns, row_stride, column_stride, inside, EVEN: tl.constexpr):
    """A block as it is stored, zero outside; ``rows`` and ``columns`` are 64 bit."""
    place = pointer + rows[:, None] * row_stride + columns[None, :] * column_stride
    if EVEN:
        return tl.load(place)
    else:
        return tl.load(place, mask=inside, other=0.0)


@triton.jit
def _read(tensors, strides, down, right, inside, RULE: tl.constexpr, EVEN: tl.constexpr):
    """A block of each tensor as it is stored, the reference standing in for what there is not."""
    rows = down.to(tl.int64)
    columns = right.to(tl.int64)
    actual = _load(tensors[0], rows, columns, strides[0], strides[1], inside, EVEN)
    expected = _load(tensors[1], rows, columns, strides[2], strides[3], inside, EVEN)
    magnitude = expected
    near_ties = expected
    if RULE.magnitude:
        magnitude = _load(tensors[2], rows, columns, strides[4], strides[5], inside, EVEN)
    if RULE.near_ties:
        near_ties = _load(tensors[3], rows, columns, strides[6], strides[7], inside, EVEN)
    return actual, expected, magnitude, near_ties


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
def _whole(factors, RULE: tl.constexpr):
    """The factors of the magnitude and of the reference, of their two parts each."""
    of_magnitude = _wide(factors[0], RULE) + _wide(factors[1], RULE)
    return of_magnitude, _wide(factors[2], RULE) + _wide(factors[3], RULE)


@triton.jit
def _totals(records, result, programs, FIELD: tl.constexpr, RECORDS: tl.constexpr):
    """Store the sums over all records; the first record of the largest error, and that error."""
    width: tl.constexpr = FIELD.width
    field = tl.arange(0, width)[None, :]
    total = tl.zeros((RECORDS, width), tl.float64)
    best = tl.full((RECORDS, width), -1.0, tl.float32)
    best_at = tl.zeros((RECORDS, width), tl.int32)
    for start in range(0, programs, RECORDS):
        which = (start + tl.arange(0, RECORDS))[:, None]
        known = (which < programs) & (field <= FIELD.largest)
        values = tl.load(records + which * width + field, mask=known, other=-1.0)
        total += tl.where(known, values, 0.0).to(tl.float64)
        best_at = tl.where(values > best, which, best_at)
        best = tl.maximum(best, values)
    sums = tl.sum(total, 0)[None, :]
    tl.store(result + field, sums, mask=field < FIELD.largest)
    best = tl.where(field == FIELD.largest, best, -1.0)
    largest = tl.max(tl.max(best, 1), 0)
    first = tl.where(best == largest, best_at, programs)
    return tl.min(tl.min(first, 1), 0), largest


@triton.jit
def _worst(
    tensors,
    strides,
    factors,
    result,
    rows,
    columns,
    top,
    left,
    RULE: tl.constexpr,
    FIELD: tl.constexpr,
    STEP: tl.constexpr,
):
    """Store the worst element of the tile that begins there, judged exactly."""
    of_magnitude, of_expected = _whole(factors, RULE)
    right = left + tl.arange(0, _TILE)
    best = tl.full((STEP, _TILE), -1.0, tl.float32)
    best_at = tl.zeros((STEP, _TILE), tl.int32)
    # Unrolled, so that all loads are in flight together.
    for row in tl.static_range(0, _TILE, STEP):
        down = top + row + tl.arange(0, STEP)
        inside = (down < rows)[:, None] & (right < columns)[None, :]
        a, e, m, n = _read(tensors, strides, down, right, inside, RULE, False)
        _, _, _, units, _, _, _ = judge(
            _wide(a, RULE),
            _wide(e, RULE),
            _wide(m, RULE),
            _wide(n, RULE),
            of_magnitude,
            of_expected,
            RULE,
        )
        units = tl.where(inside, units, -1.0)
        place = (down - top)[:, None] * _TILE + (right - left)[None, :]
        best_at = tl.where(units > best, place, best_at)
        best = tl.maximum(best, units)
    worst = tl.max(tl.max(best, 1), 0)
    place = tl.min(tl.min(tl.where(best == worst, best_at, _TILE * _TILE), 1), 0)
    row = (top + place // _TILE).to(tl.int64)
    column = (left + place % _TILE).to(tl.int64)
    # Outside if no tile has a largest error, all being NaN: bands are judged then.
    there = (row < rows) & (column < columns)
    a = tl.load(tensors[0] + row * strides[0] + column * strides[1], mask=there, other=0.0)
    e = tl.load(tensors[1] + row * strides[2] + column * strides[3], mask=there, other=0.0)
    result += FIELD.worst
    tl.store(result, worst.to(tl.float64))
    tl.store(result + 1, (row * columns + column).to(tl.float64))
    tl.store(result + 2, a.to(tl.float64))
    tl.store(result + 3, e.to(tl.float64))


@triton.jit
def screen_kernel(
    tensors,
    strides,
    factors,
    records,
    tiles,
    rows,
    columns,
    RULE: tl.constexpr,
    FIELD: tl.constexpr,
    EVEN: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Screen one band a program."""
    of_magnitude, of_expected = _whole(factors, RULE)
    bands = tl.cdiv(columns, BLOCK)
    program = tl.program_id(0)
    top = (program // bands) * _TILE
    left = (program % bands) * BLOCK
    right = left + tl.arange(0, BLOCK)
    within = right < columns
    high = tl.minimum(rows - top, _TILE)

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
        a, e, m, n = _read(tensors, strides, down, right, inside, RULE, EVEN)
        wide = _wide(e, RULE)
        error, step, reach, units = screen(
            _wide(a, RULE), wide, _wide(m, RULE), _wide(n, RULE), of_magnitude, of_expected, RULE
        )
        if RULE.magnitude:
            units = tl.where(unfit(m), float("inf"), units)
        if RULE.near_ties:
            units = tl.where(unfit(n), float("inf"), units)
        largest = larger(largest, tl.reduce(units, 0, larger))
        if RULE.magnitude or RULE.near_ties:
            sharp = reach <= RULE.sharp
            if not EVEN:
                sharp &= inside
            error = tl.where(sharp, error, 0.0)
            step = tl.where(sharp, step, 0.0)
            allowance += tl.sum(tl.where(sharp, reach, 0.0), 0)
            counted += tl.sum(tl.where(sharp, 1.0, 0.0), 0)
        steps += tl.sum(step, 0)
        outward += tl.sum(outward_of(step, wide, RULE), 0)
        absolute += tl.sum(tl.abs(error), 0)
        squared += tl.sum(error * error, 0)
        if RULE.rounds:
            squared_steps += tl.sum(step * step, 0)

    largest = largest / unit(of_magnitude, of_expected, RULE)
    if not RULE.magnitude and not RULE.near_ties:
        counted = tl.where(within, high.to(tl.float32), 0.0)
    if not RULE.rounds:
        squared_steps = squared
    worst = tl.reduce(largest, 0, larger)
    record = records + program * FIELD.width
    tl.store(record + FIELD.counted, tl.sum(counted, 0))
    tl.store(record + FIELD.steps, tl.sum(steps, 0))
    tl.store(record + FIELD.outward, tl.sum(outward, 0))
    tl.store(record + FIELD.squared_steps, tl.sum(squared_steps, 0))
    tl.store(record + FIELD.absolute, tl.sum(absolute, 0))
    tl.store(record + FIELD.squared, tl.sum(squared, 0))
    tl.store(record + FIELD.allowance, tl.sum(allowance, 0))
    tl.store(record + FIELD.violations + tl.arange(0, 4), tl.zeros((4,), tl.float32))
    tl.store(record + FIELD.awaiting, tl.where(worst <= RULE.clear, 0.0, 1.0))
    tl.store(record + FIELD.largest, worst)
    tile = left // _TILE + tl.arange(0, BLOCK // _TILE)
    tile_columns = tl.cdiv(columns, _TILE)
    picture = tiles + (top // _TILE) * tile_columns + tile
    maxima = tl.max(tl.reshape(largest, (BLOCK // _TILE, _TILE)), 1)
    tl.store(picture, maxima, mask=tile < tile_columns)


@triton.jit
def _judge_band(
    tensors,
    strides,
    of_magnitude,
    of_expected,
    record,
    tiles,
    rows,
    columns,
    top,
    left,
    RULE: tl.constexpr,
    FIELD: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    width: tl.constexpr = FIELD.width
    field = tl.arange(0, width)
    total = tl.zeros((width,), tl.float32)
    worst = 0.0
    for start in range(left, tl.minimum(left + BLOCK, columns), _TILE):
        right = start + tl.arange(0, _TILE)
        largest = 0.0
        for row in range(top, tl.minimum(top + _TILE, rows), STEP):
            down = row + tl.arange(0, STEP)
            inside = (down < rows)[:, None] & (right < columns)[None, :]
            a, e, m, n = _read(tensors, strides, down, right, inside, RULE, False)
            wide = _wide(e, RULE)
            bounded = tl.abs(wide) < float("inf")
            negative = 0.0
            unbounded = 0.0
            if RULE.magnitude:
                negative += _count(m < 0)
                unbounded += _count(bounded & ~(tl.abs(m) < float("inf")))
            if RULE.near_ties:
                negative += _count(n < 0)
                unbounded += _count(bounded & ~(tl.abs(n) < float("inf")))
            wrong, mismatch, finite, units, error, step, reach = judge(
                _wide(a, RULE),
                wide,
                _wide(m, RULE),
                _wide(n, RULE),
                of_magnitude,
                of_expected,
                RULE,
            )
            sharp = finite & inside
            if RULE.magnitude or RULE.near_ties:
                sharp &= reach <= RULE.sharp
            error = tl.where(sharp, error, 0.0)
            step = tl.where(sharp, step, 0.0)
            reach = tl.where(sharp, reach, 0.0)
            largest = tl.maximum(largest, tl.max(tl.max(units, 1), 0))
            total += tl.where(field == FIELD.counted, _count(sharp), 0.0)
            total += tl.where(field == FIELD.steps, _sum(step), 0.0)
            total += tl.where(field == FIELD.outward, _sum(outward_of(step, wide, RULE)), 0.0)
            total += tl.where(field == FIELD.squared_steps, _sum(step * step), 0.0)
            total += tl.where(field == FIELD.absolute, _sum(tl.abs(error)), 0.0)
            total += tl.where(field == FIELD.squared, _sum(error * error), 0.0)
            total += tl.where(field == FIELD.allowance, _sum(reach), 0.0)
            total += tl.where(field == FIELD.violations, _count(wrong), 0.0)
            total += tl.where(field == FIELD.mismatches, _count(mismatch), 0.0)
            total += tl.where(field == FIELD.negative, negative, 0.0)
            total += tl.where(field == FIELD.unbounded, unbounded, 0.0)
        tl.store(tiles + start // _TILE, largest)
        worst = tl.maximum(worst, largest)
    total += tl.where(field == FIELD.largest, worst, 0.0)
    tl.store(record + field, total)


@triton.jit
def judge_kernel(
    tensors,
    strides,
    factors,
    records,
    tiles,
    rows,
    columns,
    RULE: tl.constexpr,
    FIELD: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Judge every element of the bands that await it, and replace their records."""
    of_magnitude, of_expected = _whole(factors, RULE)
    bands = tl.cdiv(columns, BLOCK)
    count = tl.cdiv(rows, _TILE) * bands
    for band in range(tl.program_id(0), count, tl.num_programs(0)):
        if tl.load(records + band * FIELD.width + FIELD.awaiting) != 0.0:
            top = (band // bands) * _TILE
            left = (band % bands) * BLOCK
            _judge_band(
                tensors,
                strides,
                of_magnitude,
                of_expected,
                records + band * FIELD.width,
                tiles + (top // _TILE) * tl.cdiv(columns, _TILE),
                rows,
                columns,
                top,
                left,
                RULE,
                FIELD,
                STEP,
                BLOCK,
            )


@triton.jit
def finish_kernel(
    tensors,
    strides,
    factors,
    records,
    tiles,
    result,
    programs,
    rows,
    columns,
    RULE: tl.constexpr,
    FIELD: tl.constexpr,
    BLOCK: tl.constexpr,
    RECORDS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """Sum over all bands and find the worst element, in one program."""
    band, largest = _totals(records, result, programs, FIELD, RECORDS)
    bands = tl.cdiv(columns, BLOCK)
    band_row = band // bands
    tile_columns = tl.cdiv(columns, _TILE)
    tile = (band % bands) * (BLOCK // _TILE) + tl.arange(0, BLOCK // _TILE)
    picture = tiles + band_row * tile_columns + tile
    units = tl.load(picture, mask=tile < tile_columns, other=-1.0)
    worst = tl.min(tl.where(units == largest, tile, tile_columns), 0)
    _worst(
        tensors,
        strides,
        factors,
        result,
        rows,
        columns,
        band_row * _TILE,
        worst * _TILE,
        RULE,
        FIELD,
        STEP,
    )
