"""Which modules of a package hold which kernels, read from their sources: nothing is imported.

A kernel's own module declares it by ``@kernel``; a module that imports it inside a function wraps
it. Faults can be planted in both.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.power.syntax import called, keyword

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Target:
    """A module and the kernel that a fault in it concerns."""

    kernel: str
    module: str
    path: Path

    def source(self) -> str:
        """The module's text."""
        return self.path.read_text(encoding="utf-8")


def targets(package: str) -> tuple[Target, ...]:
    """The modules of a package in which kernels are declared or wrapped, by name.

    Raises ValueError if there is no such package.
    """
    trees = {name: (path, ast.parse(path.read_text("utf-8"))) for name, path in _files(package)}
    declared = {name: kernel for name, (_, tree) in trees.items() for kernel in _declared(tree)}
    found = [Target(kernel, name, trees[name][0]) for name, kernel in declared.items()]
    for name, (path, tree) in trees.items():
        wrapped = next((declared[each] for each in _inner_imports(tree) if each in declared), None)
        if wrapped and name not in declared:
            found.append(Target(wrapped, name, path))
    return tuple(sorted(found, key=lambda target: (target.kernel, target.module)))


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


def _declared(tree: ast.Module) -> Iterator[str]:
    """The name of the kernel that a module declares: ``<op>.<backend>``, or with its variant."""
    for function in tree.body:
        for each in getattr(function, "decorator_list", ()):
            if isinstance(each, ast.Call) and called(each) == "kernel":
                words = [each.args[0], *(_given(each, name) for name in ("backend", "variant"))]
                yield ".".join(str(w.value) for w in words if isinstance(w, ast.Constant))


def _given(call: ast.Call, name: str) -> ast.expr | None:
    found = keyword(call, name)
    return found.value if found else None


def _inner_imports(tree: ast.Module) -> Iterator[str]:
    """Modules imported inside functions, in order."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module
