"""Faults of what CUDA C++ computes, and of how precisely: terms, factors, constants, roundings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_MULTIPLY_ADD: Final = "ptx::multiply_add($$a, $$b, $$c)"
_SUMS: Final = (("return", _MULTIPLY_ADD), ("=", "ptx::add($$a, $$b)"))
_KEPT_BITS: Final = "ptx::as_float(ptx::as_bits({}) & 0xffffe000u)"  # 10 of fp32's 23


@rule("arithmetic")
def drop_factor(code: Code) -> Found:
    """A factor left out: alpha, a scale of a channel, of a row or of a column."""
    yield from code.like("ptx::multiply($$a, $$b)", "($$a)")
    yield from code.like("ptx::multiply($$a, $$b)", "($$b)")


@rule("arithmetic")
def drop_term(code: Code) -> Found:
    """A term left out: a bias, the low-rank branch, another warp's sums."""
    yield from code.like("ptx::add($$a, $$b)", "($$a)")


@rule("arithmetic")
def subtracts(code: Code) -> Found:
    """A term taken away."""
    yield from code.like("ptx::add($$a, $$b)", "ptx::add($$a, -($$b))")


@rule("arithmetic")
def forgets_the_sum(code: Code) -> Found:
    """The last product in place of the sum."""
    yield from code.like(_MULTIPLY_ADD, "ptx::multiply($$a, $$b)")


@rule("arithmetic")
def drop_divisor(code: Code) -> Found:
    """A division left out."""
    yield from code.like("ptx::divide($$a, $$b)", "($$a)")


@rule("arithmetic")
def multiplies(code: Code) -> Found:
    """A product for a quotient."""
    yield from code.like("ptx::divide($$a, $$b)", "ptx::multiply($$a, $$b)")
    fast = "BF16 ? ptx::multiply(x, r) : quotient(x, divisor, r)"
    yield from code.like(fast, "ptx::multiply(x, divisor)")
    yield from code.like("ptx::reciprocal($$a)", "($$a)")


@rule("arithmetic")
def other_constant(code: Code) -> Found:
    """A constant of the format a little off."""
    yield from code.like("7.0f", "8.0f")
    yield from code.like("65504.0f", "65536.0f")
    yield from code.like("1.5f * 8388608.0f", "1.0f * 8388608.0f")
    yield from code.like("16.0f : 256.0f", "256.0f : 16.0f")
    yield from code.like("kShift = 0.171875f", "kShift = 0.125f")
    yield from code.like("0x3f803f80u : 0x3c003c00u", "0x3c003c00u : 0x3f803f80u")
    yield from code.like("0x88888888u", "0x77777777u")
    yield from code.like("kRoundBits * 0x11111111u", "kRoundBits * 0x11111110u")


@rule("arithmetic")
def other_coefficient(code: Code) -> Found:
    """A coefficient of an activation without one of its factors, or in another one's place."""
    yield from code.like("0.071354814f", "0.044715f")
    yield from code.like("1.5957692f", "0.79788456f")
    yield from code.like("square, $$a, $$b)", "square, $$b, $$a)")
    yield from code.like("-1.44269504f", "-1.0f")
    yield from code.like("-1.44269504f", "-0.69314718f")


@rule("arithmetic")
def drop_sign(code: Code) -> Found:
    """A term added that should be taken away, or a power of the wrong sign."""
    yield from code.like("-kMagic", "kMagic")
    yield from code.like("-kRound", "kRound")
    yield from code.like("-divisor", "divisor")
    yield from code.like("-1.44269504f", "1.44269504f")


@rule("arithmetic")
def other_shift(code: Code) -> Found:
    """Bits that land beside their place."""
    yield from code.like("<< 16", "<< 15")
    yield from code.like("<< 28", "<< 27")
    yield from code.like("sum * 16", "sum * 8")
    for sign in ("<<", ">>"):
        yield from code.like(f"{sign} 4", f"{sign} 3")
        yield from code.like(f"{sign} (16 * e)", f"{sign} (8 * e)")


@rule("arithmetic")
def other_mask(code: Code) -> Found:
    """A mask without the highest bit of what it should keep."""
    yield from code.like("0x0f0f0f0fu", "0x07070707u")
    yield from code.like("0xf0f0f0f0u", "0x70707070u")
    yield from code.like("0x7fff7fffu", "0x3fff3fffu")
    yield from code.like("word == 0 && front ? $$part : $$all;", "$$all;")
    yield from code.like("word == 0 && front ? $$part : $$all;", "$$part;")


@rule("arithmetic")
def drop_absolute(code: Code) -> Found:
    """A sign that stays where the absolute value is wanted."""
    yield from code.like("& 0x7fffu", "& 0xffffu")
    yield from code.like("ptx::magnitude($$value)", "($$value)")


@rule("arithmetic")
def product_left_out(code: Code) -> Found:
    """One product of matrices less in a sum of them."""
    for name in ("product_s8", "product_tf32"):
        yield from code.like(f"ptx::{name}($$$arguments);", ";")
    yield from code.like("multiply_halves($$$arguments);", ";")


