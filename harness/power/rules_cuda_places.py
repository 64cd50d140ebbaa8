"""Faults of where CUDA C++ reads and writes: lanes, rows, pitches, neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_BEFORE: Final = "(group > 0 ? group - 1 : 0)"
_SLICE_BEFORE: Final = "(slice > 0 ? slice - 1 : 0)"


@rule("index")
def other_lane(code: Code) -> Found:
    """A quotient for a remainder, and back, of a lane's number: columns for rows."""
    yield from code.like("lane / 4", "lane % 4")
    yield from code.like("lane % 4", "lane / 4")
    yield from code.like("lane % 16", "lane / 2")
    yield from code.like("lane / 16", "lane / 8 % 2")
    yield from code.like("lane / 8 % 2", "lane / 16")
    for by in ("kChunks", "kColumnChunks"):
        yield from code.like(f"lane / {by}", f"lane % {by}")
        yield from code.like(f"lane % {by}", f"lane / {by}")


@rule("index")
def other_warp(code: Code) -> Found:
    """A warp's place in the grid of warps, axes exchanged."""
    yield from code.like("place.warp / WARPS_N", "place.warp % WARPS_N")
    yield from code.like("place.warp % WARPS_N", "place.warp / WARPS_N")
    yield from code.like("ptx::thread() / 32 % WARPS_M", "ptx::thread() / 32 / WARPS_K")


@rule("index")
def other_thread(code: Code) -> Found:
    """A quotient for a remainder, and back, of a thread's number."""
    for by in ("kChunks", "Shape::kWords", "kSums"):
        yield from code.like(f"ptx::thread() / {by}", f"ptx::thread() % {by}")
        yield from code.like(f"ptx::thread() % {by}", f"ptx::thread() / {by}")
    for of, by in (("item", "kStrips"), ("item", "kChunks"), ("at", "kRowWords")):
        yield from code.like(f"{of} / {by}", f"{of} % {by}")
        yield from code.like(f"{of} % {by}", f"{of} / {by}")


@rule("index")
def scale_of_the_neighbour(code: Code) -> Found:
    """The scale, or the divisors, of the group before."""
    for name in ("acts", "weights"):
        yield from code.like(f"first_half({name}, group)", f"first_half({name}, {_BEFORE})")
    yield from code.like("kColumnsAt + group *", f"kColumnsAt + {_BEFORE} *")
    yield from code.like("(first + i) * 2 * kRowWords", "first * 2 * kRowWords")
    yield from code.like("rows[i].scale", "rows[kAtOnce - 1 - i].scale")
    yield from code.like("long long>(col / 64)", "long long>(col < 64 ? 0 : col / 64 - 1)")
    yield from code.like(
        "ascales[static_cast<long long>(group)", f"ascales[static_cast<long long>({_BEFORE})"
    )
    yield from code.like("smooth + 64LL * group", f"smooth + 64LL * {_BEFORE}")
    at = "smooth_of = smooth + 64LL * (from + {});"
    yield from code.like(at.format("slice"), at.format(_SLICE_BEFORE))
    yield from code.like("next.smooth + col", "next.smooth")


@rule("index")
def group_of_the_neighbour(code: Code) -> Found:
    """The codes of the group before, beside the right scales."""
    yield from code.like("2 * group +", f"2 * {_BEFORE} +")
    yield from code.like("32LL * (from + slice)", f"32LL * (from + {_SLICE_BEFORE})")
    yield from code.like("rows[i], stage_at", "rows[kAtOnce - 1 - i], stage_at")
    yield from code.like("stage_at, first + i", "stage_at, first")
    yield from code.like("+ 2 * group,", ",")
    yield from code.like("col + group", "col")


@rule("index")
def swizzle_dropped(code: Code) -> Found:
    """Chunks written where another side does not look for them, and the reverse."""
    yield from code.like("^ swizzle($$$row)", "")
    yield from code.like("(chunk ^ row ^ 4)", "(chunk ^ row)")
    yield from code.like("(chunk ^ row)", "chunk")
    yield from code.like("place[j % 2]", "place[0]")


@rule("index")
def swizzle_of_another_row(code: Code) -> Found:
    """Chunks looked for where another row has them."""
    yield from code.like("swizzle($row)", "swizzle($row + 2)")
    yield from code.like("row % kChunks;", "row / 2 % kChunks;")


@rule("index")
def other_tile_step(code: Code) -> Found:
    """Tiles of another height or width."""
    yield from code.like("16 * i", "8 * i")
    yield from code.like("8 * j", "16 * j")
    yield from code.like("8 * (j + odd)", "8 * j")
    yield from code.like("16 * (i + odd)", "16 * i")
    yield from code.like("scales_at + i * 32", "scales_at + i * 16")
    yield from code.like("kTilesM * 8", "kTilesM * 16")
    yield from code.like("kTilesM * 16", "kTilesM * 8")
    yield from code.like("2 * part", "part")


