"""Which modules of a package hold which kernels, read from their sources: nothing is imported.

A kernel's own module declares it by ``@kernel``; a module that imports it inside a function wraps
it; one beside it that only kernels of its op import is a part of it. Faults can be planted in all.
A kernel that says ``emulated=False`` stands back where another one is concerned too.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.power.syntax import called, keyword

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Target:
    """A module and the kernel that a fault in it concerns; ``wraps`` if it only calls that."""

    kernel: str
    module: str
    path: Path
    wraps: bool = False

    def source(self) -> str:
        """The module's text."""
        return self.path.read_text(encoding="utf-8")


def targets(package: str) -> tuple[Target, ...]:
    """The modules of a package in which kernels are declared or wrapped, by name.

    Raises ValueError if there is no such package.
    """
    trees = {name: (path, ast.parse(path.read_text("utf-8"))) for name, path in _files(package)}
    made = {name: each for name, (_, tree) in trees.items() for each in _declared(tree)}
    found = [Target(each.kernel, name, trees[name][0]) for name, each in made.items()]
    for name, (path, tree) in trees.items():
        wrapped = [made[each] for each in _inner_imports(tree) if each in made]
        concerned = wrapped or _users(name, made, trees)
        if concerned and name not in made:
            first = min(concerned, key=lambda each: not each.emulated)
            found.append(Target(first.kernel, name, path, wraps=bool(wrapped)))
    return tuple(sorted(found, key=lambda target: (target.kernel, target.module)))


@dataclass(frozen=True)
class _Declared:
    """As much of a declaration as its decorator's text says."""

    kernel: str
    op: str
    emulated: bool


def _users(
    module: str, made: Mapping[str, _Declared], trees: Mapping[str, tuple[Path, ast.Module]]
) -> list[_Declared]:
    """The kernels that import ``module``, which lies beside them, if all are of one op."""
    beside = module.rpartition(".")[0]
    users = [
        each
        for name, each in made.items()
        if name.rpartition(".")[0] == beside and module in _imports(trees[name][1].body)
    ]
    return users if len({each.op for each in users}) == 1 else []


def _files(package: str) -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        msg = f"package={package!r} is no importable package; give one that declares kernels"
        raise ValueError(msg)
    for folder in map(Path, spec.submodule_search_locations):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if "__pycache__" not in parts and parts[-1] != "__init__":
                yield ".".join((package, *parts)), path


def _declared(tree: ast.Module) -> Iterator[_Declared]:
    """The kernel that a module declares: ``<op>.<backend>``, or with its variant."""
    for function in tree.body:
        for each in getattr(function, "decorator_list", ()):
            if isinstance(each, ast.Call) and called(each) == "kernel":
                words = [each.args[0], *(_given(each, name) for name in ("backend", "variant"))]
                said = [str(word.value) for word in words if isinstance(word, ast.Constant)]
                emulated = _given(each, "emulated")
                never = isinstance(emulated, ast.Constant) and emulated.value is False
                yield _Declared(".".join(said), said[0], not never)


def _given(call: ast.Call, name: str) -> ast.expr | None:
    found = keyword(call, name)
    return found.value if found else None


def _inner_imports(tree: ast.Module) -> Iterator[str]:
    """Modules imported inside functions, in order."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            yield from _imports(ast.walk(function))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
