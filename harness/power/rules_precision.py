"""Faults of rounding and of ownership in device code: lost digits, and two writers or none."""

from __future__ import annotations

import ast
from functools import partial
from typing import TYPE_CHECKING, Final

from harness.power.dataflow import FLOAT_CALLS, Kinds, each, kinds_of
from harness.power.rules_arithmetic import calls, values
from harness.power.syntax import Found, Rule, Source, called, keyword, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

HALVES: Final = {"fp16": "tl.float16", "bf16": "tl.bfloat16"}
SCALE_ERRORS: Final = ("1.001", "1.0005")
ROUNDED_CALLS: Final = FLOAT_CALLS | {"tl.sum"}


def _half_sum(dtype: str, source: Source) -> Found:
    """An accumulator of 16 bits: rounded after every step."""
    for kinds in kinds_of(source):
        for node in _loop_sums(source, kinds):
            if isinstance(node, ast.Call):
                yield node, f"{source.of(node)}.to({dtype}).to(tl.float32)"
            else:
                target, value = source.of(node.target), source.atom(node.value)
                yield node, f"{target} = ({target} + {value}).to({dtype}).to(tl.float32)"


def _round_value(dtype: str, source: Source) -> Found:
    """An intermediate value of 16 bits."""
    for node in _intermediates(source):
        yield node, f"{source.atom(node)}.to({dtype}).to(tl.float32)"


def _round_twice(dtype: str, source: Source) -> Found:
    """The result rounded to one 16-bit format on its way to another."""
    for call in _conversions(source):
        yield call, f"{_converted(source, call)}.to({dtype}).to({source.of(call.args[0])})"


def _sum_halves(dtype: str, source: Source) -> Found:
    """A sum over operands of 16 bits."""
    for call, _ in calls(source, "tl.sum"):
        yield call.args[0], f"({source.of(call.args[0])}).to({dtype}).to(tl.float32)"


def _off_by_a_factor(factor: str, source: Source) -> Found:
    """A result that is off by a small factor."""
    for call, kinds in _stored_conversions(source):
        value = _value_of(call)
        if kinds.is_float(value) or _named_float(kinds, value):
            yield value, f"({source.of(value)} * {factor})"
    for node, _ in calls(source, *ROUNDED_CALLS):
        yield node, f"({source.of(node)} * {factor})"
    for store, kinds in calls(source, "tl.store"):
        if kinds.is_float(store.args[1]):
            yield store.args[1], f"{source.atom(store.args[1])} * {factor}"


@rule("precision")
def truncates(source: Source) -> Found:
    """A conversion to 16 bits that cuts instead of rounding."""
    for call in _conversions(source):
        value, dtype = _converted(source, call), source.of(call.args[0])
        cut = f'{value}.to({dtype}, fp_downcast_rounding="rtz")'
        yield call, f"({cut} if {dtype} != tl.float32 else {value})"


@rule("precision")
def coarse_product(source: Source) -> Found:
    """A matrix product of fewer digits than declared."""
    for call, _ in calls(source, "tl.dot"):
        precision = keyword(call, "input_precision")
        if precision and source.of(precision.value) != '"tf32"':
            yield precision.value, '"tf32"'


@rule("precision")
def approximate_division(source: Source) -> Found:
    """The fast division for the correctly rounded one."""
    for call, _ in calls(source, "tl.div_rn"):
        yield call, f"({source.atom(call.args[0])} / {source.atom(call.args[1])})"


@rule("precision")
def short_logarithm(source: Source) -> Found:
    """An exponential by powers of two, with five digits of log2(e)."""
    for call, _ in calls(source, "tl.exp"):
        yield call, f"tl.exp2({source.atom(call.args[0])} * 1.4427)"


@rule("precision")
def drop_widening(source: Source) -> Found:
    """Arithmetic in the 16 bits of the input."""
    for node, _ in each(source, ast.Call):
        if _is_method(node, "to") and _operands(source, node) == "tl.float32":
            yield node, source.atom(_value_of(node))


@rule("precision")
def reuse_rounded(source: Source) -> Found:
    """A value used again as it was stored, not as it was computed."""
    for call, kinds in _stored_conversions(source):
        value = _value_of(call)
        if not isinstance(value, ast.Name):
            continue
        rounded = f"{value.id}.to({source.of(call.args[0])}).to(tl.float32)"
        for node in ast.walk(kinds.function):
            read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
            if read and node is not value and source.of(node) == value.id:
                yield node, rounded


@rule("synchronisation")
def adds_to_memory(source: Source) -> Found:
    """A store that adds to what lies there, atomically."""
    for call, kinds in calls(source, "tl.store"):
        if kinds.is_float(call.args[1]) or _is_conversion_of_float(kinds, call.args[1]):
            yield call.func, "tl.atomic_add"


@rule("synchronisation")
def reads_before_writing(source: Source) -> Found:
    """A store that adds to what lies there, without care for other programs."""
    for call, _ in calls(source, "tl.store"):
        place, value = source.of(call.args[0]), source.atom(call.args[1])
        mask = keyword(call, "mask")
        old = f"tl.load({place}, mask={source.of(mask.value)}, other=0)" if mask else place
        yield call.args[1], f"{value} + {old}" if mask else f"{value} + tl.load({place})"


