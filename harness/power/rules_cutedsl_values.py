"""Faults of arithmetic, of rounding and of meaning in the CuTe DSL."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from harness.power.cutedsl_values import Kind, code, values_of
from harness.power.rules_arithmetic import other_number
from harness.power.rules_cutedsl_order import in_texts
from harness.power.syntax import SYMBOLS, Found, Source, called, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

OPPOSITES: Final[dict[type[ast.AST], str]] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.BitOr: "&", ast.BitAnd: "|",
    ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
HALVES: Final = ("Float16", "BFloat16")


@rule("arithmetic")
def other_operator(source: Source) -> Found:
    """Another operator between two values."""
    for node, _ in _operations(source):
        if opposite := OPPOSITES.get(type(node.op)):
            place = source.operator(node.left, node.right, SYMBOLS[type(node.op)])
            yield place, opposite


@rule("arithmetic")
def drop_term(source: Source) -> Found:
    """A bias, another slice's sum, the sign of a code or any other term left out."""
    for node, _ in _operations(source):
        if isinstance(node.op, (ast.Add, ast.BitOr)):
            yield node, source.atom(node.left)
            yield node, source.atom(node.right)


@rule("arithmetic")
def drop_factor(source: Source) -> Found:
    """A scale, alpha, or any other factor left out; a word neither shifted nor masked."""
    for node, _ in _operations(source):
        if isinstance(node.op, ast.Mult):
            yield node, source.atom(node.right)
        if isinstance(node.op, (ast.Mult, ast.BitAnd, ast.LShift, ast.RShift)):
            yield node, source.atom(node.left)


@rule("arithmetic")
def other_constant(source: Source) -> Found:
    """A constant, mask or shift that is another one."""
    for node in code(source):
        if _is_number(node) and _part_of_value(source, node):
            yield node, _other(source, node)
    for node in _numbers_of_module(source):
        if isinstance(node.value, float) or "_" in source.of(node):
            yield node, _other(source, node)
    yield from in_texts(source, r"0x7400", "0x7800")


@rule("arithmetic")
def drop_sign(source: Source) -> Found:
    """A minus sign left out."""
    for node in code(source):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, source.atom(node.operand)


@rule("precision")
def truncates(source: Source) -> Found:
    """A conversion to 16 bits that cuts instead of rounding."""
    yield from in_texts(source, r"(?<=\bcvt\.)rn(?=\.)", "rz")


@rule("precision")
def round_value(source: Source) -> Found:
    """An intermediate value of 16 bits, and a result rounded twice."""
    for node in _whole_numbers(source):
        for half in HALVES:
            yield node, f"{source.atom(node)}.to(cutlass.{half}).to(cutlass.Float32)"
    for call in code(source):
        if isinstance(call, ast.Call) and called(call).endswith(".to") and len(call.args) == 1:
            to = source.of(call.args[0])
            if isinstance(call.func, ast.Attribute) and not to.startswith("cutlass."):
                for half in HALVES:
                    yield call, f"{source.atom(call.func.value)}.to(cutlass.{half}).to({to})"


@rule("precision")
def off_by_a_factor(source: Source) -> Found:
    """A result that is off by a small factor."""
    for node in _whole_numbers(source):
        yield node, f"({source.of(node)}) * 1.001"


@rule("semantic")
def other_format(source: Source) -> Found:
    """The result in the other 16-bit format, whichever was asked for."""
    yield from in_texts(source, r"(?<=\bcvt\.rn\.)bf16x2", "f16x2")
    yield from in_texts(source, r"(?<=\bcvt\.rn\.)f16x2", "bf16x2")


@rule("semantic")
def other_choice(source: Source) -> Found:
    """A variant chosen when it is not asked for; a special case for all others, or untreated."""
    for node in code(source):
        if isinstance(node, ast.Call) and called(node) == "choose":
            _, first, second = node.args
            yield source.swapped(first, second)
            yield node, source.of(first)
            yield node, source.of(second)
        elif isinstance(node, ast.IfExp):
            yield node, source.atom(node.body)
            yield node, source.atom(node.orelse)


@rule("semantic")
def other_case(source: Source) -> Found:
    """What is there taken for absent, one dtype for another, one thread's work for all others'."""
    other = {ast.Eq: "!=", ast.NotEq: "=="}
    for node in code(source):
        if isinstance(node, ast.Compare) and (symbol := other.get(type(node.ops[0]))):
            operator = SYMBOLS[type(node.ops[0])]
            yield source.operator(node.left, node.comparators[0], operator), symbol


@rule("semantic")
def swapped_results(source: Source) -> Found:
    """Two results for each other: halves of a word, gate and up, coordinates."""
    for node in code(source):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        several = target.elts if isinstance(target, ast.Tuple) else []
        names = [each for each in several if called(each) != "_"]
        if len(names) == 2:  # noqa: PLR2004
            yield source.swapped(*names)


def _operations(source: Source) -> Iterator[tuple[ast.BinOp, Kind]]:
    """The operations on values."""
    values = values_of(source)
    for node in code(source):
        if isinstance(node, ast.BinOp) and (kind := values.kind(node)):
            yield node, kind


def _whole_numbers(source: Source) -> Iterator[ast.BinOp]:
    """Floating-point operations that are no part of another one."""
    for node, kind in _operations(source):
        if kind is Kind.NUMBER and not isinstance(source.parent(node), ast.BinOp):
            yield node


def _is_number(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, (int, float))
        and not isinstance(node.value, bool)
    )


def _part_of_value(source: Source, node: ast.AST) -> bool:
    """Whether a number is a value, an operand of one, or in what shifts or masks one."""
    values = values_of(source)
    for around in (node, *source.ancestors(node)):
        if isinstance(around, ast.Subscript) or not isinstance(around, ast.expr):
            return False
        if values.kind(around):
            return True
    return False


def _numbers_of_module(source: Source) -> Iterator[ast.Constant]:
    for statement in source.tree.body:
        if isinstance(statement, ast.Assign):
            for node in ast.walk(statement.value):
                if isinstance(node, ast.Constant) and _is_number(node):
                    yield node


def _other(source: Source, node: ast.AST) -> str:
    """A mask that lacks its highest bit, and any other number off by one or by a factor of two."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int) and source.of(node).startswith("0x"):
        return hex(value & ~(1 << value.bit_length() - 1))
    return other_number(value)


RULES: Final = (
    *(other_operator, drop_term, drop_factor, other_constant, drop_sign, truncates, round_value),
    *(off_by_a_factor, other_format, other_choice, other_case, swapped_results),
)