@rule("index")
def halves_exchanged(code: Code) -> Found:
    """The lower eight rows of a product for the upper ones."""
    yield from code.like("8 * half", "8 * (1 - half)")
    yield from code.like("ascale[i][e / 2]", "ascale[i][1 - e / 2]")
    yield from code.like("column_scale[e / 2]", "column_scale[1 - e / 2]")
    yield from code.like(
        "{either_half($$a), either_half($$b)}", "{either_half($$b), either_half($$a)}"
    )
    yield from code.like("smoothed[1], largest[1]", "smoothed[1], largest[0]")
    yield from code.like("item / 2 * 8", "item % 2 * 8")
    yield from code.like("e / 2 * 8", "e % 2 * 8")


@rule("index")
def matrices_exchanged(code: Code) -> Found:
    """Matrices of one load taken for one another's: of k, of tiles, of groups."""
    yield from code.like("2 * group + half % 2", "2 * group + half / 2")
    yield from code.like("part / 2 * 2 + half / 2", "part / 2 * 2 + half % 2")
    yield from code.like("first + ($$a ? half / 2 : $$b)", "first + ($$a ? half % 2 : $$b)")
    yield from code.like("$$one ? e / 2 : part % 2", "$$one ? e % 2 : part % 2")
    yield from code.like("[e % 2], word[e]", "[e / 2], word[e]")


@rule("index")
def half_in_front_forgotten(code: Code) -> Found:
    """Row scales at an odd half read as if they began at a whole word, in every group or in one."""
    yield from code.like("- in_front($$$a)", "")
    yield from code.like("+ in_front($$$a)", "")
    yield from code.like("(ptx::is_odd_half($$row) + $$groups) & 1", "ptx::is_odd_half($$row)")
    yield from code.like("(ptx::is_odd_half($$row) + $$groups) & 1", "($$groups) & 1")
    parity = "(operand.first + group * operand.odd) % 2"
    yield from code.like(parity, "operand.first")
    yield from code.like(parity, "group * operand.odd")
    yield from code.like("2 * word - front", "2 * word")


@rule("index")
def last_half_of_another_row(code: Code) -> Found:
    """The one half that cannot come in a word of two, of another row."""
    yield from code.like("= *from;", "= *(from - 1);")
    yield from code.like("kRowsAt + 4 * at) = *from;", "kRowsAt + 4 * at + 2) = *from;")
    yield from code.like("word.half + 1 == tile.rows", "word.half + 2 == tile.rows")


@rule("index")
def pitch_in_codes(code: Code) -> Found:
    """Rows as many bytes apart as they have codes, which are two a byte."""
    yield from code.like("(k / 2)", "(k)")
    yield from code.like("(n / 2)", "(n)")
    yield from code.like("k / 2LL", "k / 1LL")


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
    yield from code.like("(group) * m + at", "(group) * r + at")
    yield from code.like("(col / 64) * m + at", "(col / 64) * n + at")
    yield from code.like("word.group * tile.m", "word.group * tile.n")
    yield from code.like("tile.ascales, tile.m,", "tile.ascales, tile.n,")
    yield from code.like("tile.wscales, tile.n,", "tile.wscales, tile.m,")
    yield from code.like("move_on(cursor, tile.n)", "move_on(cursor, tile.m)")
    yield from code.like("* x_row", "* k")


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
    for name in ("down", "x_of", "smooth_of", "codes_of"):
        yield from code.like(f"{name} += $$distance;", ";")
    for name in ("codes", "scales"):
        yield from code.like(f"cursor.{name} += $$distance;", ";")
    yield from code.like("cursor.groups -= $$distance;", ";")
    yield from code.like("move_on($$$a);", ";")


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
    yield from code.like("a[1], b[0][1]", "a[0], b[0][1]")
    yield from code.like("word[2 * odd + 1]", "word[2 * odd]")


@rule("index")
def neighbours_exchanged(code: Code) -> Found:
    """Two neighbouring columns in one another's place."""
    yield from code.like("Float2{$$a, $$b}", "Float2{$$b, $$a}")
    yield from code.like("channel_of(f, column + 1)", "channel_of(f, column)")
    yield from code.like("channel[e]", "channel[1 - e]")
    yield from code.like("rows.scale[t][e % 2]", "rows.scale[t][1 - e % 2]")
    yield from code.like("2 * (lane % 4) + e", "2 * (lane % 4) + 1 - e")


RULES: Final = (
    *(other_lane, other_warp, other_thread, scale_of_the_neighbour, group_of_the_neighbour),
    *(swizzle_dropped, swizzle_of_another_row, other_tile_step, halves_exchanged),
    *(matrices_exchanged, half_in_front_forgotten, last_half_of_another_row),
    *(pitch_in_codes, other_pitch, narrow_offset, other_band, step_of_the_pointer),
    *(other_order_of_k, operands_exchanged, neighbours_exchanged),
)
