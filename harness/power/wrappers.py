"""The parts of a wrapper by what they are for: operator, fake, public function, checks, launch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from harness.power.syntax import called

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.power.syntax import Source

Node = TypeVar("Node", bound=ast.AST)
OPERATOR: Final = ("custom_op", "triton_op")
NO_CODE: Final = {"annotation", "returns", "decorator_list", "args"}  # of a function
CHECK: Final = ("require_", "_check", "check_")  # how a function that refuses is named


@dataclass(frozen=True)
class Argument:
    """A parameter of a host function."""

    name: str
    annotation: str
    default: str | None

    @property
    def is_tensor(self) -> bool:
        """Whether a tensor is always given."""
        return self.annotation == "Tensor"

    @property
    def is_optional(self) -> bool:
        """Whether a tensor may be left out."""
        return self.annotation == "Tensor | None"


def arguments(source: Source, function: ast.FunctionDef) -> tuple[Argument, ...]:
    """The parameters of a function, in order, apart from ``self``."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    pairs = [*zip(plain, [*defaults, *given.defaults], strict=True)]
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return tuple(
        Argument(
            name=each.arg,
            annotation=source.of(each.annotation) if each.annotation else "",
            default=source.of(default) if default else None,
        )
        for each, default in pairs
        if each.arg not in {"self", "cls"}
    )


def operators(source: Source) -> tuple[ast.FunctionDef, ...]:
    """The functions that torch knows as operators."""
    return tuple(f for f in source.hosts if _decorated(f, *OPERATOR))


def fakes(source: Source) -> tuple[ast.FunctionDef, ...]:
    """The fake implementations."""
    return tuple(f for f in source.hosts if _decorated(f, "register_fake"))


def publics(source: Source) -> tuple[ast.FunctionDef, ...]:
    """The functions that are declared as kernels."""
    return tuple(f for f in source.hosts if _decorated(f, "kernel"))


def op_name(function: ast.FunctionDef) -> str:
    """The op that a public function implements."""
    for each in function.decorator_list:
        if isinstance(each, ast.Call) and called(each) == "kernel":
            first = each.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                return first.value
    return ""


def _decorated(function: ast.FunctionDef, *names: str) -> bool:
    return any(called(each).split(".")[-1] in names for each in function.decorator_list)


def methods(source: Source) -> Iterator[ast.FunctionDef]:
    """The methods of torch modules, and the functions beside such a class."""
    classes = [
        node
        for node in source.tree.body
        if isinstance(node, ast.ClassDef) and any("Module" in called(base) for base in node.bases)
    ]
    if classes:
        yield from source.hosts


def forwards(source: Source) -> Iterator[ast.FunctionDef]:
    """The forward passes of torch modules."""
    return (each for each in methods(source) if each.name == "forward")


def nodes(functions: Iterable[ast.FunctionDef], wanted: type[Node]) -> Iterator[Node]:
    """The nodes of one type in the bodies of functions.

    Decorators, defaults, annotations and the texts of errors are left out.
    """
    for function in functions:
        for statement in function.body:
            yield from (node for node in _code(statement) if isinstance(node, wanted))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        if name in NO_CODE and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_message(child):
                yield from _code(child)


def _is_message(node: ast.AST) -> bool:
    """The text of an error, or of a report: what it says is no part of what is computed."""
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id == "msg" for t in node.targets)
    return isinstance(node, (ast.JoinedStr, ast.Raise))


def launches(source: Source) -> Iterator[ast.Call]:
    """The calls that launch a device function: ``kernel[grid](...)``."""
    devices = {each.name for each in source.devices}
    for call in nodes(source.hosts, ast.Call):
        if isinstance(call.func, ast.Subscript) and called(call.func.value) in devices:
            yield call


def allocations(source: Source) -> Iterator[tuple[ast.Assign, ast.Call]]:
    """The results that an operator allocates: ``y = torch.empty(shape, ...)``."""
    for node in nodes(operators(source), ast.Assign):
        if isinstance(node.value, ast.Call) and called(node.value) == "torch.empty":
            yield node, node.value


def is_check(node: ast.AST) -> bool:
    """Whether an expression calls a function that refuses."""
    name = called(node).split(".")[-1] if isinstance(node, ast.Call) else ""
    return name.startswith(CHECK)


def raises(node: ast.If) -> bool:
    """Whether a condition ends in an error."""
    return isinstance(node.body[-1], ast.Raise)