@rule("synchronisation")
def every_program_owns(source: Source) -> Found:
    """What one program of an axis should do, all do."""
    for call, _ in _ownership(source):
        yield call, source.atom(call.args[1])


@rule("synchronisation")
def another_program_owns(source: Source) -> Found:
    """What the first program of an axis should do is left to the second, or to all others."""
    for call, test in _ownership(source):
        yield test.comparators[0], "1"
        yield source.operator(test.left, test.comparators[0], "=="), "!="
        yield call, source.atom(call.args[2])


@rule("synchronisation")
def two_programs_one_tile(source: Source) -> Found:
    """Two programs write one tile, and none the next."""
    for call, kinds in calls(source, "tl.program_id"):
        if not isinstance(source.parent(call), ast.Compare) and kinds.sizes:
            yield call, f"({source.of(call)} // 2 * 2)"


@rule("synchronisation")
def last_program_idle(source: Source) -> Found:
    """Programs are numbered from 1, and the last tile is nobody's."""
    for call, kinds in calls(source, "tl.program_id"):
        if not isinstance(source.parent(call), ast.Compare) and kinds.sizes:
            yield call, f"tl.maximum({source.of(call)} - 1, 0)"


def _loop_sums(source: Source, kinds: Kinds) -> Iterator[ast.AugAssign | ast.Call]:
    for node in ast.walk(kinds.function):
        in_loop = any(isinstance(around, ast.For) for around in source.ancestors(node))
        if isinstance(node, ast.AugAssign):
            if in_loop and kinds.is_float(node.target):
                yield node
        elif isinstance(node, ast.Call) and called(node) == "tl.dot" and kinds.is_float(node):
            yield node


def _intermediates(source: Source) -> Iterator[ast.expr]:
    """Floating-point operations; the constant expressions of a module are none."""
    for node, kinds in values(source, ast.BinOp):
        if kinds.is_float(node):
            yield node
    for call, _ in calls(source, *ROUNDED_CALLS):
        yield call


def _is_method(node: ast.Call, name: str) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr == name


def _conversions(source: Source) -> Iterator[ast.Call]:
    """Conversions of computed values to the format of a tensor, not to a fixed one."""
    for node, _ in each(source, ast.Call):
        if _is_method(node, "to") and not _operands(source, node).startswith(("tl.", ",")):
            yield node


def _operands(source: Source, call: ast.Call) -> str:
    """The only argument of a call; a comma if there are more, or none."""
    alone = len(call.args) == 1 and not call.keywords
    return source.of(call.args[0]) if alone else ","


def _converted(source: Source, call: ast.Call) -> str:
    return source.atom(_value_of(call))


def _value_of(call: ast.Call) -> ast.expr:
    return call.func.value if isinstance(call.func, ast.Attribute) else call


def _stored_conversions(source: Source) -> Iterator[tuple[ast.Call, Kinds]]:
    """Conversions whose result goes to memory, at once or by a name."""
    known = list(_conversions(source))
    for store, kinds in calls(source, "tl.store"):
        value: ast.AST | None = store.args[1]
        if isinstance(value, ast.Name):
            value = _before(kinds, value.id, store.lineno)
        if isinstance(value, ast.Call) and source.span(value) in map(source.span, known):
            yield value, kinds


def _before(kinds: Kinds, name: str, line: int) -> ast.AST | None:
    """The value last given to a name above a line."""
    given = [
        node
        for node in ast.walk(kinds.function)
        if isinstance(node, ast.Assign) and called(node.targets[0]) == name and node.lineno < line
    ]
    return max(given, key=lambda node: node.lineno).value if given else None


def _named_float(kinds: Kinds, node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in kinds.floats


def _is_conversion_of_float(kinds: Kinds, node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return not kinds.is_index(node)
    return isinstance(node, ast.Call) and _is_method(node, "to") and kinds.is_float(_value_of(node))


def _ownership(source: Source) -> Iterator[tuple[ast.Call, ast.Compare]]:
    """Choices that depend on a program's own number."""
    for call, _ in calls(source, "tl.where"):
        test = call.args[0]
        if isinstance(test, ast.Compare) and called(test.left) == "tl.program_id":
            yield call, test


RULES: Final = (
    *(Rule("precision", f"half_sum_{n}", partial(_half_sum, t)) for n, t in HALVES.items()),
    *(Rule("precision", f"round_value_{n}", partial(_round_value, t)) for n, t in HALVES.items()),
    *(Rule("precision", f"round_twice_{n}", partial(_round_twice, t)) for n, t in HALVES.items()),
    *(Rule("precision", f"sum_of_{n}", partial(_sum_halves, t)) for n, t in HALVES.items()),
    *(Rule("precision", f"factor_{f}", partial(_off_by_a_factor, f)) for f in SCALE_ERRORS),
    *(truncates, coarse_product, approximate_division, short_logarithm, drop_widening),
    *(reuse_rounded, adds_to_memory, reads_before_writing, every_program_owns),
    *(another_program_owns, two_programs_one_tile, last_program_idle),
)
