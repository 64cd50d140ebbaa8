"""Faults of where CUDA C++ reads and writes: lanes, rows, pitches, neighbours, ends and tails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_EXTENTS: Final = ("m", "n", "r", "f.m", "f.n", "groups", "until", "rows", "operand.code_rows")
_ENDS: Final = ("m", "r", "f.m", "f.n", "until")  # of what is skipped from there on
_COUNTERS: Final = ("step", "rank", "turn", "piece", "other")
_BEFORE: Final = "(group > 0 ? group - 1 : 0)"


@rule("index")
def other_lane(code: Code) -> Found:
    """A quotient for a remainder, and back, of a lane's number: columns for rows."""
    yield from code.like("lane / 4", "lane % 4")
    yield from code.like("lane % 4", "lane / 4")
    yield from code.like("lane % 16", "lane / 2")
    yield from code.like("lane / 16", "lane / 8 % 2")
    yield from code.like("lane / 8 % 2", "lane / 16")


@rule("index")
def other_warp(code: Code) -> Found:
    """A warp's place in the grid of warps, axes exchanged."""
    yield from code.like("place.warp / WARPS_N", "place.warp % WARPS_N")
    yield from code.like("place.warp % WARPS_N", "place.warp / WARPS_N")
    yield from code.like("ptx::thread() / 32 % WARPS_M", "ptx::thread() / 32 / WARPS_K")


@rule("index")
def other_thread(code: Code) -> Found:
    """A quotient for a remainder, and back, of a thread's number."""
    for of, by in (("ptx::thread()", "kChunks"), ("ptx::thread()", "kRows"), ("index", "kSums")):
        yield from code.like(f"{of} / {by}", f"{of} % {by}")
        yield from code.like(f"{of} % {by}", f"{of} / {by}")


@rule("index")
def scale_of_the_neighbour(code: Code) -> Found:
    """The scale, or the divisors, of the group before."""
    yield from code.like("ascales + group", f"ascales + {_BEFORE}")
    yield from code.like("wscales + group", f"wscales + {_BEFORE}")
    yield from code.like(
        "ascales[static_cast<long long>(group)", f"ascales[static_cast<long long>({_BEFORE})"
    )
    yield from code.like("smooth + 64LL * group", f"smooth + 64LL * {_BEFORE}")


@rule("index")
def group_of_the_neighbour(code: Code) -> Found:
    """The codes of the group before, beside the right scales."""
    yield from code.like("2 * group +", f"2 * {_BEFORE} +")
    yield from code.like("32LL * group", f"32LL * {_BEFORE}")


@rule("index")
def swizzle_dropped(code: Code) -> Found:
    """Chunks written where another side does not look for them, and the reverse."""
    yield from code.like("^ swizzle($$$row)", "")


@rule("index")
def swizzle_of_another_row(code: Code) -> Found:
    """Chunks looked for where another row has them."""
    yield from code.like("swizzle($row)", "swizzle($row + 2)")


@rule("index")
def other_tile_step(code: Code) -> Found:
    """Tiles of another height or width."""
    yield from code.like("16 * i", "8 * i")
    yield from code.like("8 * j", "16 * j")
    yield from code.like("8 * (j + odd)", "8 * j")


@rule("index")
def halves_exchanged(code: Code) -> Found:
    """The lower eight rows of a product for the upper ones."""
    yield from code.like("8 * half", "8 * (1 - half)")
    yield from code.like("ascale[e / 2]", "ascale[1 - e / 2]")
    yield from code.like("{at[0], at[8]}", "{at[8], at[0]}")


@rule("index")
def pitch_in_codes(code: Code) -> Found:
    """Rows as many bytes apart as they have codes, which are two a byte."""
    yield from code.like("(k / 2)", "(k)")


@rule("index")
def other_pitch(code: Code) -> Found:
    """Rows as far apart as another tensor's."""
    yield from code.like("static_cast<long long>(at) * f.n", "static_cast<long long>(at) * f.m")
    yield from code.like("static_cast<long long>(at) * f.r", "static_cast<long long>(at) * f.n")
    yield from code.like(
        "static_cast<long long>(column) * f.r", "static_cast<long long>(column) * f.n"
    )
    yield from code.like("static_cast<long long>(at) * n", "static_cast<long long>(at) * m")
    yield from code.like("static_cast<long long>(at) * r", "static_cast<long long>(at) * m")
    yield from code.like("* m + at", "* r + at")


@rule("index")
def narrow_offset(code: Code) -> Found:
    """Offsets of 32 bits, which wrap in a tensor of 2^31 elements."""
    yield from code.like("static_cast<long long>($$place)", "($$place)")


@rule("index")
def other_band(code: Code) -> Found:
    """Tiles visited in an order that skips some and takes others twice."""
    yield from code.like("number % in_band", "number / in_band")
    yield from code.like("number / in_band", "number % in_band")
    yield from code.like("first + number % in_band", "number % in_band")
    yield from code.like("band * tile_cols", "band * tile_rows")


@rule("index")
def step_of_the_pointer(code: Code) -> Found:
    """A pointer that moves on by too little, or not at all."""
    yield from code.like("operand.codes += kPitch;", ";")
    yield from code.like("operand.scales += $$distance;", ";")
    yield from code.like("from += $$distance;", ";")


