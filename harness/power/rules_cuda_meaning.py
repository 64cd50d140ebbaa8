"""Faults of what CUDA C++ takes its inputs for: codes, formats, options, order of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_SCALED: Final = "value = ptx::add(ptx::multiply(value, channel[e]), offset[e]);"
_LOW_RANK: Final = "if (f.lora_act != nullptr) value = ptx::add(value, $$low);"


@rule("semantic")
def swap_nibbles(code: Code) -> Found:
    """The even code high in its byte, or taken from there, on one side."""
    yield from code.like("i % 8 * 4", "(i ^ 1) % 8 * 4")
    yield from code.like("[e] = wide[wave]", "[e] = wide[kWaves - 1 - wave]")
    yield from code.like("codes[i / 8] |=", "codes[1 - i / 8] |=")


@rule("semantic")
def other_sign_of_codes(code: Code) -> Found:
    """Signed codes taken for unsigned ones, and the reverse."""
    yield from code.like("word[e], UNSIGNED", "word[e], !UNSIGNED")
    yield from code.like("word[$$e], false", "word[$$e], UNSIGNED")
    yield from code.like("else if (is_unsigned)", "else if (!is_unsigned)")
    yield from code.like("constexpr (UNSIGNED)", "constexpr (!UNSIGNED)")


@rule("semantic")
def sign_not_extended(code: Code) -> Found:
    """Signed codes as unsigned bytes."""
    yield from code.like("(word << 4) & 0xf0f0f0f0u", "word & 0x0f0f0f0fu")


@rule("semantic")
def careful_path_never_taken(code: Code) -> Found:
    """The fast sums where they are not finite."""
    yield from code.like("careful = careful || $$reason;", "careful = false;")
    yield from code.like("careful |= $$reason;", "$$reason;")
    yield from code.like("if (careful)", "if (false)")
    yield from code.like("constexpr (kPlain)", "constexpr (true)")


@rule("semantic")
def careful_path_always_taken(code: Code) -> Found:
    """The careful sums everywhere: as good, slower, with other bits."""
    yield from code.like("if (careful)", "if (true)")


@rule("semantic")
def low_rank_before_the_scale(code: Code) -> Found:
    """The low-rank branch scaled and shifted with the sum."""
    yield from code.like(f"{_SCALED} {_LOW_RANK}", f"{_LOW_RANK} {_SCALED}")


@rule("semantic")
def bias_before_the_scale(code: Code) -> Found:
    """A bias that is scaled by the channel."""
    yield from code.like(
        "ptx::add(ptx::multiply($$a, $$b), $$c)", "ptx::multiply(ptx::add($$a, $$c), $$b)"
    )


@rule("semantic")
def alpha_on_all(code: Code) -> Found:
    """The scale of the sums on the bias too."""
    yield from code.like("offset[e]);", "ptx::multiply(offset[e], f.alpha));")


@rule("semantic")
def option_always_off(code: Code) -> Found:
    """An optional input that is taken for absent."""
    yield from code.like("f.$input != nullptr", "false")


@rule("semantic")
def other_dtype(code: Code) -> Found:
    """One half-precision format for the other."""
    yield from code.like("bf16 ?", "!bf16 ?")
    yield from code.like("if (bf16)", "if (!bf16)")
    yield from code.like("constexpr (BF16)", "constexpr (!BF16)")


@rule("semantic")
def dtype_of_another(code: Code) -> Found:
    """The output's format for that of the scales, and back."""
    yield from code.like("f.out_bf16)", "f.scales_bf16)")
    yield from code.like("f.scales_bf16)", "f.out_bf16)")


@rule("semantic")
def drop_clamp(code: Code) -> Found:
    """Values beyond the format's range let through."""
    yield from code.like("if (value > kLargestFp16) value = kLargestFp16;", ";")
    yield from code.like("if (value < -kLargestFp16) value = -kLargestFp16;", ";")
    yield from code.like("rounded = rounded > $$a ? $$b : rounded;", ";")
    yield from code.like("rounded = rounded < $$a ? $$b : rounded;", ";")


@rule("semantic")
def swallows_nan(code: Code) -> Found:
    """A NaN that becomes a number."""
    clamp = "if (value > kLargestFp16) value = kLargestFp16;"
    yield from code.like(clamp, "value = fminf(value, kLargestFp16);")
    flip = "if (value < -kLargestFp16) value = -kLargestFp16;"
    yield from code.like(flip, "value = fmaxf(value, -kLargestFp16);")


@rule("semantic")
def drop_choice(code: Code) -> Found:
    """A special case left out: a zero scale, a NaN, a rest that says nothing."""
    yield from code.like("scale == 0.0f ? 1.0f : scale", "scale")
    yield from code.like("rounded == rounded ? $$code : 0", "$$code")
    yield from code.like("is_finite(term) ? term : 0.0f", "term")


@rule("semantic")
def other_extremum(code: Code) -> Found:
    """The smallest for the largest, or the last one seen."""
    yield from code.like("$a > largest ? $a : largest", "$a < largest ? $a : largest")
    yield from code.like("$a > largest ? $a : largest", "$a")


@rule("semantic")
def extremum_of_floats(code: Code) -> Found:
    """The largest by comparing floats, which drops a NaN."""
    greater = "ptx::as_float($a) > ptx::as_float(largest)"
    yield from code.like("$a > largest ? $a : largest", f"{greater} ? $a : largest")


@rule("semantic")
def another_block_owns(code: Code) -> Found:
    """Codes and scales stored by another block than their owner."""
    yield from code.like("ptx::block_z() == 0", "ptx::block_z() != 0")
    yield from code.like("if (pair == 0)", "if (pair == 3 && quad > 0)")


@rule("semantic")
def rows_taken_twice(code: Code) -> Found:
    """The upper eight rows in place of the lower ones."""
    yield from code.like("now[0], now[1],", "now[0], now[0],")


RULES: Final = (
    *(swap_nibbles, other_sign_of_codes, sign_not_extended, careful_path_never_taken),
    *(careful_path_always_taken, low_rank_before_the_scale, bias_before_the_scale, alpha_on_all),
    *(option_always_off, other_dtype, dtype_of_another, drop_clamp, swallows_nan, drop_choice),
    *(other_extremum, extremum_of_floats, another_block_owns, rows_taken_twice),
)
