"""A module's source as pieces: its top-level statements, what each binds, and what it refers to.

Names are resolved as Python does: one that a function binds itself is not the module's.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """One top-level statement: its lines with the comments above it (1-based, both inclusive)."""

    node: ast.stmt
    first: int
    last: int
    binds: frozenset[str]
    uses: frozenset[str]


def statements(source: str) -> list[Statement]:
    """The top-level statements of a module, in order; raises SyntaxError."""
    tree, lines = ast.parse(source), source.splitlines()
    found, end = [], 0
    for node in tree.body:
        first = min([node.lineno, *(each.lineno for each in decorators(node))])
        while first - 1 > end and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        end = node.end_lineno or node.lineno
        uses = frozenset(name.id for name in module_names(node))
        found.append(Statement(node, first, end, frozenset(bound_by(node)), uses))
    return found


def decorators(node: ast.stmt) -> list[ast.expr]:
    """The decorators of a function or class; none of anything else."""
    return node.decorator_list if isinstance(node, _DEFINITIONS) else []


def bound_by(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds in its own scope, not looking into the scopes within it."""
    if isinstance(node, _DEFINITIONS):
        yield node.name
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif (isinstance(node, ast.ExceptHandler) and node.name) or (
        isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name
    ):
        yield node.name
    if isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS)):
        return
    for child in ast.iter_child_nodes(node):
        yield from bound_by(child)


def module_names(node: ast.AST, local: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """The names within ``node`` that are the module's (or a builtin's), not a function's own."""
    if isinstance(node, ast.Name):
        if node.id not in local:
            yield node
        return
    if isinstance(node, _FUNCTIONS):
        yield from _of_function(node, local)
        return
    if isinstance(node, _COMPREHENSIONS):
        inner = local | {n for g in node.generators for n in bound_by(g.target)}
        for child in ast.iter_child_nodes(node):
            yield from module_names(child, inner)
        return
    for child in ast.iter_child_nodes(node):
        yield from module_names(child, local)


def _of_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, local: frozenset[str]
) -> Iterator[ast.Name]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    outside: list[ast.AST] = [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]
    outside += [a.annotation for a in every if a.annotation is not None]
    if not isinstance(node, ast.Lambda):
        outside += [*node.decorator_list, *([node.returns] if node.returns else [])]
    for each in outside:
        yield from module_names(each, local)
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    declared = {n for b in body for g in ast.walk(b) if isinstance(g, ast.Global) for n in g.names}
    bound = {a.arg for a in every} | {n for each in body for n in bound_by(each)}
    for each in body:
        yield from module_names(each, (local | bound) - declared)


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import within ``node``, those of its functions too."""
    return (n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom)))


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a ``from`` import names, seen from ``package``."""
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def needed(found: list[Statement], roots: frozenset[str], own: frozenset[int]) -> set[int]:
    """Indices of the statements that ``roots`` need, with what registers something on them.

    A decorated function or bare call whose decorator or target is a function of this module that is
    kept, such as ``@_op.register_fake``, belongs to it. ``own`` are statements that belong to
    nobody else: declarations of other kernels and of ops.
    """
    kept: set[int] = set()
    names = set(roots)
    while True:
        more = {
            index
            for index, each in enumerate(found)
            if index not in kept | own
            and (each.binds & names or _attaches(each.node, names, found))
        }
        if not more:
            return kept
        kept |= more
        names |= {name for index in more for name in found[index].uses}


def _attaches(node: ast.stmt, names: set[str], found: list[Statement]) -> bool:
    """Whether a statement registers something on a function of the module among ``names``."""
    defined = {s.node.name for s in found if isinstance(s.node, _DEFINITIONS)}
    assigned = {
        n for s in found if isinstance(s.node, (ast.Assign, ast.AnnAssign)) for n in s.binds
    }
    roots: list[ast.expr] = []
    if isinstance(node, _DEFINITIONS):
        roots = list(node.decorator_list)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        roots = [node.value.func]
    return bool({_root(each) for each in roots} & names & (defined | assigned))


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
