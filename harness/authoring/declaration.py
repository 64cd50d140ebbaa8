"""The declaration of a kernel as source: found, given another variant, or written anew."""

from __future__ import annotations

import ast
import dataclasses
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from harness.declare import Kernel

_WORDS: Final = ("op", "kernel", "subject", "correct_variant")
_WRITTEN: Final = ("configs", "accumulates", "layouts", "instructions", "spills")
_FLAGS: Final = ("emulated", "deterministic")


class NoDeclaration(ValueError):
    """A declaration that cannot be given another variant; says what to do instead."""


def declares(node: ast.stmt) -> bool:
    """Whether a statement is a declaration: decorated by one, or a call of one."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return any(isinstance(d, ast.Call) and _is_word(d.func) for d in node.decorator_list)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        return isinstance(function, ast.Call) and _is_word(function.func)
    return False


def _is_word(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return (
            node.attr in _WORDS and isinstance(node.value, ast.Name) and "harness" in node.value.id
        )
    return isinstance(node, ast.Name) and node.id in _WORDS


def with_variant(text: str, function: str, variant: str) -> str:
    """The module with ``variant`` in the declaration that decorates ``function``.

    Raises NoDeclaration for one whose keywords are made elsewhere (``**keywords``).
    """
    call = _decorator(text, function)
    lines = text.splitlines(keepends=True)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if None in given:
        msg = f"the declaration of {function} takes **keywords; write them out, then clone it"
        raise NoDeclaration(msg)
    if (old := given.get("variant")) is not None:
        start, end = _offset(lines, old.lineno, old.col_offset), _end(lines, old)
        return f"{text[:start]}{json.dumps(variant)}{text[end:]}"
    last = max(
        [*call.args, *given.values()], key=lambda n: (n.end_lineno or 0, n.end_col_offset or 0)
    )
    at, close = _end(lines, last), _end(lines, call) - 1
    if "\n" not in text[at:close]:
        return f'{text[:at]}, variant="{variant}"{text[at:]}'
    comma = "" if "," in text[at:close].partition("#")[0] else ","
    line = text.rindex("\n", at, close) + 1
    return f'{text[:at]}{comma}{text[at:line]}    variant="{variant}",\n{text[line:]}'


def _decorator(text: str, function: str) -> ast.Call:
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for each in node.decorator_list:
                if isinstance(each, ast.Call) and _is_word(each.func):
                    return each
    msg = f"{function} has no declaration above it"
    raise NoDeclaration(msg)


def _offset(lines: list[str], line: int, column: int) -> int:
    """The place in the text of a line (1-based) and a column in bytes."""
    before = sum(len(each) for each in lines[: line - 1])
    return before + len(lines[line - 1].encode()[:column].decode())


def _end(lines: list[str], node: ast.expr) -> int:
    return _offset(lines, node.end_lineno or node.lineno, node.end_col_offset or 0)


def with_declaration(
    text: str, kernel: Kernel, function: str, *, variant: str, torch_op: str | None
) -> str:
    """The module, which declares nothing itself, ending in a declaration of ``function``."""
    imports = [n for n in ast.parse(text).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    last = max((node.end_lineno or 0 for node in imports), default=0)
    lines = text.splitlines(keepends=True)
    ended = [*lines[:last], "import harness\n", *lines[last:]]
    return "".join(ended) + _text_of(kernel, function, variant, torch_op)


def _text_of(kernel: Kernel, function: str, variant: str, torch_op: str | None) -> str:
    """A declaration of ``function`` with all that ``kernel`` declares."""
    usual = {f.name: f for f in dataclasses.fields(kernel)}
    lines = [
        f'    "{kernel.op}",',
        f'    backend="{kernel.backend}",',
        f'    arch="{kernel.arch}",',
    ]
    lines += [f'    torch_op="{torch_op}",'] if torch_op else []
    for name in _WRITTEN:
        value = getattr(kernel, name)
        if value and value not in ("fp32", ("contiguous",)):
            lines.append(f"    {name}={value!r},")
    lines += [
        f"    {name}=False," for name in _FLAGS if name in usual and not getattr(kernel, name)
    ]
    body = "\n".join([*lines, f'    variant="{variant}",'])
    return f"\n\nharness.kernel(\n{body}\n)({function})\n"
