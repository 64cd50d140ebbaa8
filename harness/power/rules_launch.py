"""Faults of a launch: strides, arguments, grid, device, options, parameters that never arrive."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from harness.power.syntax import Found, Source, called, keyword, names_in, rule
from harness.power.wrappers import (
    Argument,
    allocations,
    arguments,
    is_check,
    launches,
    nodes,
    operators,
    publics,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TUNING: Final = {"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion"}


@rule("wrapper")
def reversed_strides(source: Source) -> Found:
    """The row stride for the column stride."""
    for item, name in _strides(source):
        if _rank(source, name) > 1:
            yield item, f"*{name}.stride()[::-1]"


@rule("wrapper")
def contiguous_taken_for_granted(source: Source) -> Found:
    """Strides computed from the shape."""
    for item, name in _strides(source):
        yield item, f"{name}.shape[-1], 1" if _rank(source, name) > 1 else "1"


@rule("wrapper")
def strides_of_another(source: Source) -> Found:
    """Two tensors' strides for each other."""
    for call in launches(source):
        for first, second in pairwise(call.args):
            counts = [_stride_count(source, each) for each in (first, second)]
            if counts[0] == counts[1] > 0:
                yield source.swapped(first, second)


@rule("wrapper")
def swapped_arguments(source: Source) -> Found:
    """Two arguments of one kind for each other: scale roles, sizes, codes."""
    for function in (*operators(source), *publics(source)):
        kinds = {each.name: each.annotation for each in arguments(source, function)}
        kinds |= {source.of(node.targets[0]): "result" for node, _ in allocations(source)}
        for call in nodes((function,), ast.Call):
            given = () if is_check(call) or "." in called(call) else pairwise(call.args)
            for first, second in given:
                one, other = (kinds.get(called(each), "local") for each in (first, second))
                plain = isinstance(first, ast.Name) and isinstance(second, ast.Name)
                if plain and one == other:
                    yield source.swapped(first, second)


@rule("wrapper")
def other_tile_extent(source: Source) -> Found:
    """A kernel compiled for another tile than the grid was made for."""
    for call in launches(source):
        named = [k for k in call.keywords if _is_tile(k)]
        for one, other in pairwise([*named, *named[:1]]):
            if one is not other:
                yield one.value, source.of(other.value)


@rule("wrapper")
def flag_always_off(source: Source) -> Found:
    """An optional input or a variant that is never switched on."""
    for value in _flags(source):
        yield value, "False"


@rule("wrapper")
def option_needs_absence(source: Source) -> Found:
    """An optional input left out when another is given."""
    optional = _optional_names(source)
    for value in _flags(source):
        own = names_in(value)
        for other in optional:
            if other not in own and isinstance(value, ast.Compare) and own & set(optional):
                yield value, f"{source.of(value)} and {other} is None"


@rule("wrapper")
def variant_always_on(source: Source) -> Found:
    """A variant chosen for sizes that it was not written for."""
    for value in _flags(source):
        if isinstance(value, ast.Compare) and not isinstance(value.ops[0], (ast.Is, ast.IsNot)):
            yield value, "True"


@rule("wrapper")
def absent_branch(source: Source) -> Found:
    """What belongs to an absent input used for a given one."""
    for call in launches(source):
        for item in call.args:
            inner = item.value if isinstance(item, ast.Starred) else item
            if isinstance(inner, ast.IfExp):
                yield inner, source.of(inner.body)


@rule("wrapper")
def parameter_ignored(source: Source) -> Found:
    """A keyword that never reaches the kernel: its default does."""
    for function in operators(source):
        optional = {each.name for each in arguments(source, function) if each.is_optional}
        defaults = {n: v for n, v in _defaults(source).items() if n not in optional}
        for name in nodes((function,), ast.Name):
            if name.id in defaults and not _checked(source, name):
                yield name, defaults[name.id]


@rule("wrapper")
def parameter_not_passed(source: Source) -> Found:
    """A keyword that the public function takes and does not hand on."""
    for function in publics(source):
        defaults = _defaults(source)
        for name in nodes((function,), ast.Name):
            passed = isinstance(source.parent(name), ast.Call) and name.id in defaults
            if passed and not _checked(source, name):
                yield name, defaults[name.id]


@rule("wrapper")
def unknown_tiling(source: Source) -> Found:
    """A policy that picks a name which is not in the table."""
    for function in source.hosts:
        chosen = nodes((function,), ast.Return) if function.name.startswith("choose") else ()
        for node in chosen:
            name = node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name, f'"{name.value}_v2"'


@rule("wrapper")
def writes_an_input(source: Source) -> Found:
    """An input used as scratch once the launch is made."""
    for function in operators(source):
        for argument in _tensors(source, function):
            last = function.body[-1]
            if isinstance(last, ast.Return):
                yield last, f"{argument.name}.zero_()\n    {source.of(last)}"


@rule("wrapper")
def touches_an_input(source: Source) -> Found:
    """An operation in place that changes no value, undeclared."""
    for function in operators(source):
        for argument in _tensors(source, function):
            last = function.body[-1]
            if isinstance(last, ast.Return):
                yield last, f"{argument.name}.mul_(1)\n    {source.of(last)}"


