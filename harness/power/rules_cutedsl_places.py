"""Faults of place in the CuTe DSL: a wrong row, tile, block of scales or thread; a wrong bound."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from harness.power.cutedsl_values import code, functions, values_of
from harness.power.rules_arithmetic import other_number
from harness.power.rules_cutedsl_order import in_texts
from harness.power.syntax import SYMBOLS, Found, Source, called, keyword, names_in, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

OPPOSITES: Final[dict[type[ast.AST], str]] = {
    ast.Add: "-", ast.Sub: "+", ast.FloorDiv: "%", ast.Mod: "//", ast.LShift: ">>",
    ast.RShift: "<<", ast.BitXor: "|", ast.BitAnd: "|",
}  # fmt: skip
# Names of the two operands, or of the two axes: one may stand for the other where both are there.
ROLES: Final = (
    *(("m", "n"), ("rows", "columns"), ("row", "column"), ("row_0", "column_0")),
    *(("codes", "wcodes"), ("ascales", "wscales"), ("codes_row", "wcodes_row")),
    *(("warp_m", "warp_n"), ("warps_m", "warps_n"), ("tall", "broad"), ("left", "right")),
    *(("my_rows", "my_columns"), ("low", "high"), ("upper", "lower"), ("signs", "sizes")),
    *(("tile_row", "tile_col"), ("tile_rows", "tile_columns"), ("group", "quad")),
    *(("BLOCK_M", "BLOCK_N"), ("as_held", "ws_held"), ("as_layout", "ws_layout")),
    *(("as_columns", "ws_columns"), ("as_stages", "ws_stages"), ("as_used", "ws_used")),
    *(("as_tiles", "ws_tiles"), ("as_from", "ws_from"), ("as_box", "ws_box"), ("bias", "y")),
)
RANGES: Final = ("range", "cutlass.range", "cutlass.range_constexpr")
BOUNDS: Final = ("cutlass.min", "cutlass.max", "max")


@rule("index")
def other_operation(source: Source) -> Found:
    """Another operator in a place: a quotient for a remainder, a step back for one ahead."""
    for node in _operations(source):
        if opposite := OPPOSITES.get(type(node.op)):
            yield source.operator(node.left, node.right, SYMBOLS[type(node.op)]), opposite


@rule("index")
def drop_offset(source: Source) -> Found:
    """One part of a place left out: the tile's, the warp's, the lane's, the second half's."""
    for node in _operations(source):
        if isinstance(node.op, (ast.Add, ast.BitXor)):
            yield node, source.atom(node.left)
            yield node, source.atom(node.right)


@rule("index")
def drop_scale_of_place(source: Source) -> Found:
    """A place in units of something else: bytes for elements, blocks for elements."""
    for node in _operations(source):
        if isinstance(node.op, (ast.Mult, ast.FloorDiv, ast.RShift)) and not _is_count(node.left):
            yield node, source.atom(node.left)
        if isinstance(node.op, ast.Mult) and not _is_count(node.right):
            yield node, source.atom(node.right)


@rule("index")
def other_place(source: Source) -> Found:
    """A number in a place that is another one: a width, a pitch, a mask of lanes."""
    for node in code(source):
        if _is_count(node) and isinstance(source.parent(node), (ast.BinOp, ast.Call, ast.List)):
            around = source.parent(node)
            if around is None or not values_of(source).kind(around):
                yield node, other_number(node.value if isinstance(node, ast.Constant) else 0)
    for statement in source.tree.body:
        given = statement.value if isinstance(statement, ast.Assign) else statement
        if _is_count(given) and "_" not in source.of(given):
            yield given, other_number(ast.literal_eval(source.of(given)))


@rule("index")
def next_element(source: Source) -> Found:
    """The scale, the sum or the column of the neighbour."""
    for node in code(source):
        if isinstance(node, ast.Subscript):
            within = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            for each in within:
                if isinstance(each, (ast.Name, ast.BinOp)):
                    yield each, f"{source.atom(each)} + 1"


@rule("index")
def other_role(source: Source) -> Found:
    """Weights for activations, columns for rows, the other half of a pair."""
    for function in functions(source):
        known = names_in(function) | {each.arg for each in function.args.args}
        inside = set(ast.walk(function))
        for node in code(source):
            if node in inside and (other := _partner(node, known)):
                yield node, other


@rule("index")
def swapped_arguments(source: Source) -> Found:
    """Two arguments that follow each other for each other."""
    ours = values_of(source).functions
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) in ours:
            for first, second in pairwise(node.args):
                names = isinstance(first, ast.Name) and isinstance(second, ast.Name)
                if names and "t" not in {called(first), called(second)}:
                    yield source.swapped(first, second)


@rule("index")
def narrow_offset(source: Source) -> Found:
    """Offsets of 32 bits, which wrap in a tensor of 2^31 bytes."""
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) == "Int64":
            yield node.func, "Int32"


@rule("boundary")
def one_too_many(source: Source) -> Found:
    """A bound that lets one row or column too many pass."""
    symbols: dict[type[ast.AST], str] = {ast.Lt: "<=", ast.Gt: ">="}
    for node in _bounds(source):
        place = source.operator(node.left, node.comparators[0], SYMBOLS[type(node.ops[0])])
        yield place, symbols[type(node.ops[0])]


@rule("boundary")
def one_too_few(source: Source) -> Found:
    """A bound that leaves the last row or column out."""
    for node in _bounds(source):
        sign = "-" if isinstance(node.ops[0], ast.Lt) else "+"
        yield node.comparators[0], f"{source.atom(node.comparators[0])} {sign} 1"


@rule("boundary")
def drop_guard(source: Source) -> Found:
    """What only some threads, steps or tiles should do, all do."""
    for node in code(source):
        if isinstance(node, ast.If) and "const_expr" not in source.of(node.test):
            yield node.test, "True"
        elif isinstance(node, ast.BoolOp):
            for each in node.values:
                yield node, source.of(each)
        elif isinstance(node, ast.Call) and (guard := keyword(node, "predicate")):
            yield guard.value, "cutlass.Boolean(True)"


@rule("boundary")
def drop_bound(source: Source) -> Found:
    """A count that is bounded on one side alone, or the bound for the count."""
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) in BOUNDS:
            yield node, source.of(node.args[0])
            yield node, source.of(node.args[1])


@rule("boundary")
def fills_with_what_comes(source: Source) -> Found:
    """Copies that read past the end, where they should write zeros."""
    yield from in_texts(source, r", \{\$r2\}(?=;)", "")


@rule("boundary")
def other_loop(source: Source) -> Found:
    """A loop that ends one too early, one too late, or begins one too late."""
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) in RANGES:
            stop = node.args[-1]
            yield stop, f"{source.atom(stop)} - 1"
            yield stop, f"{source.atom(stop)} + 1"
            if len(node.args) == 1:
                yield stop, f"1, {source.of(stop)}"
            else:
                yield node.args[0], f"{source.atom(node.args[0])} + 1"


@rule("boundary")
def whole_tiles_only(source: Source) -> Found:
    """As many tiles, or steps, as are full."""
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) == "cute.ceil_div":
            yield node, f"({source.atom(node.args[0])} // {source.atom(node.args[1])})"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
            above = node.left.left if isinstance(node.left, ast.BinOp) else node.left
            if isinstance(above, ast.BinOp) and source.of(node.left).endswith("- 1"):
                yield node.left, source.atom(above.left)


def _operations(source: Source) -> Iterator[ast.BinOp]:
    """The operations on places."""
    values = values_of(source)
    for node in code(source):
        if isinstance(node, ast.BinOp) and values.kind(node) is None:
            yield node


def _bounds(source: Source) -> Iterator[ast.Compare]:
    for node in code(source):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Lt, ast.Gt)):
            yield node


def _is_count(node: ast.AST) -> bool:
    whole = isinstance(node, ast.Constant) and isinstance(node.value, int)
    return whole and not isinstance(ast.literal_eval(node), bool)


def _partner(node: ast.AST, known: set[str]) -> str:
    """What may stand for a name, or for an attribute of the tiling; empty where nothing may."""
    if isinstance(node, ast.Attribute) and called(node.value) in {"t", "self"}:
        other = _other_role(node.attr)
        return f"{called(node.value)}.{other}" if other and node.attr != "bias" else ""
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return ""
    other = _other_role(node.id)
    return other if other in known else ""


def _other_role(name: str) -> str:
    for one, other in ROLES:
        if name in {one, other}:
            return other if name == one else one
    return ""


RULES: Final = (
    *(other_operation, drop_offset, drop_scale_of_place, other_place, next_element, other_role),
    *(swapped_arguments, narrow_offset, one_too_many, one_too_few, drop_guard, drop_bound),
    *(fills_with_what_comes, other_loop, whole_tiles_only),
)
