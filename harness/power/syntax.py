"""Python source as a tree whose nodes know their place in the text, and edits of that text."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

FAMILIES: Final = (
    *("arithmetic", "index", "boundary", "precision", "synchronisation", "semantic", "wrapper"),
)
ATOMS: Final = (ast.Name, ast.Call, ast.Subscript, ast.Attribute, ast.Constant, ast.Tuple)
SYMBOLS: Final[dict[type[ast.AST], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitOr: "|", ast.BitAnd: "&", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
Span = tuple[int, int]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Edit:
    """``text[start:end]`` becomes ``after``; what for is said by ``family`` and ``rule``."""

    family: str
    rule: str
    start: int
    end: int
    after: str


Rules = Callable[[str], Iterator[Edit]]
"""The edits that apply to a source text; one for each language, chosen by a file's suffix."""


class Source:
    """A parsed module: text of a node, parents, and which functions run on the device."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = [f"{line}\n" for line in text.split("\n")]  # a form feed ends none
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    def span(self, node: ast.AST) -> Span:
        """Character offsets of a node; the parser counts bytes of UTF-8."""
        line, column = getattr(node, "lineno", None), getattr(node, "col_offset", None)
        end_line, end = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
        if line is None or column is None or end_line is None or end is None:
            msg = f"node={type(node).__name__} has no place in the text; take one of its children"
            raise ValueError(msg)
        return self._offset(line, column), self._offset(end_line, end)

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        return self._starts[line - 1] + len(text.encode()[:column].decode())

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def atom(self, node: ast.AST) -> str:
        """The text of a node, in parentheses where an operator beside it could tear it apart."""
        return self.of(node) if isinstance(node, ATOMS) else f"({self.of(node)})"

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The node around a node; None for the module."""
        return self._parents.get(node)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around a node, innermost first."""
        current = self.parent(node)
        while current is not None:
            yield current
            current = self.parent(current)

    def operator(self, left: ast.AST, right: ast.AST, symbol: str) -> Span:
        """The place of the operator between two operands."""
        start = self.text.index(symbol, self.span(left)[1], self.span(right)[0])
        return start, start + len(symbol)

    @cached_property
    def devices(self) -> tuple[ast.FunctionDef, ...]:
        """The functions that Triton compiles."""
        return tuple(f for f in self._functions if is_device(f))

    @cached_property
    def hosts(self) -> tuple[ast.FunctionDef, ...]:
        """All other functions, methods too."""
        return tuple(f for f in self._functions if not is_device(f))

    @cached_property
    def _functions(self) -> tuple[ast.FunctionDef, ...]:
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]
        return tuple(sorted(found, key=lambda node: node.lineno))

    def statements(self) -> Iterator[int]:
        """Where the module's own statements begin, decorators first, those that begin a line."""
        for node in self.tree.body:
            if node.col_offset == 0:
                lines = [each.lineno for each in getattr(node, "decorator_list", ())]
                yield self._starts[min([node.lineno, *lines]) - 1]

    def swapped(self, first: ast.AST, second: ast.AST) -> tuple[Span, str]:
        """Two nodes for each other, what lies between them in place; with the span of it all."""
        start, middle = self.span(first)
        later, end = self.span(second)
        text = self.text
        return (start, end), text[later:end] + text[middle:later] + text[start:middle]

    def remove_item(self, items: list[ast.AST], index: int) -> Span:
        """What to cut so that one of several items with commas between them is gone."""
        if index > 0:
            return self.span(items[index - 1])[1], self.span(items[index])[1]
        if len(items) > 1:
            return self.span(items[0])[0], self.span(items[1])[0]
        return self.span(items[0])


def check(source: str, edit: Edit, changed: str) -> None:
    """Raise SyntaxError unless an edit of a source left source.

    A statement of a module that parses alone parses among its neighbours: most of a text need not
    be read.
    """
    starts = _statements(source)
    before = [0, *starts[: bisect_right(starts, edit.start)]]
    after = [*starts[bisect_right(starts, edit.end) :], len(source)]
    try:
        ast.parse(changed[before[-1] : after[0] + len(changed) - len(source)])
    except SyntaxError:
        ast.parse(changed)  # which knows the line, and what a later bracket closes


@lru_cache(maxsize=1)
def _statements(text: str) -> tuple[int, ...]:
    """Where statements of a module begin, decorators first."""
    return tuple(Source(text).statements())


def is_device(function: ast.FunctionDef) -> bool:
    """Whether Triton compiles the function."""
    return any(called(each).endswith("jit") for each in function.decorator_list)


def called(node: ast.AST) -> str:
    """The dotted name of a call, or of what would be called; empty for anything else."""
    if isinstance(node, ast.Call):
        return called(node.func)
    if isinstance(node, ast.Attribute):
        owner = called(node.value)
        return f"{owner}.{node.attr}" if owner else f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def names_in(node: ast.AST) -> set[str]:
    """Every name that an expression reads or writes."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def keyword(call: ast.Call, name: str) -> ast.keyword | None:
    """The keyword argument of that name."""
    return next((each for each in call.keywords if each.arg == name), None)


Place = ast.AST | Span
Found = Iterator[tuple[Place, str]]


@dataclass(frozen=True)
class Rule:
    """One kind of fault: where it can stand in a source, and what stands there then."""

    family: str
    name: str
    find: Callable[[Source], Found]

    def edits(self, source: Source) -> Iterator[Edit]:
        """The fault at every place where it is possible."""
        for place, after in self.find(source):
            start, end = place if isinstance(place, tuple) else source.span(place)
            yield Edit(self.family, self.name, start, end, after)


def edits_by(rules: Iterable[Rule]) -> Rules:
    """The edits of several rules to a text, which is parsed once."""

    def edits(text: str) -> Iterator[Edit]:
        source = Source(text)
        for each in rules:
            yield from each.edits(source)

    return edits


def rule(family: str) -> Callable[[Callable[[Source], Found]], Rule]:
    """Make a rule of a function; its name is the rule's."""
    if family not in FAMILIES:
        msg = f"family={family!r} is unknown; families: {', '.join(FAMILIES)}"
        raise ValueError(msg)

    def make(find: Callable[[Source], Found]) -> Rule:
        return Rule(family, find.__name__, find)

    return make
