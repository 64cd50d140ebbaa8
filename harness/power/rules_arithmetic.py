"""Faults of arithmetic in device code: a wrong operator, constant, factor, term or extremum."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final, TypeGuard

from harness.power.dataflow import Kinds, each
from harness.power.syntax import SYMBOLS, Found, Source, called, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPED: Final = {
    *("tl.arange", "tl.zeros", "tl.full", "tl.reshape", "tl.broadcast_to", "tl.program_id"),
}  # their numbers are shapes and axes, not values
EXTREMA: Final = {
    "tl.minimum": "tl.maximum", "tl.maximum": "tl.minimum",
    "tl.max": "tl.min", "tl.min": "tl.max",
}  # fmt: skip
OPPOSITES: Final[dict[type[ast.AST], str]] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
}  # fmt: skip
LARGE: Final = 1000.0  # a bound such as 65504 is missed by a fraction, not by one


def values(source: Source, kind: type[ast.BinOp]) -> Iterator[tuple[ast.BinOp, Kinds]]:
    """The operations of device code that compute values, not places."""
    for node, kinds in each(source, kind):
        if is_value(source, kinds, node):
            yield node, kinds


def is_value(source: Source, kinds: Kinds, node: ast.AST) -> bool:
    """Whether an expression is a value: neither an index nor a shape, nor part of one."""
    above: ast.AST | None = node
    while isinstance(above, ast.expr):
        if kinds.is_index(above) or called(above) in SHAPED or isinstance(above, ast.Slice):
            return False
        around = source.parent(above)
        if isinstance(around, ast.Subscript) and above is around.slice:
            return False
        if isinstance(around, ast.Compare) and any(map(kinds.is_index, _sides(around))):
            return False
        if isinstance(around, ast.keyword) or called(around or above) == "range":
            return False
        above = around
    return not isinstance(above, (ast.arguments, ast.AnnAssign))


def _sides(node: ast.Compare) -> list[ast.expr]:
    return [node.left, *node.comparators]


@rule("arithmetic")
def other_operator(source: Source) -> Found:
    """Addition for subtraction, division for multiplication, and back."""
    for node, _ in values(source, ast.BinOp):
        opposite = OPPOSITES.get(type(node.op))
        if opposite:
            yield source.operator(node.left, node.right, SYMBOLS[type(node.op)]), opposite


@rule("arithmetic")
def subtracts(source: Source) -> Found:
    """A sum that subtracts its terms."""
    for node, _ in _accumulations(source):
        yield source.operator(node.target, node.value, "+="), "-="


@rule("arithmetic")
def forgets_the_sum(source: Source) -> Found:
    """A sum that keeps its last term only."""
    for node, _ in _accumulations(source):
        yield source.operator(node.target, node.value, "+="), "="
    for call in _dots(source):
        accumulator = call.args[2]
        yield accumulator, f"tl.zeros_like({source.of(accumulator)})"


@rule("arithmetic")
def drop_term(source: Source) -> Found:
    """A bias, a low-rank part or any other term left out."""
    for statement, _ in _accumulations(source):
        yield statement, "pass"
    for node, kinds in values(source, ast.BinOp):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield node, source.atom(node.left)
            if isinstance(node.op, ast.Add) and source.of(node.right) not in kinds.parameters:
                yield node, source.atom(node.right)


@rule("arithmetic")
def drop_factor(source: Source) -> Found:
    """A scale, or any other factor, left out."""
    for node, kinds in values(source, ast.BinOp):
        if isinstance(node.op, ast.Mult) and _scales(kinds, node):
            yield node, source.atom(node.left)
            yield node, source.atom(node.right)


@rule("arithmetic")
def other_constant(source: Source) -> Found:
    """A constant that is off by one, by a factor of two, or for a bound by a fraction."""
    for node in _constants(source):
        yield node, other_number(node.value)


@rule("arithmetic")
def drop_sign(source: Source) -> Found:
    """A minus sign left out."""
    for node, kinds in each(source, ast.UnaryOp):
        if isinstance(node.op, ast.USub) and is_value(source, kinds, node):
            yield node, source.atom(node.operand)


@rule("arithmetic")
def flip_comparison(source: Source) -> Found:
    """Less for greater among values."""
    flipped: dict[type[ast.AST], str] = {ast.Lt: ">", ast.Gt: "<", ast.GtE: "<", ast.LtE: ">"}
    for node, kinds in each(source, ast.Compare):
        operator = type(node.ops[0])
        counts = any(map(kinds.is_index, _sides(node))) or not is_value(source, kinds, node)
        if operator in flipped and not counts:
            place = source.operator(node.left, node.comparators[0], SYMBOLS[operator])
            yield place, flipped[operator]


@rule("arithmetic")
def drop_absolute(source: Source) -> Found:
    """A magnitude that keeps its sign."""
    for call, _ in calls(source, "tl.abs"):
        yield call, f"({source.of(call.args[0])})"


@rule("arithmetic")
def other_extremum(source: Source) -> Found:
    """Minimum for maximum, and back."""
    for call, kinds in calls(source, *EXTREMA):
        if not kinds.is_index(call):
            yield call.func, EXTREMA[called(call)]


@rule("arithmetic")
def drop_clamp(source: Source) -> Found:
    """A bound left out; for an index, that of the last, shorter piece."""
    for call, _ in calls(source, "tl.minimum", "tl.maximum"):
        yield call, source.atom(call.args[0])
        yield call, source.atom(call.args[1])


@rule("arithmetic")
def drop_divisor(source: Source) -> Found:
    """A sum for a mean, a scale that was to be divided."""
    for call, _ in calls(source, "tl.div_rn"):
        yield call, source.atom(call.args[0])


@rule("arithmetic")
def multiplies(source: Source) -> Found:
    """A product for a quotient: the other convention for a scale."""
    for call, _ in calls(source, "tl.div_rn"):
        yield call, f"({source.atom(call.args[0])} * {source.atom(call.args[1])})"


@rule("arithmetic")
def reciprocal(source: Source) -> Found:
    """A product with a reciprocal for a division, which rounds twice."""
    for call, _ in calls(source, "tl.div_rn"):
        yield call, f"({source.atom(call.args[0])} * (1.0 / {source.atom(call.args[1])}))"


def calls(source: Source, *wanted: str) -> Iterator[tuple[ast.Call, Kinds]]:
    """The calls of device code to one of these functions."""
    for call, kinds in each(source, ast.Call):
        if called(call) in wanted:
            yield call, kinds


def _accumulations(source: Source) -> Iterator[tuple[ast.AugAssign, Kinds]]:
    for node, kinds in each(source, ast.AugAssign):
        if isinstance(node.op, ast.Add) and not kinds.is_index(node.target):
            yield node, kinds


def _dots(source: Source) -> Iterator[ast.Call]:
    return (call for call, _ in calls(source, "tl.dot") if len(call.args) > 2)  # noqa: PLR2004


def _scales(kinds: Kinds, node: ast.BinOp) -> bool:
    """Products of values; ``n * 1.0`` converts, it does not scale."""
    sides = (node.left, node.right)
    converts = any(isinstance(s, ast.Constant) and s.value == 1.0 for s in sides)
    return not (converts and any(map(kinds.is_index, sides)))


def _constants(source: Source) -> Iterator[ast.Constant]:
    for node, kinds in each(source, ast.Constant):
        if _is_number(node) and is_value(source, kinds, node) and not _tests(source, node):
            yield node
    for statement in source.tree.body:
        if isinstance(statement, ast.Assign) and called(statement.value) == "tl.constexpr":
            yield from (n for n in ast.walk(statement.value) if _is_number(n))


def _is_number(node: ast.AST) -> TypeGuard[ast.Constant]:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, (int, float))
        and not isinstance(node.value, bool)
    )


def _tests(source: Source, node: ast.AST) -> bool:
    """Whether a constant only guards: a comparison with zero, the neutral side of a choice."""
    return isinstance(source.parent(node), ast.Compare)


def other_number(value: object) -> str:
    """A number near another one: a power of two doubled, a bound missed by a fraction."""
    if isinstance(value, int):
        if value & (value + 1) == 0 and value > 7:  # noqa: PLR2004
            return hex(value >> 1)
        return str(value * 2 if value & (value - 1) == 0 and value > 7 else value + 1)  # noqa: PLR2004
    number = float(str(value))
    if abs(number) >= LARGE:
        return f"{number * 1.001:.8g}"
    return repr(number + 1) if number.is_integer() else repr(number * 2)


RULES: Final = (
    *(other_operator, subtracts, forgets_the_sum, drop_term, drop_factor, other_constant),
    *(drop_sign, flip_comparison, drop_absolute, other_extremum, drop_clamp, drop_divisor),
    *(multiplies, reciprocal),
)
