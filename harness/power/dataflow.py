"""What the names of a Triton function hold: indices, floating-point values, or neither."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from harness.power.syntax import called, keyword, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.power.syntax import Source

Node = TypeVar("Node", bound=ast.AST)
INDEX_CALLS: Final = {"tl.arange", "tl.program_id", "tl.num_programs", "tl.cdiv"}
FLOAT_CALLS: Final = {
    "tl.div_rn",
    "tl.rsqrt",
    "tl.sqrt",
    "tl.sqrt_rn",
    "tl.exp",
    "tl.exp2",
    "tl.log",
}
SAME_CALLS: Final = {
    *("tl.sum", "tl.max", "tl.min", "tl.abs", "tl.reshape", "tl.broadcast_to", "tl.trans"),
    *("tl.minimum", "tl.maximum", "tl.where"),
}  # the kind of the result is that of an argument
WIDE: Final = {"tl.float32", "tl.float64"}


class Kinds:
    """The names of one function by kind; found by passes over its assignments until none adds."""

    def __init__(self, source: Source, function: ast.FunctionDef) -> None:
        self.function = function
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        self.parameters = tuple(a.arg for a in arguments)
        self.constants = tuple(
            a.arg for a in arguments if a.annotation and "constexpr" in source.of(a.annotation)
        )
        self.indices: set[str] = set()
        self.floats: set[str] = set()
        self.vectors: set[str] = set()
        before = -1
        while before != (before := sum(map(len, (self.indices, self.floats, self.vectors)))):
            self._pass()

    @property
    def sizes(self) -> tuple[str, ...]:
        """Parameters that count something: extents and strides."""
        plain = set(self.parameters) - set(self.constants)
        return tuple(name for name in self.parameters if name in self.indices & plain)

    @property
    def extents(self) -> tuple[str, ...]:
        """Sizes that are no strides: what masks and ranges compare with."""
        strides = {name for pair in self.stride_pairs for name in pair}
        return tuple(n for n in self.sizes if n not in strides and "_" not in n)

    @property
    def strides(self) -> tuple[str, ...]:
        """Sizes that are steps between elements: named after a tensor and an axis."""
        return tuple(name for name in self.sizes if "_" in name)

    @property
    def stride_pairs(self) -> tuple[tuple[str, str], ...]:
        """Parameters of one stem, the strides of two axes of one tensor."""
        stems: dict[str, list[str]] = {}
        for name in self.parameters:
            stem, _, axis = name.rpartition("_")
            if stem and axis and name in self.indices:
                stems.setdefault(stem, []).append(name)
        return tuple((a[0], a[1]) for a in stems.values() if len(a) == 2)  # noqa: PLR2004

    def is_index(self, node: ast.AST) -> bool:
        """Whether an expression counts elements or points at them."""
        if isinstance(node, ast.Name):
            return node.id in self.indices - self.floats  # a sum may take an index in
        if isinstance(node, ast.Subscript):
            return self.is_index(node.value)
        if isinstance(node, ast.UnaryOp):
            return self.is_index(node.operand)
        if isinstance(node, ast.BinOp):
            sides = (node.left, node.right)
            return any(map(self.is_index, sides)) and not any(map(_is_float_constant, sides))
        if isinstance(node, ast.Call):
            return self._call_is_index(node)
        return False

    def _call_is_index(self, node: ast.Call) -> bool:
        name = called(node)
        if name in INDEX_CALLS:
            return True
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            return self.is_index(node.func.value)
        if name in {"tl.cast", "tl.minimum", "tl.maximum"}:
            return bool(node.args) and any(map(self.is_index, node.args))
        return False

    def is_vector(self, node: ast.AST) -> bool:
        """Whether an index is one of many: it has a lane of a tile in it."""
        lanes = any(called(each) == "tl.arange" for each in ast.walk(node))
        return lanes or bool(names_in(node) & self.vectors)

    def is_float(self, node: ast.AST) -> bool:
        """Whether an expression is known to be a floating-point value of fp32."""
        if isinstance(node, ast.Name):
            return node.id in self.floats
        if isinstance(node, ast.Subscript):
            return self.is_float(node.value)
        if isinstance(node, ast.UnaryOp):
            return self.is_float(node.operand)
        if isinstance(node, ast.BinOp):
            sides = (node.left, node.right)
            return any(map(self.is_float, sides)) or (
                any(map(_is_float_constant, sides)) and not self.is_index(node.left)
            )
        return isinstance(node, ast.Call) and self._call_is_float(node)

    def _call_is_float(self, node: ast.Call) -> bool:
        name = called(node)
        if name in FLOAT_CALLS:
            return True
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            return bool(node.args) and called(node.args[0]) in WIDE
        if name in {"tl.zeros", "tl.full"}:
            dtype = keyword(node, "dtype")
            return dtype is not None and called(dtype.value) in WIDE
        if name == "tl.dot":
            return any(map(self.is_float, node.args[2:]))
        return name in SAME_CALLS and any(map(self.is_float, node.args))

    def _pass(self) -> None:
        for node in ast.walk(self.function):
            if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and node.value:
                self._assign(node)
            elif isinstance(node, ast.For):
                self._loop(node)
            elif isinstance(node, ast.BinOp) and isinstance(
                node.op, (ast.Mult, ast.FloorDiv, ast.Mod)
            ):
                self._relate(node.left, node.right)
            elif isinstance(node, ast.Compare):
                self._relate(node.left, node.comparators[0])
            elif called(node) == "tl.cdiv" and isinstance(node, ast.Call):
                self._count(*node.args)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if not isinstance(target, ast.Name) or node.value is None:
                continue
            if self.is_vector(node.value):
                self.vectors.add(target.id)
            if self.is_index(node.value):
                self.indices.add(target.id)
            elif self.is_float(node.value):
                self.floats.add(target.id)

    def _loop(self, node: ast.For) -> None:
        if called(node.iter) in {"range", "tl.range", "tl.static_range"}:
            self.indices |= names_in(node.target)
            if isinstance(node.iter, ast.Call):
                self._count(*node.iter.args)

    def _relate(self, left: ast.AST, right: ast.AST) -> None:
        if self.is_index(left) and not _is_float_constant(right):
            self._count(right)
        elif self.is_index(right) and not _is_float_constant(left):
            self._count(left)

    def _count(self, *nodes: ast.AST) -> None:
        """Parameters in a place where only a count makes sense are sizes."""
        for node in nodes:
            if isinstance(node, (ast.Name, ast.BinOp)):
                self.indices |= names_in(node) & (set(self.parameters) - set(self.constants))


@lru_cache(maxsize=1)  # for all the rules that ask of a text
def kinds_of(source: Source) -> tuple[Kinds, ...]:
    """The kinds of every function that runs on the device."""
    return tuple(Kinds(source, function) for function in source.devices)


def each(source: Source, wanted: type[Node]) -> Iterator[tuple[Node, Kinds]]:
    """The nodes of one type in device code, with the kinds of their function."""
    for kinds in kinds_of(source):
        for node in ast.walk(kinds.function):
            if isinstance(node, wanted):
                yield node, kinds


def _is_float_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float)
