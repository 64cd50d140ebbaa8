"""Faults of meaning in device code: what a port misunderstands of an op or of a format."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from harness.power.dataflow import Kinds, each, kinds_of
from harness.power.rules_arithmetic import calls
from harness.power.syntax import Found, Source, called, keyword, names_in, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAG: Final = "HAS_"  # how the flag of an optional input is named


@rule("semantic")
def swap_nibbles(source: Source) -> Found:
    """Two codes of a byte in the other order."""
    for node, _ in each(source, ast.BinOp):
        shifted = node.right
        if isinstance(node.op, ast.BitOr) and isinstance(shifted, ast.BinOp):
            low, high = source.atom(node.left), source.atom(shifted.left)
            yield node, f"{high} | ({low} << {source.of(shifted.right)})"


@rule("semantic")
def other_half(source: Source) -> Found:
    """The high nibble for the low one: one small device function for its neighbour."""
    small = [f for f in source.devices if len(f.body) == 1 and len(f.args.args) == 1]
    names = [f.name for f in small]
    for node, _ in each(source, ast.Call):
        if called(node) in names and len(names) > 1:
            yield node.func, names[(names.index(called(node)) + 1) % len(names)]


@rule("semantic")
def drop_sign_extension(source: Source) -> Found:
    """Signed codes decoded as 0..15."""
    for node, _ in each(source, ast.BinOp):
        inner = node.left
        if not isinstance(node.op, ast.RShift) or not isinstance(inner, ast.Call):
            continue
        if isinstance(inner.func, ast.Attribute) and keyword(inner, "bitcast"):
            shifted = f"{source.atom(inner.func.value)} >> {source.of(node.right)}"
            yield node, f"({shifted}).to({source.of(inner.args[0])})"


@rule("semantic")
def extend_sign(source: Source) -> Found:
    """Codes 0..15 decoded as signed."""
    for node, _ in each(source, ast.Call):
        masked = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        codes = isinstance(masked, ast.BinOp) and isinstance(masked.op, (ast.BitAnd, ast.RShift))
        if codes and called(node).endswith(".to") and not node.keywords:
            yield node, f"(({source.of(node)} ^ 8) - 8)"


@rule("semantic")
def invert_flag(source: Source) -> Found:
    """A variant chosen when it is not asked for."""
    for node, kinds in each(source, ast.If):
        if isinstance(node.test, ast.Name) and not node.test.id.startswith(FLAG):
            yield node.test, f"not {node.test.id}"
        elif isinstance(node.test, ast.Compare) and not kinds.is_index(node.test.left):
            yield node.test, f"not ({source.of(node.test)})"


@rule("semantic")
def option_excludes_option(source: Source) -> Found:
    """One optional input left out when another is given."""
    for node, kinds in each(source, ast.If):
        flag = called(node.test)
        flags = [name for name in kinds.constants if name.startswith(FLAG)]
        for other in flags:
            if flag in flags and other != flag:
                yield node.test, f"{flag} and not {other}"


@rule("semantic")
def other_order(source: Source) -> Found:
    """Two steps on one value in the other order: a bias before a scale, a bound before a term."""
    for body in _bodies(source):
        for first, second in pairwise(body):
            same = _written(first) & _written(second)
            if same and not _feeds(first, second, same):
                yield source.swapped(first, second)


@rule("semantic")
def scaled_term(source: Source) -> Found:
    """A term scaled by a factor that belongs to the sum before it."""
    for kinds in kinds_of(source):
        scalars = [n for n in kinds.parameters if n not in {*kinds.constants, *kinds.sizes}]
        factors = [n for n in scalars if _scales(kinds, n)]
        for node in ast.walk(kinds.function):
            in_loop = any(isinstance(each, ast.For) for each in source.ancestors(node))
            if isinstance(node, ast.AugAssign) and kinds.is_float(node.target) and not in_loop:
                for factor in factors:
                    yield node.value, f"{source.atom(node.value)} * {factor}"


@rule("semantic")
def swap_loads(source: Source) -> Found:
    """Two tensors for each other: gate and up, activations and weights, their scales."""
    for body in _bodies(source):
        for first, second in pairwise(body):
            same = _is_load(first) and _is_load(second) and _mask(first) == _mask(second)
            if same and isinstance(first, ast.Assign) and isinstance(second, ast.Assign):
                yield source.swapped(first.targets[0], second.targets[0])


@rule("semantic")
def term_outside_root(source: Source) -> Found:
    """The eps added to the root, not under it."""
    for call, _ in calls(source, "tl.rsqrt", "tl.sqrt"):
        inner = call.args[0]
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Add):
            name, value = source.of(call.func), source.of(inner.left)
            yield call, f"({name}({value}) + {source.atom(inner.right)})"


@rule("semantic")
def other_count(source: Source) -> Found:
    """A mean over one element less, or over the padded tile."""
    for call, kinds in calls(source, "tl.div_rn"):
        for name in ast.walk(call.args[1]):
            if isinstance(name, ast.Name) and name.id in kinds.extents:
                yield name, f"({name.id} - 1)"
                for block in kinds.constants:
                    if block.endswith(f"_{name.id.upper()}"):
                        yield name, block


@rule("semantic")
def ties_up(source: Source) -> Found:
    """Rounding of halves upwards."""
    for node, value in _roundings(source):
        yield node, f"tl.floor({value} + 0.5)"


@rule("semantic")
def ties_away(source: Source) -> Found:
    """Rounding of halves away from zero."""
    for node, value in _roundings(source):
        away = f"tl.where({value} < 0, tl.ceil({value} - 0.5), tl.floor({value} + 0.5))"
        yield node, away


@rule("semantic")
def cuts_to_integer(source: Source) -> Found:
    """Conversion to integer without rounding."""
    yield from _roundings(source)


@rule("semantic")
def drop_choice(source: Source) -> Found:
    """A special case without its treatment: NaN, a zero group, saturation, a sign."""
    for call, _ in calls(source, "tl.where"):
        for branch in call.args[1:]:
            nothing = isinstance(branch, ast.Constant) and not branch.value
            if "tl.program_id" not in source.of(call.args[0]) and not nothing:
                yield call, source.atom(branch)


@rule("semantic")
def swallows_nan(source: Source) -> Found:
    """A bound that replaces NaN, since minimum and maximum return the other operand."""
    for call, _ in calls(source, "tl.where"):
        test = call.args[0]
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], (ast.Lt, ast.Gt)):
            bound, value = source.of(test.comparators[0]), source.of(test.left)
            if source.of(call.args[1]) == bound and source.of(call.args[2]) == value:
                name = "minimum" if isinstance(test.ops[0], ast.Gt) else "maximum"
                yield call, f"tl.{name}({value}, {bound})"


@rule("semantic")
def extremum_of_floats(source: Source) -> Found:
    """A floating-point maximum, which drops NaN, for one over the bits."""
    for node, _ in each(source, ast.Call):
        inner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if isinstance(inner, ast.Call) and called(inner) in {"tl.max", "tl.min"} and node.keywords:
            start, end = source.span(inner.args[0])
            cast = source.text[source.span(inner)[1] : source.span(node)[1]]
            head, tail = source.span(inner)[0], source.span(inner)[1]
            text = source.text
            yield node, f"{text[head:start]}{source.atom(inner.args[0])}{cast}{text[end:tail]}"


def _bodies(source: Source) -> Iterator[list[ast.stmt]]:
    for node, _ in each(source, ast.AST):
        for name in ("body", "orelse"):
            body = getattr(node, name, None)
            if isinstance(body, list) and len(body) > 1:
                yield body


def _written(statement: ast.stmt) -> set[str]:
    """Names to which a statement gives a value made of their own."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign):
            found |= names_in(node.target)
        elif isinstance(node, ast.Assign):
            found |= names_in(node.targets[0]) & names_in(node.value)
    return found


