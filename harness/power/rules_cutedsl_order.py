"""Faults of who waits for whom in the CuTe DSL: barriers, fences, copies in flight, stages."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from harness.power.cutedsl_values import body, code, functions
from harness.power.syntax import Found, Source, called, keyword, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITS: Final = r"^wait$|\.wait_for_alloc$|\.mbarrier_wait$|cp\.async\.wait_group"
BARRIERS: Final = r"\.sync_threads$|\.sync_warp$|\.arrive_and_wait$|\bbar\."
FENCES: Final = r"^tcgen05_fence$|\.fence_\w+$"
COMMITS: Final = r"^commit$|^tcgen05\.commit$|cp\.async\.commit_group"
RELEASES: Final = r"\.release$|\.tail$|\.relinquish_alloc_permit$"
ORDER: Final = f"{WAITS}|{BARRIERS}|{FENCES}|{COMMITS}|{RELEASES}"
WARP: Final = 32


@rule("synchronisation")
def never_waits(source: Source) -> Found:
    """What is under way used without a wait."""
    yield from _removed(source, WAITS)


@rule("synchronisation")
def barrier_removed(source: Source) -> Found:
    """Threads that do not wait for each other."""
    yield from _removed(source, BARRIERS)


@rule("synchronisation")
def fence_removed(source: Source) -> Found:
    """Writes that another kind of access may not see yet."""
    yield from _removed(source, FENCES)


@rule("synchronisation")
def batch_left_open(source: Source) -> Found:
    """Copies, or products, that no wait covers."""
    yield from _removed(source, COMMITS)


@rule("synchronisation")
def never_released(source: Source) -> Found:
    """A stage, or a right, that nobody gives back."""
    yield from _removed(source, RELEASES)


@rule("synchronisation")
def arrives_twice(source: Source) -> Found:
    """A barrier that is passed twice, and so is none.

    A batch closed twice is no fault: a wait lets so many of the newest be under way, full or not.
    """
    for statement, _ in _ordering(source, r"^tcgen05\.commit$"):
        yield statement, f"{source.of(statement)}; {source.of(statement)}"


@rule("synchronisation")
def waits_for_one_less(source: Source) -> Found:
    """The newest stage counted as there while its copies are under way."""
    yield from in_texts(source, r"(?<=wait_group )\{t\.stages - 2\}", "{t.stages - 1}")
    yield from in_texts(source, r"(?<=wait_group )0", "1")


@rule("synchronisation")
def barrier_of_others(source: Source) -> Found:
    """A barrier that expects a warp less, or none but a warp."""
    for node in code(source):
        if isinstance(node, ast.Call) and (count := keyword(node, "num_threads")):
            yield count.value, f"{source.atom(count.value)} - {WARP}"
            yield count.value, str(WARP)
        elif isinstance(node, ast.Call) and called(node).endswith("sync_threads"):
            yield node.func, "cute.arch.sync_warp"
    yield from in_texts(source, r"\bbar\.sync [^;\"]+;", "bar.warp.sync 0xffffffff;")


@rule("synchronisation")
def other_steps_first(source: Source) -> Found:
    """A wait or a barrier behind what it should come before, and the other way round."""
    marked = {statement for statement, _ in _ordering(source, ORDER)}
    for statements in _bodies(source):
        for first, second in pairwise(statements):
            plain = isinstance(second, ast.Assign) or isinstance(first, ast.Assign)
            if (first in marked or second in marked) and not plain:
                yield source.swapped(first, second)


@rule("synchronisation")
def other_stage(source: Source) -> Found:
    """A stage filled that is being read, or read that is being filled; always the first."""
    for node in code(source):
        if isinstance(node, ast.Attribute) and called(node) == "stage.index":
            yield node, "0"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            factor = isinstance(source.parent(node), ast.BinOp)
            if node.id in {"stage", "free"} and factor and _has_name(source, node, "free"):
                yield node, "free" if node.id == "stage" else "stage"


@rule("synchronisation")
def not_cleared(source: Source) -> Found:
    """A sum that begins with whatever is there."""
    yield from _removed(source, r"\.fill$")


def in_texts(source: Source, pattern: str, after: str) -> Found:
    """Where a text of PTX has the pattern; the place is that of the text's part alone."""
    for node in code(source):
        if isinstance(node, (ast.JoinedStr, ast.Constant)) and _is_text(source, node):
            start, end = source.span(node)
            for match in re.finditer(pattern, source.text[start:end]):
                yield (start + match.start(), start + match.end()), match.expand(after)


def _is_text(source: Source, node: ast.AST) -> bool:
    call = source.parent(node)
    return isinstance(call, ast.Call) and called(call) == "inline_ptx" and node is call.args[0]


def _removed(source: Source, pattern: str) -> Found:
    for statement, _ in _ordering(source, pattern):
        yield statement, "pass"


def _ordering(source: Source, pattern: str) -> Iterator[tuple[ast.Expr, str]]:
    """The statements that are a call of such a name, or of PTX with such a text."""
    for node in code(source):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            words = source.of(call.args[0]) if called(call) == "inline_ptx" else called(call)
            if re.search(pattern, words):
                yield node, words


def _bodies(source: Source) -> Iterator[list[ast.stmt]]:
    yield from map(body, functions(source))
    for node in code(source):
        for name in ("body", "orelse"):
            found = getattr(node, name, None)
            if isinstance(found, list):
                yield found


def _has_name(source: Source, node: ast.AST, name: str) -> bool:
    """Whether the function around a node gives something that name."""
    around = next(e for e in source.ancestors(node) if isinstance(e, ast.FunctionDef))
    return any(isinstance(e, ast.Name) and e.id == name for e in ast.walk(around))


RULES: Final = (
    *(never_waits, barrier_removed, fence_removed, batch_left_open, never_released),
    *(arrives_twice, waits_for_one_less, barrier_of_others, other_steps_first),
    *(other_stage, not_cleared),
)
