"""Edits of a module's source at the places of its syntax: names, registered strings, imports."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.authoring import symbols

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.authoring.symbols import Statement


@dataclass(frozen=True)
class Renames:
    """What is called otherwise in a copy: names of the module, strings, and modules it imports."""

    names: Mapping[str, str]
    strings: Mapping[str, str]
    modules: Mapping[str, str]
    package: str  # that relative imports are seen from


@dataclass(frozen=True, order=True)
class Edit:
    """A replacement of the text between two places, each a line (1-based) and a column."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str


def copied(source: str, found: list[Statement], kept: set[int], renames: Renames) -> str:
    """The statements ``kept``, in order, renamed; what they no longer import is left out."""
    edits = list(_edits(source, [found[index] for index in sorted(kept)], renames))
    lines = source.splitlines()
    parts = []
    for index in sorted(kept):
        each = found[index]
        blank = each.first - 1 - (found[index - 1].last if index else 0)
        inside = [e for e in edits if each.first <= e.start[0] <= each.last]
        text = _applied(lines, each.first, each.last, inside)
        parts.append("\n" * (blank if index - 1 in kept or not index else _apart(each)) + text)
    return "\n".join(parts).lstrip("\n") + "\n"


def _apart(each: Statement) -> int:
    """Empty lines above a statement whose neighbour is gone."""
    if isinstance(each.node, (ast.FunctionDef, ast.ClassDef)):
        return 2
    return 1


def _edits(source: str, kept: list[Statement], renames: Renames) -> Iterator[Edit]:
    tokens = _tokens(source)
    for each in kept:
        for name in symbols.module_names(each.node):
            if name.id in renames.names:
                yield _edit_of(source, name, renames.names[name.id])
        yield from _definitions(each.node, tokens, renames.names)
        yield from _of_imports(source, each, kept, renames)
        yield from _operators(source, each.node, renames.strings)
    for token in tokens:
        if token.type == tokenize.STRING and (new := _string(token.string, renames.strings)):
            yield Edit(token.start, token.end, new)


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def _definitions(
    node: ast.stmt, tokens: list[tokenize.TokenInfo], names: Mapping[str, str]
) -> Iterator[Edit]:
    """The name after ``def`` or ``class``, and those of ``global``: no nodes of their own."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        at = node.lineno
        token = next((t for t in tokens if t.start[0] == at and t.string == node.name), None)
        if token is not None and node.name in names:
            yield Edit(token.start, token.end, names[node.name])
    for inner in ast.walk(node):
        if isinstance(inner, ast.Global):
            for token in tokens:
                if token.start[0] == inner.lineno and token.string in names:
                    yield Edit(token.start, token.end, names[token.string])


def _string(text: str, strings: Mapping[str, str]) -> str:
    """The literal that replaces one whose value is to be called otherwise; empty to leave it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a piece of an f-string
        return ""
    if not isinstance(value, str) or value not in strings:
        return ""
    return text.replace(value, strings[value]) if value in text else repr(strings[value])


def _operators(source: str, node: ast.stmt, strings: Mapping[str, str]) -> Iterator[Edit]:
    """``torch.ops.ns.name`` of a registered ``ns::name``."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Attribute):
            old = f"{inner.value.attr}::{inner.attr}"
            if old in strings and ast.unparse(inner.value.value) == "torch.ops":
                new = strings[old].replace("::", ".")
                yield _edit_of(source, inner, f"torch.ops.{new}")


def _of_imports(
    source: str, each: Statement, kept: list[Statement], renames: Renames
) -> Iterator[Edit]:
    """Imports of what is copied too, and without the names that nothing uses any more."""
    used = {name for other in kept if other is not each for name in other.uses}
    top = isinstance(each.node, (ast.Import, ast.ImportFrom))
    for node in symbols.imports(each.node):
        aliases = [a for a in node.names if not top or _bound(a) in used or a.name == "annotations"]
        changed = _import(node, aliases, renames)
        if changed is not None:
            yield _edit_of(source, node, changed)


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _import(
    node: ast.Import | ast.ImportFrom, aliases: list[ast.alias], renames: Renames
) -> str | None:
    """The statement as it is to be, None to leave it as it is."""
    fewer = len(aliases) < len(node.names)
    if isinstance(node, ast.Import):
        new = [ast.alias(renames.modules.get(a.name, a.name), a.asname) for a in aliases]
        same = not fewer and [a.name for a in new] == [a.name for a in node.names]
        return None if same else _line(ast.Import(new), node.col_offset)
    module = symbols.absolute(node, renames.package)
    new_module = renames.modules.get(module)
    if new_module is not None:
        renamed = [_renamed(a, renames.names) for a in aliases]
        return _line(ast.ImportFrom(new_module, renamed, 0), node.col_offset)
    moved = [_submodule(a, module, renames.modules) for a in aliases]
    if not fewer and all(a is b for a, b in zip(moved, aliases, strict=True)):
        return None
    return _line(ast.ImportFrom(node.module, moved, node.level), node.col_offset)


def _renamed(alias: ast.alias, names: Mapping[str, str]) -> ast.alias:
    """Of a module that is copied too; where it is used, the name is rewritten like others."""
    return ast.alias(names.get(alias.name, alias.name), alias.asname)


def _submodule(alias: ast.alias, package: str, modules: Mapping[str, str]) -> ast.alias:
    new = modules.get(f"{package}.{alias.name}")
    return alias if new is None else ast.alias(new.rpartition(".")[2], alias.asname or alias.name)


def _line(node: ast.Import | ast.ImportFrom, indent: int, width: int = 100) -> str:
    text = ast.unparse(node)
    if indent + len(text) <= width or isinstance(node, ast.Import):
        return text
    head, _, names = text.partition(" import ")
    pad = " " * indent
    inner = "".join(f"{pad}    {name},\n" for name in names.split(", "))
    return f"{head} import (\n{inner}{pad})"


def _edit_of(source: str, node: ast.expr | ast.stmt, text: str) -> Edit:
    """At a node's place, whose columns the parser counts in bytes."""
    lines = source.splitlines()

    def place(line: int, column: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:column].decode())

    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return Edit(place(node.lineno, node.col_offset), place(*end), text)


def _applied(lines: list[str], first: int, last: int, edits: Iterable[Edit]) -> str:
    """Lines ``first`` to ``last`` with the edits, of overlapping ones the outer."""
    chosen: list[Edit] = []
    for edit in sorted(set(edits), key=lambda e: (e.start, (-e.end[0], -e.end[1]))):
        if not chosen or edit.start >= chosen[-1].end:
            chosen.append(edit)
    text = lines[first - 1 : last]
    for edit in reversed(chosen):
        (row, column), (end_row, end_column) = edit.start, edit.end
        row, end_row = row - first, end_row - first
        joined = text[row][:column] + edit.text + text[end_row][end_column:]
        text[row : end_row + 1] = joined.split("\n")
    return "\n".join(text)
