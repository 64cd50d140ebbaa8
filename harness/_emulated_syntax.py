"""Python that means another thing in a kernel than to the interpreter's Python is rewritten.

The compiler's meaning (``triton.compiler.code_generator``) is the model. Imports triton: only
`harness.emulation` imports this, when it is first used.
"""

from __future__ import annotations

import ast
import builtins
import functools
from typing import Any, Final, TypeVar

import triton.language as tl

__all__ = ["BUILTINS", "MEANINGS", "Rewriter"]


_Tested = TypeVar("_Tested", ast.If, ast.While, ast.IfExp)


class Rewriter(ast.NodeTransformer):
    """Calls the functions of `MEANINGS` for ``and``, ``or``, ``not``, ``assert`` and conditions."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Blocks are combined element by element, where Python would return one of them."""
        self.generic_visit(node)
        if any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node)):
            return node  # the name must be bound in the kernel's scope, not in a lambda's
        nothing = ast.arguments([], [], None, [], [], None, [])
        operands: list[ast.expr] = [ast.Lambda(nothing, value) for value in node.values]
        name = "_logical_and" if isinstance(node.op, ast.And) else "_logical_or"
        return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), operands, []), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """``not`` of a block is a block."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Not):
            return node
        call = ast.Call(ast.Name("_logical_not", ast.Load()), [node.operand], [])
        return ast.copy_location(call, node)

    def visit_If(self, node: ast.If) -> ast.stmt:
        """A condition must be a scalar, here and in the next two."""
        return self._tested(node)

    def visit_While(self, node: ast.While) -> ast.stmt:
        """As `visit_If`."""
        return self._tested(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """As `visit_If`."""
        return self._tested(node)

    def _tested(self, node: _Tested) -> _Tested:
        self.generic_visit(node)
        call = ast.Call(ast.Name("_truth", ast.Load()), [node.test], [])
        node.test = ast.copy_location(call, node.test)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """An assertion is ``tl.device_assert``, which is off but for debugging."""
        self.generic_visit(node)
        arguments = [node.test, node.msg or ast.Constant("")]
        call = ast.Call(ast.Name("_device_assert", ast.Load()), arguments, [])
        return ast.copy_location(ast.Expr(call), node)


def _truth(condition: Any) -> Any:
    """A block is neither true nor false; the interpreter takes it for true."""
    if isinstance(condition, tl.tensor) and condition.type.is_block() and condition.numel.value > 1:
        shape = condition.handle.data.shape
        msg = f"condition is a block of shape {shape}, neither true nor false; use tl.where"
        raise ValueError(msg)
    return condition


def _logical(method: str, decisive: bool, operands: tuple[Any, ...]) -> Any:
    tensors = []
    value = None
    for operand in operands:
        value = operand()
        if isinstance(value, tl.tensor):
            tensors.append(value)
        elif bool(value) is decisive:  # known to the compiler, so that the rest is not evaluated
            return value
    if not tensors:
        return value
    return functools.reduce(lambda left, right: getattr(left, method)(right), tensors)


def _logical_not(operand: Any) -> Any:
    return operand.__not__() if isinstance(operand, tl.tensor) else not operand


def _device_assert(condition: Any, message: Any) -> None:
    tl.device_assert(condition, message)


def _extremum(of_tensors: str, of_numbers: Any) -> Any:
    def extremum(*values: Any) -> Any:
        if not any(isinstance(value, tl.tensor) for value in values):
            return of_numbers(*values)
        return functools.reduce(getattr(tl, of_tensors), values)

    return extremum


MEANINGS: Final = {
    "_logical_and": lambda *operands: _logical("logical_and", False, operands),
    "_logical_or": lambda *operands: _logical("logical_or", True, operands),
    "_logical_not": _logical_not,
    "_device_assert": _device_assert,
    "_truth": _truth,
}
"""What the rewritten source calls."""

BUILTINS: Final = {
    "max": _extremum("maximum", builtins.max),
    "min": _extremum("minimum", builtins.min),
}
"""Builtins of Python that the compiler takes for its own, where a module has no such global."""
