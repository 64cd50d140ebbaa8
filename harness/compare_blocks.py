"""What a GPU's comparison computes of one element, as Triton functions over blocks.

The screen and the judgement are those of `harness.compare_elements` and `harness.compare_screen`.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

__all__ = ["Rule", "judge", "larger", "outward_of", "screen", "unfit", "unit"]


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
def larger(x, y):
    """The larger of two, NaN if either is."""
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
def outward_of(step, expected, RULE: tl.constexpr):
    """``step`` with its sign turned where ``expected`` is negative."""
    if RULE.float64:
        sign = (expected.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    else:
        sign = expected.to(tl.int32, bitcast=True)
    turned = step.to(tl.int32, bitcast=True) ^ (sign & -2147483648)
    return turned.to(tl.float32, bitcast=True)


@triton.jit
def unfit(bound):
    """Whether a bound has its sign bit set, or is NaN or infinite."""
    if bound.dtype == tl.float64:
        high = (bound.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
        return (high < 0) | (high >= 0x7FF00000)
    else:
        bits = bound.to(tl.float32).to(tl.int32, bitcast=True)
        return (bits < 0) | (bits >= 0x7F800000)


@triton.jit
def unit(of_magnitude, of_expected, RULE: tl.constexpr):
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
    far = (size + total) * (1 - 2.0**-22)
    binade = (far.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    allowed = tl.maximum(binade, 2.0) * (RULE.ulp / 4) + total
    allowed += (scale * _subnormal(RULE)).to(tl.float32)
    # One instruction and two products, where even an approximate division takes six.
    root = tl.rsqrt(allowed)
    units = (tl.abs(error) * root) * root
    if RULE.magnitude or RULE.near_ties:
        # In units of a subnormal reference a bound may exceed float32: that would clear anything.
        units = tl.where(reach < float("inf"), units, float("inf"))
    return error, step, reach, units


@triton.jit
def screen(actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE: tl.constexpr):
    """As ``_screen_each``; units are in ``unit``."""
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
def judge(actual, expected, magnitude, near_ties, of_magnitude, of_expected, RULE: tl.constexpr):
    """As `compare_elements.judged`: wrong, mismatch, finite, units, error, step, reach."""
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
