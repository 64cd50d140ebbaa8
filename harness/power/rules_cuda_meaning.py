"""Faults of what CUDA C++ takes its inputs for: codes, formats, options, order of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_SCALED: Final = "ptx::multiply(ptx::multiply(sum, f.alpha), channel.scale);"
_MOVED: Final = "const float moved = ptx::add(value, channel.offset);"
_SHIFTED: Final = "to_halves(ptx::add(half_of({0}, 0), kShift), ptx::add(half_of({0}, 1), kShift))"


@rule("semantic")
def swap_nibbles(code: Code) -> Found:
    """The even code high in its byte, or taken from there, on one side."""
    yield from code.like("i / 2], i % 2", "i / 2], 1 - i % 2")
    yield from code.like(
        "ptx::divide(smoothed(i), divisor)", "ptx::divide(smoothed(i ^ 1), divisor)"
    )
    yield from code.like("[e] = wide[wave]", "[e] = wide[kWaves - 1 - wave]")


@rule("semantic")
def codes_in_another_order(code: Code) -> Found:
    """Words of codes in one another's place, or the last code of a word first."""
    yield from code.like("made.word[part] =", "made.word[1 - part] =")
    yield from code.like("place) = made.word[0];", "place) = made.word[1];")
    yield from code.like("(int i = 7; i >= 0; --i)", "(int i = 0; i < 8; ++i)")


@rule("semantic")
def other_sign_of_codes(code: Code) -> Found:
    """Signed codes taken for unsigned ones, and the reverse."""
    yield from code.like("word[e], UNSIGNED", "word[e], !UNSIGNED")
    yield from code.like("word[$$e], false", "word[$$e], UNSIGNED")
    yield from code.like("else if (is_unsigned)", "else if (!is_unsigned)")
    for name in ("UNSIGNED", "NEXT_UNSIGNED", "kUnsigned"):
        yield from code.like(f"constexpr ({name})", f"constexpr (!{name})")
    for name in ("encode_group", "quantize_extreme"):
        yield from code.like(f"{name}<NEXT_UNSIGNED>", f"{name}<!NEXT_UNSIGNED>")


@rule("semantic")
def sign_not_extended(code: Code) -> Found:
    """Signed codes as unsigned bytes."""
    yield from code.like("(word << 4) & 0xf0f0f0f0u", "word & 0x0f0f0f0fu")
    yield from code.like("^ kApart", "")


@rule("semantic")
def careful_path_never_taken(code: Code) -> Found:
    """The fast sums where they are not finite."""
    yield from code.like("careful |= $$reason;", "$$reason;")
    yield from code.like("if (careful)", "if (false)")
    yield from code.like("if (ptx::any_lane(careful))", "if (false)")
    yield from code.like("constexpr (kPlain)", "constexpr (true)")
    yield from code.like("if (!ptx::any_lane(!plain)) return;", "return;")


@rule("semantic")
def careful_path_always_taken(code: Code) -> Found:
    """The careful sums everywhere: as good, slower, with other bits."""
    yield from code.like("if (careful)", "if (true)")
    yield from code.like("if (ptx::any_lane(careful))", "if (true)")
    yield from code.like("if (!ptx::any_lane(!plain)) return;", ";")


@rule("semantic")
def careful_path_for_the_others(code: Code) -> Found:
    """The fast sums for what needs the careful ones, and the reverse."""
    yield from code.like("if (careful)", "if (!careful)")
    yield from code.like("if (ptx::any_lane(careful))", "if (!ptx::any_lane(careful))")
    yield from code.like("constexpr (kPlain)", "constexpr (!kPlain)")
    yield from code.like(">= kCareful", "< kCareful")
    yield from code.like(
        "if (!ptx::any_lane(!plain)) return;", "if (ptx::any_lane(!plain)) return;"
    )


@rule("semantic")
def careful_bound_of_another(code: Code) -> Found:
    """Scales called careful from another format's bound on, or all that are a little larger."""
    yield from code.like("!BF16 ? 0x7c00u : $$bound << 7", "0x7c00u")
    yield from code.like("!PATH_S8 ? 231u : UNSIGNED ? 235u : 239u", "255u")


@rule("semantic")
def hides_an_extreme(code: Code) -> Found:
    """An operand for which fast quotients are wrong, taken for one of the others."""
    yield from code.like("signs.divisors && $$rest;", "$$rest;")
    yield from code.like("is_plain(largest[0], signs.zeros[0]) && $$rest;", "$$rest;")
    yield from code.like("&& is_plain(largest[1], signs.zeros[1]);", ";")
    yield from code.like("least > 0.0f", "true")
    yield from code.like("(zeros && largest == 0.0f)", "(largest == 0.0f)")
    yield from code.like("largest >= kLeast && largest <= kMost", "largest <= kMost")
    yield from code.like("largest >= kLeast && largest <= kMost", "largest >= kLeast")