@rule("wrapper")
def declares_mutation(source: Source) -> Found:
    """An operator that says it changes an input."""
    for function in operators(source):
        first = arguments(source, function)[0].name
        for node in function.decorator_list:
            declared = keyword(node, "mutates_args") if isinstance(node, ast.Call) else None
            if declared:
                yield declared.value, f'("{first}",)'


@rule("synchronisation")
def wrong_device(source: Source) -> Found:
    """A launch on whatever device is current."""
    for node in nodes(operators(source), ast.With):
        if called(node.items[0].context_expr).endswith(".on"):
            start, end = source.span(node)[0], source.span(node.items[0].context_expr)[1]
            yield (start, end), "if True"


@rule("synchronisation")
def too_few_programs(source: Source) -> Found:
    """A grid of full tiles only, or without its last program."""
    for call in _grid_divisions(source):
        number, tile = (source.atom(each) for each in call.args)
        yield call, f"({number} // {tile})"
        yield call, f"({source.of(call)} - 1)"


@rule("synchronisation")
def grid_of_another_tile(source: Source) -> Found:
    """A grid made for tiles of another extent."""
    for call in _grid_divisions(source):
        if isinstance(call.args[1], ast.Attribute):
            for other in _tile_fields(source):
                if other != call.args[1].attr:
                    yield call.args[1], f"{source.of(call.args[1].value)}.{other}"


@rule("synchronisation")
def sum_for_product(source: Source) -> Found:
    """A grid of as many programs as the sum of two extents, not their product."""
    for node in nodes(operators(source), ast.BinOp):
        tiles = all(called(side) == "triton.cdiv" for side in (node.left, node.right))
        if tiles and isinstance(node.op, ast.Mult):
            yield source.operator(node.left, node.right, "*"), "+"


@rule("precision")
def fused_multiply_add(source: Source) -> Found:
    """Products fused into sums where the order of rounding is declared."""
    for call in launches(source):
        for each in call.keywords:
            if each.arg == "enable_fp_fusion" and source.of(each.value) == "False":
                yield each.value, "True"


def _strides(source: Source) -> Iterator[tuple[ast.Starred, str]]:
    for call in launches(source):
        for item in call.args:
            name = called(item.value) if isinstance(item, ast.Starred) else ""
            if isinstance(item, ast.Starred) and name.endswith(".stride"):
                yield item, name.removesuffix(".stride")


def _rank(source: Source, name: str) -> int:
    """The number of axes that a check asks of a tensor; 2 if none does."""
    for call in nodes(source.hosts, ast.Call):
        if called(call).endswith("require_shape") and source.of(call.args[1]) == name:
            return len(getattr(call.args[2], "elts", ()))
    return 2


def _stride_count(source: Source, item: ast.AST) -> int:
    """How many strides an argument stands for; 0 for anything else."""
    if not isinstance(item, ast.Starred):
        return 0
    if isinstance(item.value, ast.IfExp):
        return len(getattr(item.value.body, "elts", ()))
    return _rank(source, called(item.value).removesuffix(".stride"))


def _flags(source: Source) -> Iterator[ast.expr]:
    """Compile-time flags of a launch that are computed there."""
    for call in launches(source):
        for each in call.keywords:
            if each.arg not in TUNING and isinstance(each.value, ast.Compare):
                yield each.value


def _optional_names(source: Source) -> list[str]:
    return [a.name for f in operators(source) for a in arguments(source, f) if a.is_optional]


def _tensors(source: Source, function: ast.FunctionDef) -> list[Argument]:
    return [each for each in arguments(source, function) if each.is_tensor]


def _defaults(source: Source) -> dict[str, str]:
    """What the public function takes for each parameter that is no tensor, if not given."""
    return {
        each.name: each.default
        for function in publics(source)
        for each in arguments(source, function)
        if each.default is not None and not each.is_tensor
    }


def _checked(source: Source, node: ast.AST) -> bool:
    """Whether a name is only looked at by a check, or asked whether it is there."""
    if isinstance(source.parent(node), ast.Compare):
        return True
    if isinstance(source.parent(node), ast.Attribute):
        return True
    return any(is_check(each) for each in source.ancestors(node))


def _grid_divisions(source: Source) -> Iterator[ast.Call]:
    return (c for c in nodes(operators(source), ast.Call) if called(c) == "triton.cdiv")


def _tile_fields(source: Source) -> list[str]:
    """The fields of a tiling that are extents of tiles."""
    given = [
        k.value for c in launches(source) for k in c.keywords if (k.arg or "").startswith("BLOCK")
    ]
    return list(dict.fromkeys(v.attr for v in given if isinstance(v, ast.Attribute)))


def _is_tile(node: ast.keyword) -> bool:
    """Whether a keyword gives an extent of a tile."""
    return (
        node.arg not in TUNING
        and isinstance(node.value, (ast.Attribute, ast.Name))
        and (isinstance(node.value, ast.Attribute) or (node.arg or "").startswith("BLOCK"))
    )


RULES: Final = (
    *(reversed_strides, contiguous_taken_for_granted, strides_of_another, swapped_arguments),
    *(other_tile_extent, flag_always_off, option_needs_absence, variant_always_on, absent_branch),
    *(parameter_ignored, parameter_not_passed, unknown_tiling, writes_an_input, touches_an_input),
    *(declares_mutation, wrong_device, too_few_programs, grid_of_another_tile, sum_for_product),
    *(fused_multiply_add,),
)
