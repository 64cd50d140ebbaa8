"""Faults of where CUDA C++ stops: bounds of loops and of tensors, masks, last tiles and shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_EXTENTS: Final = (
    *("m", "n", "r", "f.m", "f.n", "groups", "until", "rows", "operand.code_rows"),
    *("tile.rows", "tile.columns", "count", "columns"),
)
_ENDS: Final = ("m", "r", "f.m", "f.n", "kPieces")  # of what is skipped from there on
_COUNTERS: Final = ("step", "rank", "turn", "piece", "other", "item")
_WIDE: Final = ("rank",)  # counters that do not go up by one
_BOTH: Final = (  # bounds of two axes
    ("of_m < m", "column < r"),
    ("chunk / 2 < groups", "row + j * kRowsAtOnce < rows"),
    ("lane / kColumnChunks < groups", "column < tile.columns"),
    ("row < tile.rows", "first + i < groups"),
    ("col + row < n", "first < next.r"),
    ("has_ranks", "row / 64 < until"),
    ("tile.columns >= BLOCK_N", "groups >= kGroups"),
    ("group < kGroups", "group < groups"),
    ("turn == ptx::block_z()", "group < until"),
)


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
    yield from code.like("if (at >= m) return;", ";")
    yield from code.like("word.half + 1 == tile.rows", "false")
    yield from code.like("group == groups - 1 && operand.halves == 1", "false")
    yield from code.like("kWhole || $$valid;", "true;")


@rule("boundary")
def half_mask(code: Code) -> Found:
    """A mask of rows without that of columns, or the other way round."""
    yield from code.like("at < m && column < n", "at < m")
    yield from code.like("at < m && column < n", "column < n")
    for one, other in _BOTH:
        yield from code.like(f"{one} && {other}", one)
        yield from code.like(f"{one} && {other}", other)
    yield from code.like("at >= m || rank >= next.r", "at >= m")
    yield from code.like("at >= m || rank >= next.r", "rank >= next.r")
    yield from code.like("group < groups && operand.halves > 0", "operand.halves > 0")
    yield from code.like("group < groups && operand.halves > 0", "group < groups")
    yield from code.like("finisher < 0 || piece >= kPieces ||", "finisher < 0 ||")
    valid = "valid = $$row < operand.code_rows && $$chunk < groups;"
    yield from code.like(valid, "valid = $$row < operand.code_rows;")
    yield from code.like(valid, "valid = $$chunk < groups;")


@rule("boundary")
def copies_past_the_end(code: Code) -> Found:
    """Asynchronous copies of what is not there, where zeros should be written."""
    yield from code.like(
        "ptx::copy_async($$to, $$from, valid)", "ptx::copy_async($$to, $$from, true)"
    )
    yield from code.like("valid ? 4 : 0", "4")
    yield from code.like("there[1] && present", "present")
    yield from code.like("bring_codes<BLOCK_M, false>", "bring_codes<BLOCK_M, true>")
    yield from code.like("bring_codes<BLOCK_N, false>", "bring_codes<BLOCK_N, true>")


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
    for name in sorted({*_COUNTERS} - {*_WIDE}):
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
    yield from code.like("f.n - col < BLOCK_N ? f.n - col : BLOCK_N", "BLOCK_N")
    yield from code.like("rows - row < kRows ? rows - row : kRows", "kRows")


RULES: Final = (
    *(one_too_many, one_too_few, drop_mask, half_mask, copies_past_the_end, bound_of_other_axis),
    *(shorter_loop, drop_first_step, whole_tiles_only, share_past_the_end),
)
