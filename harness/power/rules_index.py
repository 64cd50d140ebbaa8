"""Faults of place in device code: a wrong stride, tile, group or offset; a wrong mask or bound."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from harness.power.dataflow import Kinds, each, kinds_of
from harness.power.rules_arithmetic import calls
from harness.power.syntax import SYMBOLS, Found, Source, called, keyword, names_in, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY: Final = ("tl.load", "tl.store")
BLOCK: Final = "BLOCK_"  # how the extents of a tile are named


def products(source: Source) -> Iterator[tuple[ast.BinOp, Kinds]]:
    """Multiplications of places: by a stride, a pitch, the extent of a tile."""
    for node, kinds in _places(source):
        if isinstance(node.op, ast.Mult):
            yield node, kinds


def _places(source: Source) -> Iterator[tuple[ast.BinOp, Kinds]]:
    for node, kinds in each(source, ast.BinOp):
        if kinds.is_index(node):
            yield node, kinds


@rule("index")
def other_stride(source: Source) -> Found:
    """The stride of the other axis of the same tensor."""
    for kinds in kinds_of(source):
        for first, second in kinds.stride_pairs:
            for name in _uses(kinds, first, second):
                yield name, second if name.id == first else first


@rule("index")
def unit_stride(source: Source) -> Found:
    """A stride taken for 1: right for contiguous tensors only."""
    for node, kinds in products(source):
        if isinstance(node.right, ast.Name) and node.right.id in kinds.strides:
            yield node, source.atom(node.left)


@rule("index")
def other_pitch(source: Source) -> Found:
    """Rows apart by the length of another axis."""
    for node, kinds in products(source):
        inside = [n for n in ast.walk(node.right) if isinstance(n, ast.Name)]
        for name in inside:
            if name.id in kinds.extents and kinds.is_index(node.left):
                yield name, _next(kinds.extents, name.id)


@rule("index")
def next_element(source: Source) -> Found:
    """Everything shifted by one: the next row, column or group."""
    for node, kinds in products(source):
        if _steps(kinds, node.right):
            yield node.left, f"({source.of(node.left)} + 1)"


@rule("index")
def previous_element(source: Source) -> Found:
    """The element before, where there is one: a scale of the neighbouring group."""
    for node, kinds in products(source):
        if _steps(kinds, node.right) and isinstance(node.left, ast.Name):
            yield node.left, f"tl.maximum({node.left.id} - 1, 0)"


@rule("index")
def drop_offset(source: Source) -> Found:
    """One part of a place left out: the tile's, the lane's, the second half's."""
    for node, kinds in _places(source):
        adds = isinstance(node.op, ast.Add) and kinds.is_index(node.left)
        if not adds or _is_pointer(kinds, node.left):
            continue
        for left_over in (node.left, node.right):
            same_shape = kinds.is_vector(left_over) == kinds.is_vector(node)
            if kinds.is_index(left_over) and same_shape:
                yield node, source.atom(left_over)


@rule("index")
def drop_scale_of_place(source: Source) -> Found:
    """A place in units of something else: bytes for elements, groups for elements."""
    for node, kinds in _places(source):
        named = isinstance(node.right, ast.Name) and node.right.id in kinds.strides
        if isinstance(node.op, (ast.Mult, ast.FloorDiv)) and not named:
            yield node, source.atom(node.left)


@rule("index")
def other_block(source: Source) -> Found:
    """The extent of a tile along another axis."""
    for node, kinds in each(source, ast.Name):
        blocks = tuple(name for name in kinds.constants if name.startswith(BLOCK))
        if node.id in blocks and len(blocks) > 1 and _counts_tiles(source, node):
            yield node, _next(blocks, node.id)


@rule("index")
def other_program_axis(source: Source) -> Found:
    """The tile's number along another axis of the grid."""
    for call, _ in calls(source, "tl.program_id"):
        axis = call.args[0]
        yield axis, "1" if source.of(axis) == "0" else "0"


@rule("index")
def quotient_for_remainder(source: Source) -> Found:
    """A quotient for a remainder, and back: tiles visited in an order that skips some."""
    for node, _ in _places(source):
        if isinstance(node.op, (ast.FloorDiv, ast.Mod)):
            symbol = SYMBOLS[type(node.op)]
            place = source.operator(node.left, node.right, symbol)
            yield place, "//" if symbol == "%" else "%"


@rule("index")
def later_start(source: Source) -> Found:
    """Lanes numbered from 1."""
    for call, _ in calls(source, "tl.arange"):
        yield call, f"(1 + {source.of(call)})"


@rule("index")
def drop_transpose(source: Source) -> Found:
    """An operand of a product as it lies."""
    for call, _ in calls(source, "tl.trans"):
        yield call, source.atom(call.args[0])


@rule("index")
def narrow_offset(source: Source) -> Found:
    """Offsets of 32 bits, which wrap in a tensor of 2^31 elements."""
    for node, _ in each(source, ast.Call):
        if not node.args or source.of(node.args[-1]) != "tl.int64":
            continue
        if called(node) == "tl.cast":
            yield node, source.atom(node.args[0])
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            yield node, source.atom(node.func.value)


@rule("boundary")
def drop_mask(source: Source) -> Found:
    """Reads and writes past the end."""
    for call, _ in calls(source, *MEMORY):
        if call.keywords and keyword(call, "mask"):
            last = source.span(call.keywords[-1])[1]
            yield (source.span(call.args[-1])[1], last), ""