@rule("semantic")
def low_rank_before_the_scale(code: Code) -> Found:
    """The low-rank branch scaled and shifted with the sum."""
    first = "ptx::add(ptx::multiply(sum, f.alpha), f.lora_act != nullptr ? low_rank : 0.0f)"
    scaled = f"ptx::multiply({first}, channel.scale);"
    whole = f"{_SCALED} {_MOVED} return activate($$$last);"
    yield from code.like(whole, f"{scaled} {_MOVED} return activate(moved);")


@rule("semantic")
def bias_before_the_scale(code: Code) -> Found:
    """A bias that is scaled by the channel."""
    first = "ptx::multiply(ptx::add(ptx::multiply(sum, f.alpha), channel.offset), channel.scale);"
    yield from code.like(f"{_SCALED} {_MOVED}", f"{first} const float moved = value;")


@rule("semantic")
def alpha_on_all(code: Code) -> Found:
    """The scale of the sums on the bias too, or on the low-rank branch."""
    for name in ("channel.offset", "low_rank"):
        yield from code.like(f"$a, {name})", f"$a, ptx::multiply({name}, f.alpha))")


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
    yield from code.like("made.scale == 0.0f ? 1.0f : made.scale", "made.scale")
    yield from code.like("rounded == rounded ? $$code : 0", "$$code")
    yield from code.like("is_finite(rest) ? rest : 0.0f", "rest")


@rule("semantic")
def other_extremum(code: Code) -> Found:
    """The smallest for the largest, or the last one seen."""
    yield from code.like("ptx::larger_or_nan($$a, $$b)", "ptx::smaller($$a, $$b)")
    yield from code.like("ptx::larger_or_nan($$a, $$b)", "($$b)")
    yield from code.like("ptx::smaller($$a, $$b)", "ptx::larger_or_nan($$a, $$b)")


@rule("semantic")
def extremum_of_floats(code: Code) -> Found:
    """The largest by comparing floats, which drops a NaN."""
    yield from code.like("ptx::larger_or_nan($$a, $$b)", "fmaxf($$a, $$b)")


@rule("semantic")
def another_block_owns(code: Code) -> Found:
    """Codes and scales stored by another block than their owner."""
    yield from code.like("turn == ptx::block_z()", "turn != ptx::block_z()")
    yield from code.like("ptx::block_y() == 0", "ptx::block_y() != 0")
    yield from code.like("if (pair == 0)", "if (pair == 3 && quad > 0)")


@rule("semantic")
def rows_taken_twice(code: Code) -> Found:
    """The upper eight rows in place of the lower ones."""
    yield from code.like("now[0], now[1],", "now[0], now[0],")


@rule("semantic")
def activation_of_another(code: Code) -> Found:
    """One activation for the other, or none."""
    yield from code.like("ACTIVATION == 2", "ACTIVATION != 2")
    yield from code.like(
        "return ptx::multiply(ptx::multiply(value, $$chosen), share);", "return value;"
    )


@rule("semantic")
def other_share_of_a_sigmoid(code: Code) -> Found:
    """The sigmoid of -z, of |z|, or the tangent's formula with what exp is of z itself."""
    yield from code.like("z < 0.0f ? decay : 1.0f", "z < 0.0f ? 1.0f : decay")
    yield from code.like("z < 0.0f ? decay : 1.0f", "1.0f")
    yield from code.like("z < 0.0f", "value > 0.0f")
    yield from code.like("float z = value;", "float z = -value;")


@rule("semantic")
def shift_out_of_place(code: Code) -> Found:
    """The shift of unsigned codes on what the next low-rank product takes, or left out."""
    load = "ptx::load_matrices(a, a_at + 2 * k);"
    each = f"if (NEXT_UNSIGNED) each = {_SHIFTED.format('each')};"
    yield from code.like(load, f"{load} for (unsigned& each : a) {each}")
    yield from code.like(
        "column - col)) = two;", f"column - col)) = NEXT_UNSIGNED ? {_SHIFTED.format('two')} : two;"
    )
    yield from code.like("if constexpr (NEXT_UNSIGNED)", "if constexpr (false)")


@rule("semantic")
def largest_code_of_another(code: Code) -> Found:
    """Scales that fit the other kind of codes."""
    yield from code.like("kUnsigned ? 15.0f : 7.0f", "kUnsigned ? 7.0f : 15.0f")
    yield from code.like("kUnsigned ? 0.0f : -kMostCode", "kUnsigned ? -kMostCode : 0.0f")


RULES: Final = (
    *(swap_nibbles, codes_in_another_order, other_sign_of_codes, sign_not_extended),
    *(careful_path_never_taken, careful_path_always_taken, careful_path_for_the_others),
    *(careful_bound_of_another, hides_an_extreme),
    *(low_rank_before_the_scale, bias_before_the_scale, alpha_on_all),
    *(option_always_off, other_dtype, dtype_of_another, drop_clamp, swallows_nan, drop_choice),
    *(other_extremum, extremum_of_floats, another_block_owns, rows_taken_twice),
    *(activation_of_another, other_share_of_a_sigmoid, shift_out_of_place),
    *(largest_code_of_another,),
)
