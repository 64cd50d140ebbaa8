"""Faults of results: allocated, cached, aliased or described wrongly; a silent fallback."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from harness.power.syntax import Found, Source, called, keyword, rule
from harness.power.wrappers import (
    allocations,
    arguments,
    fakes,
    launches,
    nodes,
    op_name,
    operators,
    publics,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FALLBACK_ROWS: Final = 16  # a size that a policy would call too small for a kernel


@rule("wrapper")
def workspace_forgets_dtype(source: Source) -> Found:
    """A cached buffer found again by its shape alone."""
    for node, call in allocations(source):
        yield call, _cached(source, node, call, source.of(call.args[0]))


@rule("wrapper")
def workspace_forgets_shape(source: Source) -> Found:
    """A cached buffer found again by its dtype alone."""
    for node, call in allocations(source):
        if dtype := keyword(call, "dtype"):
            yield call, _cached(source, node, call, source.of(dtype.value))


@rule("wrapper")
def persistent_result(source: Source) -> Found:
    """A result that the next call of that shape overwrites."""
    for node, call in allocations(source):
        parts = [source.of(each) for each in call.args]
        parts += [source.of(each.value) for each in call.keywords]
        yield call, _cached(source, node, call, ", ".join(parts))


@rule("wrapper")
def stale_result(source: Source) -> Found:
    """The first result of a shape, for every later call of that shape."""
    for function in operators(source):
        last = function.body[-1]
        names = [source.of(node.targets[0]) for node, _ in allocations(source)]
        if isinstance(last, ast.Return) and last.value and names:
            key = ", ".join(f"{name}.shape, {name}.dtype, {name}.device" for name in names)
            store = 'globals().setdefault("_results", {})'
            yield last.value, f"{store}.setdefault(({key}), {_tuple(source, last.value)})"


@rule("wrapper")
def result_of_other_dtype(source: Source) -> Found:
    """A result in another format than declared."""
    for _, call in allocations(source):
        if dtype := keyword(call, "dtype"):
            single = source.of(dtype.value) in {"torch.float32", "torch.uint8"}
            other = {"torch.float32": "torch.float16", "torch.uint8": "torch.int8"}
            yield dtype.value, other[source.of(dtype.value)] if single else "torch.float32"


@rule("wrapper")
def result_of_other_shape(source: Source) -> Found:
    """Axes of a result in the other order, or one of another length."""
    for _, call in allocations(source):
        shape = call.args[0]
        if isinstance(shape, ast.Tuple) and len(shape.elts) > 1:
            first, second = (source.of(each) for each in shape.elts[:2])
            yield shape, f"({second}, {first})"
        for node in ast.walk(shape):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
                yield node, source.of(node.left)


@rule("wrapper")
def transposed_result(source: Source) -> Found:
    """A result whose strides are not those that the kernel writes by."""
    for _, call in allocations(source):
        shape = call.args[0]
        if isinstance(shape, ast.Tuple) and len(shape.elts) == 2:  # noqa: PLR2004
            yield call, _column_by_column(source, call, shape)


@rule("wrapper")
def result_never_written(source: Source) -> Found:
    """A kernel that writes elsewhere: what is returned was never computed."""
    names = {source.of(node.targets[0]) for node, _ in allocations(source)}
    for call in launches(source):
        for item in call.args:
            if isinstance(item, ast.Name) and item.id in names:
                yield item, f"torch.empty_like({item.id})"


@rule("wrapper")
def result_in_an_input(source: Source) -> Found:
    """The result written over the input whose shape it has."""
    shapes = {source.of(call.args[0]) for call in _described(source)}
    for function in operators(source):
        like = [a.name for a in arguments(source, function) if f"{a.name}.shape" in shapes]
        for _, call in allocations(source):
            for name in like:
                if any(source.of(each.value) == f"{name}.dtype" for each in call.keywords):
                    fresh = source.of(call)
                    yield call, f"{name}.detach() if {name}.is_contiguous() else {fresh}"


@rule("wrapper")
def early_return(source: Source) -> Found:
    """A result returned before anything was computed, or no return where nothing is to do."""
    for function in operators(source):
        for node in nodes((function,), ast.If):
            test = node.test
            if isinstance(test, ast.Compare) and isinstance(node.body[-1], ast.Return):
                yield test, f"{source.of(test.left)} <= 1"
                yield test, "False"


@rule("wrapper")
def results_swapped(source: Source) -> Found:
    """Two results for each other."""
    for function in (*operators(source), *fakes(source)):
        for node in nodes((function,), ast.Return):
            if isinstance(node.value, ast.Tuple):
                for first, second in pairwise(node.value.elts):
                    yield source.swapped(first, second)


@rule("wrapper")
def fake_shape(source: Source) -> Found:
    """A fake of another shape: axes swapped, one too long, that of the input."""
    for call in _described(source):
        shape = call.args[0]
        if isinstance(shape, ast.Tuple):
            items = [source.of(each) for each in shape.elts]
            yield shape, f"({', '.join(items[::-1])})"
            for node in ast.walk(shape):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
                    yield node, source.of(node.left)
        else:
            yield shape, f"{source.atom(shape)}[::-1]"


@rule("wrapper")
def fake_dtype(source: Source) -> Found:
    """A fake of another dtype: that of an input, or always float32."""
    for call in _described(source):
        if dtype := keyword(call, "dtype"):
            yield (source.span(call.args[-1])[1], source.span(dtype)[1]), ""
            yield dtype.value, "torch.int8"
        else:
            end = source.span(call)[1] - 1
            yield (end, end + 1), ", dtype=torch.float32)"


@rule("wrapper")
def fake_stride(source: Source) -> Found:
    """A fake that lies otherwise: column after column, or as the input does."""
    for call in _described(source):
        shape, owner = call.args[0], call.func
        if not isinstance(shape, ast.Tuple) and isinstance(owner, ast.Attribute):
            yield call, f"torch.empty_like({source.of(owner.value)})"
        elif isinstance(shape, ast.Tuple) and len(shape.elts) == 2:  # noqa: PLR2004
            yield call, _column_by_column(source, call, shape)


@rule("wrapper")
def silent_fallback(source: Source) -> Found:
    """Few rows computed by something else than the kernel, and rightly so."""
    for function in publics(source):
        given = arguments(source, function)
        for statement in function.body:
            if given and _calls_one_of(statement, operators(source)):
                start = source.span(statement)[0]
                yield (start, start), _fallback(op_name(function), given[0].name)
                break


def _fallback(op: str, first: str) -> str:
    return (
        f"if 0 < {first}.shape[0] <= {FALLBACK_ROWS}:\n"
        f"        from harness.power.fallback import eager\n\n"
        f'        return eager("{op}", locals())\n    '
    )


def _calls_one_of(statement: ast.stmt, functions: tuple[ast.FunctionDef, ...]) -> bool:
    names = {each.name for each in functions}
    return any(isinstance(n, ast.Call) and called(n) in names for n in ast.walk(statement))


def _cached(source: Source, node: ast.Assign, call: ast.Call, key: str) -> str:
    name = source.of(node.targets[0])
    store = 'globals().setdefault("_workspaces", {})'
    return f'{store}.setdefault(("{name}", {key}), {source.of(call)})'


def _tuple(source: Source, node: ast.AST) -> str:
    return f"({source.of(node)})" if isinstance(node, ast.Tuple) else source.of(node)


def _column_by_column(source: Source, call: ast.Call, shape: ast.Tuple) -> str:
    """An allocation of the same shape, a pair, with the strides of the transposed one."""
    text, (start, _) = source.of(call), source.span(call)
    inside, outside = (offset - start for offset in source.span(shape))
    first, second = (source.of(each) for each in shape.elts)
    return f"{text[:inside]}({second}, {first}){text[outside:]}.t()"


def _described(source: Source) -> Iterator[ast.Call]:
    """The results that a fake describes."""
    return (c for c in nodes(fakes(source), ast.Call) if called(c).endswith(".new_empty"))


RULES: Final = (
    *(workspace_forgets_dtype, workspace_forgets_shape, persistent_result, stale_result),
    *(result_of_other_dtype, result_of_other_shape, transposed_result, result_never_written),
    *(result_in_an_input, early_return, results_swapped, fake_shape, fake_dtype, fake_stride),
    *(silent_fallback,),
)
