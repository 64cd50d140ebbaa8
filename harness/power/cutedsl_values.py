"""Which expressions of a text in the CuTe DSL are values of the op, and which are places.

A value is a floating-point number or a word of codes and scales. It is one by its type, where that
stands in the text, or by what it is made of: through names, results and arguments of functions.
All else, which is what addresses, counts and bounds are made of, is a place.
"""

from __future__ import annotations

import ast
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

from harness.power.syntax import called, keyword

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.power.syntax import Function, Source


class Kind(StrEnum):
    """What a value is."""

    NUMBER = "number"
    WORD = "word"


_TYPES: Final = {"Float32": Kind.NUMBER, "Uint32": Kind.WORD, "Uint16": Kind.WORD}
_MODULE: Final = ""  # the scope of names that no function gives


class Values:
    """The values of a source, found once."""

    def __init__(self, source: Source) -> None:
        self.functions = {each.name: each for each in functions(source)}
        self._known: dict[tuple[str, str], Kind] = {}
        self._results: dict[str, Kind] = {}
        self._scopes = dict(_scopes(source))
        before = -1
        while before != (before := len(self._known) + len(self._results)):
            self._read(source)

    def kind(self, node: ast.AST) -> Kind | None:
        """What an expression is; None for a place."""
        if isinstance(node, ast.Name):
            scope = self._scopes.get(node, _MODULE)
            return self._known.get((scope, node.id)) or self._known.get((_MODULE, node.id))
        if isinstance(node, ast.Constant):
            return Kind.NUMBER if isinstance(node.value, float) else None
        if isinstance(node, ast.Call):
            return self._of_call(node)
        return next((kind for each in _parts(node) if (kind := self.kind(each))), None)

    def _of_call(self, call: ast.Call) -> Kind | None:
        name = called(call).rpartition(".")[2]
        if name in _TYPES:
            return _TYPES[name]
        if name == "load":
            return Kind.NUMBER
        if name in {"to", "reshape", "choose"}:
            method = call.func.value if isinstance(call.func, ast.Attribute) else None
            return self.kind(method or call.args[1])
        if name in self.functions:
            return self._results.get(name)
        types = (_TYPES.get(called(each).rpartition(".")[2]) for each in ast.walk(call))
        return next((kind for kind in types if kind), None)

    def _read(self, source: Source) -> None:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign):
                self._assign(node.targets[0], node.value)
            elif isinstance(node, ast.Return) and node.value and (kind := self.kind(node.value)):
                self._results[self._scopes.get(node, _MODULE)] = kind
            elif isinstance(node, ast.Call):
                self._pass_on(node)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple):
            of = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
            for each, one in zip(target.elts, of, strict=True):
                self._assign(each, one)
            return
        while isinstance(target, ast.Subscript):
            target = target.value
        self._learn(target, self.kind(value))

    def _pass_on(self, call: ast.Call) -> None:
        """What a call tells of its function's parameters, or of a list that it lengthens."""
        if isinstance(call.func, ast.Attribute) and call.func.attr == "append":
            self._learn(call.func.value, self.kind(call.args[0]))
        function = self.functions.get(called(call))
        parameters = function.args.args if function else ()
        for parameter, argument in zip(parameters, call.args, strict=False):
            if kind := self.kind(argument):
                self._known[called(call), parameter.arg] = kind

    def _learn(self, target: ast.AST, kind: Kind | None) -> None:
        if kind and isinstance(target, ast.Name):
            self._known[self._scopes.get(target, _MODULE), target.id] = kind


@cache
def values_of(source: Source) -> Values:
    """The values of a source."""
    return Values(source)


def functions(source: Source) -> tuple[Function, ...]:
    """All functions of a text, all of which run, or decide what runs, on the device."""
    return (*source.devices, *source.hosts)


@cache
def code(source: Source) -> tuple[ast.AST, ...]:
    """Every node of the functions' bodies that can hold a fault.

    Not docstrings; nor what lies in f-strings, whose place Python 3.11 does not know; nor what the
    host passes to a kernel without a stream, since no host code is run for such a one.
    """
    return tuple(node for function in functions(source) for node in _inside(function))


def body(function: Function) -> list[ast.stmt]:
    """A function's statements but for its docstring."""
    return function.body[ast.get_docstring(function) is not None :]


def _inside(function: Function) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(reversed(body(function)))
    while waiting:
        node = waiting.pop()
        yield node
        launches = isinstance(node, ast.Call) and called(node).endswith(".launch")
        if launches and isinstance(node, ast.Call) and not keyword(node, "stream"):
            waiting += node.keywords
        elif not isinstance(node, ast.JoinedStr):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _scopes(source: Source) -> Iterator[tuple[ast.AST, str]]:
    for function in functions(source):
        for node in ast.walk(function):
            yield node, function.name


def _parts(node: ast.AST) -> list[ast.expr]:
    """What an expression takes its kind from."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, (ast.Tuple, ast.List)):
        return node.elts
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, (ast.Subscript, ast.Starred)):
        return [node.value]
    return [node.elt] if isinstance(node, ast.ListComp) else []
