"""Faults of a torch module over ops: state left out, leading axes mixed up, factors not folded."""

from __future__ import annotations

import ast
from typing import Final

from harness.power.syntax import Found, Source, called, rule
from harness.power.wrappers import arguments, forwards, methods, nodes

_STEM: Final = len("self.lora_")  # so much of two names of one kind is the same
FOLDS: Final = (ast.Mult, ast.Div, ast.Add, ast.Sub)


@rule("wrapper")
def argument_dropped(source: Source) -> Found:
    """A keyword argument that is not passed on."""
    for call in nodes(forwards(source), ast.Call):
        for index, each in enumerate(call.keywords):
            if not isinstance(each.value, ast.Constant):
                items: list[ast.AST] = [*call.args, *call.keywords]
                yield source.remove_item(items, len(call.args) + index), ""


@rule("wrapper")
def state_ignored(source: Source) -> Found:
    """A tensor of the module's state taken for ones."""
    tensors = _tensor_state(source)
    for call in nodes(forwards(source), ast.Call):
        for value in [*call.args, *(each.value for each in call.keywords)]:
            if isinstance(value, ast.Attribute) and called(value) in tensors:
                yield value, f"torch.ones_like({source.of(value)})"


@rule("wrapper")
def setting_ignored(source: Source) -> Found:
    """A setting of the module that stays at its default."""
    for function in methods(source):
        defaults = {a.name: a.default for a in arguments(source, function) if a.default}
        given = nodes((function,), ast.Assign) if function.name == "__init__" else ()
        for node in given:
            if default := defaults.get(called(node.value)):
                yield node.value, default


@rule("wrapper")
def leading_axes_mixed(source: Source) -> Found:
    """Leading axes that are right for one batch only."""
    for node in nodes(forwards(source), ast.Call):
        if not isinstance(node.func, ast.Attribute):
            continue
        owner = source.of(node.func.value)
        if node.func.attr == "reshape" and len(node.args) == 2 and _is_rest(node.args[0]):  # noqa: PLR2004
            yield node, f"{owner}.flatten(0, 1)"
            yield node, f"{owner}.transpose(0, -2).reshape{source.of(node)[len(owner) + 8 :]}"
            yield node, f"{owner}.view{source.of(node)[len(owner) + 8 :]}"
        elif node.func.attr == "reshape":
            yield node, owner
            for item in node.args:
                if isinstance(item, ast.Starred):
                    yield item, f"{source.of(item)}[::-1]"


@rule("wrapper")
def factor_not_folded(source: Source) -> Found:
    """A scale, a transpose or a branch that the stored state should contain."""
    for function in methods(source):
        if function.name.startswith("_") and "Tensor" in source.of(function.returns or function):
            for node in nodes((function,), ast.BinOp):
                if isinstance(node.op, FOLDS):
                    yield node, source.atom(node.left)


@rule("wrapper")
def contiguous_dropped(source: Source) -> Found:
    """A tensor handed on as it lies, where one in order is needed."""
    for call in nodes(source.hosts, ast.Call):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "contiguous":
            yield call, source.of(call.func.value)


@rule("wrapper")
def attribute_of_other_part(source: Source) -> Found:
    """One part of the state for another of the same kind."""
    tensors = sorted(_tensor_state(source))
    for call in nodes(forwards(source), ast.Call):
        for value in [*call.args, *(each.value for each in call.keywords)]:
            if isinstance(value, ast.Attribute) and called(value) in tensors:
                for other in tensors:
                    if _alike(called(value), other):
                        yield value, other


def _tensor_state(source: Source) -> set[str]:
    """``self.name`` of every parameter and buffer of a module."""
    found = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if "Tensor" in source.of(node.annotation) and isinstance(
                source.parent(node), ast.ClassDef
            ):
                found.add(f"self.{node.target.id}")
        elif isinstance(node, ast.Assign) and called(node.value).endswith("Parameter"):
            found.add(source.of(node.targets[0]))
    return found


def _is_rest(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _alike(one: str, other: str) -> bool:
    """Names that differ in a prefix or a suffix: ``wscales`` and ``wcscales``."""
    ends = (slice(-6, None), slice(_STEM))
    return one != other and any(one[end] == other[end] for end in ends)


RULES: Final = (
    *(argument_dropped, state_ignored, setting_ignored, leading_axes_mixed, factor_not_folded),
    *(contiguous_dropped, attribute_of_other_part),
)