@rule("boundary")
def half_mask(source: Source) -> Found:
    """A mask of rows without that of columns, or the other way round."""
    for node, kinds in each(source, ast.BinOp):
        both = _is_mask(kinds, node.left) and _is_mask(kinds, node.right)
        if both and isinstance(node.op, ast.BitAnd):
            yield node, source.atom(node.left)
            yield node, source.atom(node.right)


@rule("boundary")
def one_too_many(source: Source) -> Found:
    """A mask that lets one row or column too many pass."""
    for node, _ in _bounds(source):
        yield source.operator(node.left, node.comparators[0], "<"), "<="


@rule("boundary")
def one_too_few(source: Source) -> Found:
    """A mask that leaves the last row or column out."""
    for node, _ in _bounds(source):
        bound = node.comparators[0]
        yield bound, f"{source.atom(bound)} - 1"


@rule("boundary")
def bound_of_other_axis(source: Source) -> Found:
    """Columns held against the number of rows."""
    for node, kinds in _bounds(source):
        for name in ast.walk(node.comparators[0]):
            if isinstance(name, ast.Name) and name.id in kinds.extents:
                yield name, _next(kinds.extents, name.id)


@rule("boundary")
def other_filling(source: Source) -> Found:
    """What is read past the end is not neutral."""
    for call, _ in calls(source, "tl.load"):
        if filling := keyword(call, "other"):
            text = source.of(filling.value)
            yield filling.value, {"0": "1", "0.0": "1.0", "1.0": "0.0"}.get(text, "1")


@rule("boundary")
def shorter_loop(source: Source) -> Found:
    """The last element, or the last step, left out."""
    for node in _ranges(source):
        stop = node.args[0] if len(node.args) == 1 else node.args[1]
        yield stop, f"{source.atom(stop)} - 1"


@rule("boundary")
def longer_loop(source: Source) -> Found:
    """A step past the end, where no mask stops it."""
    for node in _ranges(source):
        if len(node.args) == 1:
            yield node.args[0], f"{source.atom(node.args[0])} + 1"


@rule("boundary")
def drop_partial_tile(source: Source) -> Found:
    """The last tile left out unless it is full."""
    for node in _ranges(source):
        if len(node.args) > 2:  # noqa: PLR2004
            stop, step = source.atom(node.args[1]), source.atom(node.args[2])
            yield node.args[1], f"{stop} // {step} * {step}"


@rule("boundary")
def drop_first_step(source: Source) -> Found:
    """The first tile left out."""
    for node in _ranges(source):
        if len(node.args) == 1:
            yield node.args[0], f"1, {source.of(node.args[0])}"
        else:
            yield node.args[0], source.of(node.args[-1]) if len(node.args) > 2 else "1"  # noqa: PLR2004


@rule("boundary")
def whole_tiles_only(source: Source) -> Found:
    """As many tiles as are full."""
    for call, _ in calls(source, "tl.cdiv"):
        yield call, f"({source.atom(call.args[0])} // {source.atom(call.args[1])})"


def _uses(kinds: Kinds, *wanted: str) -> Iterator[ast.Name]:
    for node in ast.walk(kinds.function):
        if isinstance(node, ast.Name) and node.id in wanted:
            yield node


def _next(names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


def _steps(kinds: Kinds, node: ast.AST) -> bool:
    """Whether a factor is the distance of two elements of one axis."""
    return bool(names_in(node) & {*kinds.strides, *kinds.extents})


def _is_pointer(kinds: Kinds, node: ast.AST) -> bool:
    """Whether a sum begins with a tensor; without it nothing can be read at all."""
    while isinstance(node, (ast.BinOp, ast.Subscript)):
        node = node.left if isinstance(node, ast.BinOp) else node.value
    if not isinstance(node, ast.Name):
        return False
    tensors = set(kinds.parameters) - set(kinds.constants) - set(kinds.sizes)
    return node.id in tensors or node.id.endswith(("_ptrs", "_rows"))


def _counts_tiles(source: Source, node: ast.AST) -> bool:
    """Whether a name multiplies a tile's number, or divides an extent into tiles."""
    around = source.parent(node)
    if isinstance(around, ast.BinOp):
        return isinstance(around.op, ast.Mult)
    return isinstance(around, ast.Call) and called(around) in {"tl.cdiv", "range"}


def _bounds(source: Source) -> Iterator[tuple[ast.Compare, Kinds]]:
    """Comparisons of places with the end."""
    for node, kinds in each(source, ast.Compare):
        if isinstance(node.ops[0], ast.Lt) and kinds.is_index(node.left):
            yield node, kinds


def _is_mask(kinds: Kinds, node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_mask(kinds, node.value)
    if isinstance(node, ast.Compare):
        return kinds.is_index(node.left)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _is_mask(kinds, node.left)
    return isinstance(node, ast.Name) and node.id in _masks(kinds)


def _masks(kinds: Kinds) -> set[str]:
    found = set()
    for node in ast.walk(kinds.function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            if isinstance(value, ast.Compare) and kinds.is_index(value.left):
                found.add(node.targets[0].id)
    return found


def _ranges(source: Source) -> Iterator[ast.Call]:
    return (call for call, _ in calls(source, "range", "tl.range"))


RULES: Final = (
    *(other_stride, unit_stride, other_pitch, next_element, previous_element, drop_offset),
    *(drop_scale_of_place, other_block, other_program_axis, quotient_for_remainder, later_start),
    *(drop_transpose, narrow_offset, drop_mask, half_mask, one_too_many, one_too_few),
    *(bound_of_other_axis, other_filling, shorter_loop, longer_loop, drop_partial_tile),
    *(drop_first_step, whole_tiles_only),
)