@rule("index")
def other_order_of_k(code: Code) -> Found:
    """The rows of one operand in another order of k than the other's."""
    yield from code.like("+ k % 2", "+ (1 - k % 2)")
    yield from code.like("k % 8 / 2 * 8 + k % 32 / 8 * 2", "k % 32 / 8 * 8 + k % 8 / 2 * 2")
    yield from code.like("32 * part + 8 * pair", "16 * part + 8 * pair")
    yield from code.like("rank + 4 * pair", "rank + 4 * (pair ^ 1)")


@rule("index")
def operands_exchanged(code: Code) -> Found:
    """Words of a product in one another's place."""
    yield from code.like("b[2], b[3]", "b[0], b[1]")
    yield from code.like(
        "{top[i], bottom[i], top[i + 1], bottom[i + 1]}",
        "{bottom[i], top[i], bottom[i + 1], top[i + 1]}",
    )
    yield from code.like("b[2 * product], b[2 * product + 1]", "b[2 * product + 1], b[2 * product]")
    yield from code.like("a[kWaves - 1], b[0][kWaves - 1]", "a[0], b[0][kWaves - 1]")
    yield from code.like("word[2 * odd + 1]", "word[2 * odd]")


@rule("index")
def neighbours_exchanged(code: Code) -> Found:
    """Two neighbouring columns in one another's place."""
    yield from code.like("Float2{$$a, $$b}", "Float2{$$b, $$a}")
    yield from code.like(".x : $$other.y", ".y : $$other.x")
    yield from code.like("wcscales[column + e]", "wcscales[column]")
    yield from code.like("bias[column + e]", "bias[column]")


@rule("boundary")
def one_too_many(code: Code) -> Found:
    """A bound that lets one row, column or group too many pass."""
    for extent in _EXTENTS:
        yield from code.like(f"$at < {extent}", f"$at <= {extent}")
    for extent in _ENDS:
        yield from code.like(f"if ($$at >= {extent})", f"if ($$at > {extent})")


@rule("boundary")
def one_too_few(code: Code) -> Found:
    """A bound that leaves the last row, column or group out."""
    for extent in _EXTENTS:
        yield from code.like(f"$at < {extent}", f"$at < {extent} - 1")
    for extent in _ENDS:
        yield from code.like(f"if ($$at >= {extent})", f"if ($$at >= {extent} - 1)")


@rule("boundary")
def drop_mask(code: Code) -> Found:
    """Reads and writes past the end."""
    for extent in ("m", "f.m", "f.n"):
        yield from code.like(f"if ($at < {extent})", "if (true)")
    yield from code.like("if ($$at) continue;", ";")


@rule("boundary")
def half_mask(code: Code) -> Found:
    """A mask of rows without that of columns, or the other way round."""
    yield from code.like("at < m && column < n", "at < m")
    yield from code.like("at < m && column < n", "column < n")
    yield from code.like("row + 8 * half < m && $$rest)", "row + 8 * half < m)")
    yield from code.like("row + 8 * half < m && $$group < until", "$$group < until")
    yield from code.like("operand.has_scales && group", "group")
    yield from code.like("group < GROUPS && group < groups", "group < GROUPS")
    yield from code.like("group < until && rank", "rank")
    valid = "valid = $$row < operand.code_rows && $$chunk < groups;"
    yield from code.like(valid, "valid = $$row < operand.code_rows;")
    yield from code.like(valid, "valid = $$chunk < groups;")


@rule("boundary")
def copies_past_the_end(code: Code) -> Found:
    """Asynchronous copies of what is not there, where zeros should be written."""
    yield from code.like(
        "ptx::copy_async($$to, $$from, valid)", "ptx::copy_async($$to, $$from, true)"
    )


@rule("boundary")
def bound_of_other_axis(code: Code) -> Found:
    """Columns held against the number of rows, or rows against that of columns."""
    yield from code.like("column >= f.n", "column >= f.m")
    yield from code.like("at >= f.m", "at >= f.n")
    yield from code.like("column < f.n", "column < f.m")


@rule("boundary")
def shorter_loop(code: Code) -> Found:
    """The last step left out."""
    for name in _COUNTERS:
        yield from code.like(f"; {name} < $$end;", f"; {name} < $$end - 1;")


@rule("boundary")
def drop_first_step(code: Code) -> Found:
    """The first step left out."""
    for name in sorted({*_COUNTERS} - {"rank"}):
        yield from code.like(f"(int {name} = $$first; $$end; ++{name})",
                             f"(int {name} = $$first + 1; $$end; ++{name})")  # fmt: skip
    yield from code.like("int rank = 0;", "int rank = 16;")


@rule("boundary")
def whole_tiles_only(code: Code) -> Found:
    """As many tiles, steps or shares as are full."""
    yield from code.like("($$all + $$one - 1) / $$one", "($$all) / $$one")


@rule("boundary")
def share_past_the_end(code: Code) -> Found:
    """The last share as long as the others, and the last band as high."""
    yield from code.like("from + share < $end ? from + share : $end", "from + share")
    yield from code.like("$$a < band ? $$a : band", "band")


RULES: Final = (
    *(other_lane, other_warp, other_thread, scale_of_the_neighbour, group_of_the_neighbour),
    *(swizzle_dropped, swizzle_of_another_row, other_tile_step, halves_exchanged),
    *(pitch_in_codes, other_pitch, narrow_offset, other_band, step_of_the_pointer),
    *(other_order_of_k, operands_exchanged, neighbours_exchanged, one_too_many, one_too_few),
    *(drop_mask, half_mask, copies_past_the_end, bound_of_other_axis, shorter_loop),
    *(drop_first_step, whole_tiles_only, share_past_the_end),
)
