"""Which modules of a package hold which kernels, read from their sources: nothing is imported.

A kernel's own module declares it by ``@kernel``; a module that imports it inside a function wraps
it; one beside it that only kernels of its op import is a part of it. Faults can be planted in all.
A kernel that says ``emulated=False`` stands back where another one is concerned too. A file of CUDA
C++ that a kernel's module names is a target too, and so are its headers, and the text of a kernel
in the CuTe DSL. What several kernels include belongs to the one that is nearest, counted in
includes; what as many are as near to, or all include, is none.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from harness.power.syntax import called, keyword

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


PYTHON: Final = "Python"
CUDA: Final = "CUDA C++"
CUTEDSL: Final = "CuTe DSL"
# Files that are no modules, which a kernel's module names.
DEVICE_FILES: Final = {".cu": CUDA, ".cuh": CUDA, ".py": CUTEDSL}
_INCLUDE: Final = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


class SourceNotFound(ValueError):
    """A file of device code that a module names and that is not below its folder, or is twice."""


@dataclass(frozen=True)
class Target:
    """A module and the kernel that a fault in it concerns; ``wraps`` if it only calls that.

    A file that is no module has its path as the name: ``package/folder/file.cu``.
    """

    kernel: str
    module: str
    path: Path
    wraps: bool = False

    @property
    def language(self) -> str:
        """What the source is written in."""
        return language_of(self.module)

    def source(self) -> str:
        """The module's text."""
        return self.path.read_text(encoding="utf-8")


def language_of(module: str) -> str:
    """Python for a module's name; for a path such as ``package/file.cu``, what its suffix says.

    A file in Python that has a path is no module: it is the text of a kernel in the CuTe DSL.
    Raises ValueError for a suffix that says nothing.
    """
    if "/" not in module:
        return PYTHON
    if (language := DEVICE_FILES.get(PurePosixPath(module).suffix)) is None:
        msg = f"file={module!r} is in no language that has rules; known: {', '.join(DEVICE_FILES)}"
        raise ValueError(msg)
    return language


def targets(package: str) -> tuple[Target, ...]:
    """The modules of a package in which kernels are declared or wrapped, by name.

    Raises ValueError if there is no such package, SourceNotFound for a file of device code.
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
    places = {m: (each.kernel, *trees[m]) for m, each in made.items()}
    found += _device_sources(places, r"cuh?")
    found += _device_sources({m: p for m, p in places.items() if _is_cutedsl(p[0])}, "py")
    return tuple(sorted(found, key=lambda target: (target.kernel, target.module)))


@dataclass(frozen=True)
class _Declared:
    """As much of a declaration as its decorator's text says."""

    kernel: str
    op: str
    emulated: bool


def _is_cutedsl(kernel: str) -> bool:
    """Whether a kernel, ``op.backend`` or with its variant, is in the CuTe DSL."""
    return kernel.split(".")[1:2] == ["cutedsl"]


def _device_sources(
    made: Mapping[str, tuple[str, Path, ast.Module]], suffix: str
) -> Iterator[Target]:
    """The files of device code that one kernel's module names, with what they include."""
    files = {
        kernel: _with_headers(_named(path, tree, suffix)) for kernel, path, tree in made.values()
    }
    files = {kernel: own for kernel, own in files.items() if own}
    roots = {kernel: path.parents[module.count(".")] for module, (kernel, path, _) in made.items()}
    for kernel, own in files.items():
        for path in sorted(own):
            others = [each.get(path) for name, each in files.items() if name != kernel]
            nearer = [each for each in others if each is not None and each <= own[path]]
            if not nearer and (None in others or not others):
                yield Target(kernel, path.relative_to(roots[kernel]).as_posix(), path)


def _named(module: Path, tree: ast.Module, suffix: str) -> Iterator[Path]:
    """The files whose names are strings of a module, ``"name.cu"``, anywhere below its folder.

    A header, ``"name.cuh"``, is one that the module puts into a file of another one. ``"name.py"``
    is a text in the CuTe DSL where a kernel is said to be, and any string elsewhere.
    """
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(rf"[\w./-]+\.{suffix}", text):
            found = sorted(module.parent.rglob(text))
            if len(found) != 1:
                places = ", ".join(map(str, found)) or "none"
                msg = f"{module} names {text!r}; below its folder must be one such file: {places}"
                raise SourceNotFound(msg)
            yield found[0]


def _with_headers(files: Iterable[Path]) -> dict[Path, int]:
    """Files and all that they include from beside themselves: how many includes away each is."""
    found = dict[Path, int]()
    waiting = sorted((int(path.suffix == ".cuh"), path) for path in files)
    for steps, path in waiting:  # which grows, by what is no nearer than what was before
        if path not in found and path.is_file():
            found[path] = steps
            names = _INCLUDE.findall(path.read_text("utf-8"))
            waiting += [(steps + 1, path.parent / name) for name in names]
    return found


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