def _feeds(first: ast.stmt, second: ast.stmt, apart_from: set[str]) -> bool:
    made = {n.id for n in ast.walk(first) if isinstance(n, ast.Name) and _stores(n)}
    return bool((made - apart_from) & names_in(second))


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _scales(kinds: Kinds, name: str) -> bool:
    """Whether a scalar multiplies a floating-point value somewhere."""
    products = (n for n in ast.walk(kinds.function) if isinstance(n, ast.BinOp))
    return any(
        isinstance(node.op, ast.Mult) and called(node.right) == name and kinds.is_float(node.left)
        for node in products
    )


def _is_load(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return False
    value: ast.AST = statement.value
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if called(value) == "tl.load":
            return True
        value = value.func.value
    return False


def _mask(statement: ast.stmt) -> str:
    """What a load is masked by; loads of one mask make tiles of one shape."""
    found = [n for n in ast.walk(statement) if isinstance(n, ast.keyword) and n.arg == "mask"]
    return ast.dump(found[0].value) if found else ""


def _roundings(source: Source) -> Iterator[tuple[ast.BinOp, str]]:
    """``(value + magic) - magic``, which rounds half to even; its place and the value."""
    for node, _ in each(source, ast.BinOp):
        inner = node.left
        if isinstance(node.op, ast.Sub) and isinstance(inner, ast.BinOp):
            same = source.of(inner.right) == source.of(node.right)
            if same and isinstance(inner.op, ast.Add):
                yield node, source.atom(inner.left)


RULES: Final = (
    *(swap_nibbles, other_half, drop_sign_extension, extend_sign, invert_flag),
    *(option_excludes_option, other_order, scaled_term, swap_loads, term_outside_root),
    *(other_count, ties_up, ties_away, cuts_to_integer, drop_choice, swallows_nan),
    *(extremum_of_floats,),
)
