"""Faults of refusing: a guard removed, a bound moved, a dtype or size no longer compared."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from harness.power.syntax import Found, Source, called, keyword, rule
from harness.power.wrappers import fakes, is_check, nodes, raises

if TYPE_CHECKING:
    from collections.abc import Iterator

NARROWED: Final = '">=sm100"'


@rule("wrapper")
def drop_arch_guard(source: Source) -> Found:
    """A launch on whatever is there."""
    for statement, call in _statements(source):
        if called(call).endswith("require_arch"):
            yield statement, "pass"


@rule("wrapper")
def other_arch_guard(source: Source) -> Found:
    """A guard that admits less, or more, than the kernel claims."""
    for _, call in _statements(source):
        if called(call).endswith("require_arch"):
            yield call.args[1], NARROWED
            yield call.args[1], '">=sm10"'


@rule("wrapper")
def drop_check(source: Source) -> Found:
    """One refusal less."""
    inside = {id(node) for node in nodes(fakes(source), ast.Expr)}
    for statement, call in _statements(source):
        if not called(call).endswith("require_arch") and id(statement) not in inside:
            yield statement, "pass"


@rule("wrapper")
def unchecked_fake(source: Source) -> Found:
    """A fake that accepts what the real one refuses."""
    for node in nodes(fakes(source), ast.Expr):
        if is_check(node.value):
            yield node, "pass"


@rule("wrapper")
def drop_refusal(source: Source) -> Found:
    """A condition that never raises."""
    for node in nodes(source.hosts, ast.If):
        if raises(node):
            yield node.test, "False"


@rule("wrapper")
def wider_bound(source: Source) -> Found:
    """One legal step too far is accepted."""
    return _moved(source, min="- {step}", max="+ {step}", multiple_of="// 2")


@rule("wrapper")
def narrower_bound(source: Source) -> Found:
    """The first or last legal size is refused."""
    return _moved(source, min="+ {step}", max="- {step}", multiple_of="* 2")


@rule("wrapper")
def unchecked_size(source: Source) -> Found:
    """A tensor whose size is not compared with the others'."""
    for call in _checks(source):
        if called(call).endswith("require_shape"):
            for index in range(len(call.keywords)):
                yield _cut_keyword(source, call, index), ""


@rule("wrapper")
def unchecked_partner(source: Source) -> Found:
    """A tensor left out of what is compared: its device may differ."""
    for call in _checks(source):
        if called(call).endswith(("require_one_device", "require_tensors")):
            for index in range(len(call.keywords)):
                if len(call.keywords) > 1:
                    yield _cut_keyword(source, call, index), ""


@rule("wrapper")
def mixed_dtypes(source: Source) -> Found:
    """Any dtype of the kernel where that of another tensor is needed."""
    for call in _checks(source):
        if called(call).endswith("require_dtype") and _has_dtypes(source):
            allowed = call.args[-1]
            if isinstance(allowed, ast.Tuple) and ".dtype" in source.of(allowed):
                yield allowed, "DTYPES"


@rule("wrapper")
def or_for_and(source: Source) -> Found:
    """A condition on two values that looks at either, or at both."""
    for node in nodes(source.hosts, ast.If):
        if isinstance(node.test, ast.BoolOp):
            symbol = "and" if isinstance(node.test.op, ast.And) else "or"
            first, second = node.test.values[:2]
            yield source.operator(first, second, symbol), "or" if symbol == "and" else "and"


def _statements(source: Source) -> Iterator[tuple[ast.Expr, ast.Call]]:
    for node in nodes(source.hosts, ast.Expr):
        if isinstance(node.value, ast.Call) and is_check(node.value):
            yield node, node.value


def _checks(source: Source) -> Iterator[ast.Call]:
    return (call for _, call in _statements(source))


def _moved(source: Source, **moves: str) -> Found:
    """Every bound of a size, moved; ``step`` is the distance of two legal sizes."""
    for call in _checks(source):
        multiple = keyword(call, "multiple_of")
        step = source.atom(multiple.value) if multiple else "1"
        for name, move in moves.items():
            if bound := keyword(call, name):
                yield bound.value, f"{source.atom(bound.value)} {move.format(step=step)}"


def _cut_keyword(source: Source, call: ast.Call, index: int) -> tuple[int, int]:
    items: list[ast.AST] = [*call.args, *call.keywords]
    return source.remove_item(items, len(call.args) + index)


def _has_dtypes(source: Source) -> bool:
    """Whether a module lists its dtypes as DTYPES."""
    given = [node for node in source.tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return any(source.of(node).startswith("DTYPES") for node in given)


RULES: Final = (
    *(drop_arch_guard, other_arch_guard, drop_check, unchecked_fake, drop_refusal, wider_bound),
    *(narrower_bound, unchecked_size, unchecked_partner, mixed_dtypes, or_for_and),
)