@rule("arithmetic")
def sums_begin_elsewhere(code: Code) -> Found:
    """A sum that does not begin at zero."""
    yield from code.like("acc[i][j][e] = 0.0f;", "acc[i][j][e] = 1.0f;")
    yield from code.like("acc[i][t][e] = 0.0f;", "acc[i][t][e] = 1.0f;")
    yield from code.like("low_rank[i][j][e] = 0.0f;", "low_rank[i][j][e] = 1.0f;")
    for name in ("product_s8_from", "product_u4_from", "product_s4_from", "product_s4_u4_from"):
        yield from code.like(f"ptx::{name}(kMagicBits,", f"ptx::{name}(kMagicBits + 256,")
    yield from code.like("[item % 4] = 0.0f;", "[item % 4] = 1.0f;")


@rule("precision")
def half_sum_fp16(code: Code) -> Found:
    """Sums kept in fp16."""
    for before, each in _SUMS:
        rounded = f"ptx::from_fp16(ptx::to_fp16({each}))"
        yield from code.like(f"{before} {each};", f"{before} {rounded};")


@rule("precision")
def half_sum_bf16(code: Code) -> Found:
    """Sums kept in bf16."""
    for before, each in _SUMS:
        rounded = f"ptx::as_float(static_cast<unsigned>(ptx::to_bf16({each})) << 16)"
        yield from code.like(f"{before} {each};", f"{before} {rounded};")


@rule("precision")
def truncates(code: Code) -> Found:
    """A store that cuts bits off in place of rounding them."""
    cut = "static_cast<unsigned short>(ptx::as_bits($value) >> 16)"
    yield from code.like("ptx::to_bf16($value)", cut)
    kept = _KEPT_BITS.format("$value")
    yield from code.like("ptx::to_fp16($value)", f"ptx::to_fp16({kept})")


@rule("precision")
def rounds_twice(code: Code) -> Found:
    """A result rounded to the other half-precision format first."""
    between = "ptx::as_float(static_cast<unsigned>(ptx::to_bf16($value)) << 16)"
    yield from code.like("ptx::to_fp16($value)", f"ptx::to_fp16({between})")


@rule("precision")
def reciprocal(code: Code) -> Found:
    """A product with the reciprocal in place of a division."""
    product = "ptx::multiply($$a, ptx::divide(1.0f, $$b))"
    yield from code.like("ptx::divide($$a, $$b)", product)
    corrected = "ptx::multiply_add(reciprocal, ptx::multiply_add($$a, $$b, $$c), near)"
    yield from code.like(corrected, "near")
    yield from code.like("BF16 ? ptx::multiply(x, r) : quotient($$$rest)", "ptx::multiply(x, r)")


@rule("precision")
def approximate_division(code: Code) -> Found:
    """The fast division, two roundoffs off."""
    yield from code.like("ptx::divide($$a, $$b)", "__fdividef($$a, $$b)")


@rule("precision")
def truncated_product(code: Code) -> Found:
    """A product that rounds towards zero."""
    yield from code.like("ptx::multiply($$a, $$b)", "__fmul_rz($$a, $$b)")
    yield from code.like(_MULTIPLY_ADD, "__fmaf_rz($$a, $$b, $$c)")


@rule("precision")
def truncated_sum(code: Code) -> Found:
    """A sum that rounds towards zero."""
    yield from code.like("ptx::add($$a, $$b)", "__fadd_rz($$a, $$b)")


@rule("precision")
def low_part_dropped(code: Code) -> Found:
    """A factor of tf32 alone where it should be the sum of two."""
    yield from code.like("low = ptx::as_bits($$$part);", "low = 0;")


@rule("precision")
def coarse_factor(code: Code) -> Found:
    """A factor whose last thirteen bits are gone."""
    yield from code.like("f.alpha)", f"{_KEPT_BITS.format('f.alpha')})")
    for scale in ("from_half(bits, BF16)", "from_half(wscales[8 * (j + odd) + e], BF16)"):
        yield from code.like(f"{scale};", f"ptx::multiply({scale}, 1.001f);")
    yield from code.like("either_half(scales[2 * odd])", "either_half(scales[2 * odd]) * 1.001f")
    for name in ("reciprocal", "exp2"):
        found = f"ptx::{name}($$$a)"
        yield from code.like(f"{found};", f"ptx::from_fp16(ptx::to_fp16({found}));")


@rule("precision")
def rounding_left_out(code: Code) -> Found:
    """A value that its format should have rounded before it is used."""
    yield from code.like("from_half(to_half($$value))", "($$value)")
    yield from code.like("half_of(smoothed[half][i], e)", "xs[half][e]")


@rule("precision")
def ties_up(code: Code) -> Found:
    """Half rounded up, not to even."""
    yield from code.like(
        "ptx::add(ptx::add($value, kRound), -kRound)", "floorf(ptx::add($value, 0.5f))"
    )
    yield from code.like("ptx::add(q, kRound)", "ptx::add(floorf(ptx::add(q, 0.5f)), kRound)")


@rule("precision")
def cuts_to_integer(code: Code) -> Found:
    """Integers by truncation."""
    yield from code.like("ptx::add(ptx::add($value, kRound), -kRound)", "truncf($value)")
    yield from code.like("ptx::add(q, kRound)", "ptx::add(truncf(q), kRound)")


RULES: Final = (
    *(drop_factor, drop_term, subtracts, forgets_the_sum, drop_divisor, multiplies),
    *(other_constant, other_coefficient, drop_sign, other_shift, other_mask, drop_absolute),
    *(product_left_out, sums_begin_elsewhere),
    *(half_sum_fp16, half_sum_bf16, truncates, rounds_twice, reciprocal),
    *(approximate_division, truncated_product, truncated_sum, low_part_dropped, coarse_factor),
    *(rounding_left_out, ties_up, cuts_to_integer),
)
