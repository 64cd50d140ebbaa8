"""Arithmetic over axis names (``k//64``, ``r <= k``), evaluated without ``eval``."""

from __future__ import annotations

import ast
import functools
import operator
from typing import TYPE_CHECKING, Final

from harness.registry import WrongDeclaration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BINARY: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[int, int], bool]]] = {
    ast.Eq: operator.eq,
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
}


class InvalidExpression(WrongDeclaration):
    """An expression with anything but axis names, integers, + - * // % and comparisons."""


def evaluate(text: str, sizes: Mapping[str, int]) -> int:
    """The integer (or truth value) of ``text`` with axes taken from ``sizes``."""
    try:
        return _value(_parsed(text), sizes)
    except (KeyError, ZeroDivisionError) as error:
        msg = f"expression={text!r}: {error}; axes here: {', '.join(sizes) or 'none'}"
        raise InvalidExpression(msg) from error


def axes(text: str) -> frozenset[str]:
    """The axis names in ``text``; raises InvalidExpression."""
    return frozenset(node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name))


@functools.cache  # a shape is evaluated some thousand times while a case's sizes are fitted
def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        msg = f"expression={text!r} is not arithmetic over axes: {error.msg}"
        raise InvalidExpression(msg) from error


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_value(left, sizes), _value(right, sizes))
    msg = f"{ast.unparse(node)!r} is not arithmetic over axes (+ - * // % and one comparison)"
    raise InvalidExpression(msg)
