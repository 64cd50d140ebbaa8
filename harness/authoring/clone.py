"""``clone``: the next version of a kernel, copied with its names rewritten and proven to be run.

Only what the kernel needs is copied: its function, what that refers to in its module, and the
modules of the same package by which it reaches its launches. The copy is kept only if each launch
that it makes, on all archs, in all configurations and dtypes, is of its own symbols.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import registry
from harness.authoring import declaration, files, proof, rewrite, symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harness.authoring.symbols import Statement
    from harness.declare import Kernel

_VERSION: Final = re.compile(r"[a-z][a-z0-9]*")
_OF_VERSION: Final = re.compile(r"_?(v\d+)$")
_REGISTERS: Final = ("custom_op", "triton_op", "define")
_COMPILED: Final = ("jit", "autotune", "heuristics", *_REGISTERS)


class CannotClone(ValueError):
    """A kernel or version that no copy can be made of; says why."""


@dataclass(frozen=True)
class Cloned:
    """The new kernel, the files that were written, what was proven, and what is left by hand.

    ``target`` declares the new kernel beside what was loaded; empty where that loads it anyway.
    """

    kernel: str
    target: str
    paths: tuple[Path, ...]
    proven: proof.Proof
    advice: tuple[str, ...]


@dataclass
class _Module:
    """A module of which a part is copied: what is kept, and what is renamed in it."""

    name: str
    path: Path
    source: str
    found: list[Statement]
    excluded: frozenset[int]
    roots: set[str] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)


def clone(
    name: str,
    version: str,
    targets: Sequence[str],
    *,
    prove: Callable[[proof.Claim], proof.Proof] = proof.prove,
) -> Cloned:
    """Make version ``version`` of the kernel ``name``, which ``targets`` declare and have loaded.

    All or nothing. Raises UnknownName, CannotClone, InTheWay for a file that is there, NotProven
    where a launch of the copy is not its own.
    """
    kernel = registry.kernel(name)
    naming = _Naming.of(kernel, version)
    seen = proof.seen(kernel)
    copies = _copies(kernel, seen.symbols)
    texts = _text_files(copies.values(), seen.symbols)
    made = files.create({**_sources(kernel, copies, naming, texts), **_own_texts(texts, naming)})
    home = copies[kernel.function.__module__]
    target = _target(home, naming)
    claim = proof.Claim(
        targets=(*targets, target),
        old=kernel.name,
        launched=seen.symbols,
        new=naming.kernel,
        modules=tuple(naming.module(copy.name) for copy in copies.values()),
        files=tuple((path.name, naming.path(path).name) for path in texts),
    )
    try:
        proven = prove(claim)
    except BaseException:
        files.remove(made)
        raise
    paths = tuple(path for path in made if path.is_file())
    if _is_loaded(target, targets):
        return Cloned(naming.kernel, "", paths, proven, ())
    advice = f"declare {target} beside {home.path.name}"
    return Cloned(naming.kernel, target, paths, proven, (advice,))


@dataclass(frozen=True)
class _Naming:
    """What things are called in the new version; the old version's suffix is replaced."""

    version: str
    before: str
    variant: str
    kernel: str

    @classmethod
    def of(cls, kernel: Kernel, version: str) -> _Naming:
        if not _VERSION.fullmatch(version):
            msg = f"version={version!r} is no word of small letters and digits; use e.g. 'v2'"
            raise CannotClone(msg)
        variant = kernel.implementation.removeprefix(kernel.backend).removeprefix(".")
        old = _OF_VERSION.search(variant)
        rest = variant[: old.start()] if old else variant
        made = f"{rest}_{version}" if rest else version
        name = f"{kernel.op}.{kernel.backend}.{made}"
        if taken := [each.place for each in registry.kernels() if each.name == name]:
            msg = f"version={version!r}: {name} is declared at {taken[0]}; choose another version"
            raise CannotClone(msg)
        return cls(version, old[1] if old else "", made, name)

    def word(self, name: str) -> str:
        """A name with the version at its end."""
        stem = name.removesuffix(f"_{self.before}") if self.before else name
        return f"{stem}_{self.version}"

    def module(self, name: str) -> str:
        package, dot, last = name.rpartition(".")
        return f"{package}{dot}{self.word(last)}"

    def path(self, path: Path) -> Path:
        return path.with_name(f"{self.word(path.stem)}{path.suffix}")


def _copies(kernel: Kernel, launched: Iterable[proof.Symbol]) -> dict[str, _Module]:
    """The modules to copy from, the kernel's own first, each with the statements that are kept."""
    home, symbol_list = kernel.function.__module__, list(launched)
    ends = {s.module for s in symbol_list}
    names = _between(home, ends, {s.file for s in symbol_list if s.file})
    copies = {name: _module(name, kernel) for name in names}
    copies[home].roots.add(_function(copies[home], kernel).name)
    pending = [home]
    while pending:
        copy = copies[pending.pop()]
        before = len(copy.kept)
        copy.kept = _kept(copy)
        if len(copy.kept) == before:
            continue
        for node in (n for i in copy.kept for n in symbols.imports(copy.found[i].node)):
            for module, wanted in _imported(node, _package(copy.name)):
                if module in copies and not wanted <= copies[module].roots:
                    copies[module].roots |= wanted
                    pending.append(module)
    return {name: copy for name, copy in copies.items() if copy.kept}


def _kept(copy: _Module) -> set[int]:
    """What the roots need, the docstring and what is imported from the future."""
    found = symbols.needed(copy.found, frozenset(copy.roots), copy.excluded)
    for index, each in enumerate(copy.found):
        docstring = not index and isinstance(each.node, ast.Expr)
        if docstring or (
            isinstance(each.node, ast.ImportFrom) and each.node.module == "__future__"
        ):
            found.add(index)
    return found


def _between(home: str, ends: set[str], texts: set[str]) -> list[str]:
    """``home`` and the modules of its package by which it reaches launches or names their texts."""
    found: dict[str, bool] = {}

    def reaches(name: str) -> bool:
        if name not in found:
            found[name] = name in ends
            tree = ast.parse(_source(name)[1])
            literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            own = bool(texts & literals)
            below = [reaches(each) for each in _imports_of_package(name, tree)]
            found[name] = found[name] or own or any(below)
        return found[name]

    reaches(home)
    return [home, *(name for name, does in found.items() if does and name != home)]


def _imports_of_package(name: str, tree: ast.Module) -> Iterator[str]:
    top = name.partition(".")[0]
    for node in symbols.imports(tree):
        for module, _ in _imported(node, _package(name)):
            if module.partition(".")[0] == top and module != name and module in sys.modules:
                yield module


def _imported(
    node: ast.Import | ast.ImportFrom, package: str
) -> Iterator[tuple[str, frozenset[str]]]:
    """Modules that an import names, and which of their names."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, frozenset()) for alias in node.names)
        return
    module = symbols.absolute(node, package)
    for alias in node.names:
        inner = f"{module}.{alias.name}"
        is_module = inner in sys.modules and inspect.ismodule(sys.modules[inner])
        yield (inner, frozenset()) if is_module else (module, frozenset({alias.name}))


def _package(name: str) -> str:
    module = sys.modules.get(name)
    return getattr(module, "__package__", None) or name.rpartition(".")[0]


def _source(name: str) -> tuple[Path, str]:
    """A module's file and text; raises CannotClone for one that has none, or is a package."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        spec = importlib.util.find_spec(name)
        file = spec.origin if spec else None
    path = Path(file or "")
    if path.suffix != ".py":
        msg = f"{name} has no source of Python ({file}); copy it by hand"
        raise CannotClone(msg)
    return path, path.read_text(encoding="utf-8")


def _module(name: str, kernel: Kernel) -> _Module:
    path, source = _source(name)
    if path.name == "__init__.py":
        msg = f"{path} is a package's own file; move {kernel.name} to a module of its own first"
        raise CannotClone(msg)
    found = symbols.statements(source)
    return _Module(name, path, source, found, _excluded(found, kernel, path))


def _excluded(found: list[Statement], kernel: Kernel, path: Path) -> frozenset[int]:
    """Declarations of ops and of other kernels, and ``__all__``."""
    ours = _line_of(kernel, path)
    return frozenset(
        index
        for index, each in enumerate(found)
        if "__all__" in each.binds
        or (declaration.declares(each.node) and _first_line(each.node) != ours)
    )


def _line_of(kernel: Kernel, path: Path) -> int:
    place, _, line = kernel.place.rpartition(":")
    return int(line) if line.isdecimal() and Path(place) == path else 0


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in symbols.decorators(node))])


def _function(copy: _Module, kernel: Kernel) -> ast.FunctionDef:
    line = _line_of(kernel, copy.path)
    for each in copy.found:
        if isinstance(each.node, ast.FunctionDef) and _first_line(each.node) == line:
            return each.node
    msg = f"{kernel.name}: no function of {copy.path} begins at {kernel.place}; copy it by hand"
    raise CannotClone(msg)


def _text_files(copies: Iterable[_Module], launched: Iterable[proof.Symbol]) -> list[Path]:
    """Texts of machine code that are launched, in folders beside the modules that name them."""
    wanted = {symbol.file for symbol in launched if symbol.file}
    folders = {copy.path.parent for copy in copies}
    return sorted(path for folder in folders for path in folder.glob("*/*") if path.name in wanted)


def _own_texts(texts: Iterable[Path], naming: _Naming) -> dict[Path, str]:
    return {naming.path(path): path.read_text(encoding="utf-8") for path in texts}


def _sources(
    kernel: Kernel, copies: dict[str, _Module], naming: _Naming, texts: Sequence[Path]
) -> dict[Path, str]:
    """The text of every new module by its path."""
    strings = {path.name: naming.path(path).name for path in texts}
    for copy in copies.values():
        strings |= {word: naming.word(word) for word in _registered(copy)}
        copy.names = {name: naming.word(name) for name in _renamed(copy, kernel)}
    if kernel.torch_op:
        strings[kernel.torch_op] = naming.word(kernel.torch_op)
    modules = {name: naming.module(name) for name in copies}
    made = {}
    for copy in copies.values():
        renames = rewrite.Renames(
            {**_from_others(copy, copies), **copy.names}, strings, modules, _package(copy.name)
        )
        text = rewrite.copied(copy.source, copy.found, copy.kept, renames)
        if copy.name == kernel.function.__module__:
            text = _declared(text, kernel, copy, naming, strings)
        made[naming.path(copy.path)] = text
    return made


def _declared(
    text: str, kernel: Kernel, copy: _Module, naming: _Naming, strings: dict[str, str]
) -> str:
    """The new module with the declaration of its kernel under the new name."""
    function = _function(copy, kernel)
    torch_op = strings.get(kernel.torch_op or "")
    if declaration.declares(function):
        return declaration.with_variant(text, copy.names[function.name], naming.variant)
    return declaration.with_declaration(
        text, kernel, copy.names[function.name], variant=naming.variant, torch_op=torch_op
    )


def _registered(copy: _Module) -> Iterator[str]:
    """Names that operators are registered under: what a registering call is given first."""
    for index in copy.kept:
        for node in ast.walk(copy.found[index].node):
            if isinstance(node, ast.Call) and node.args and _called(node) in _REGISTERS:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value


def _renamed(copy: _Module, kernel: Kernel) -> Iterator[str]:
    """The public function, what a compiler or torch.library is given, and a fake named after it."""
    public = _public(copy, kernel)
    for index in copy.kept:
        node = copy.found[index].node
        if not isinstance(node, ast.FunctionDef):
            continue
        calls = {_called(d) for d in node.decorator_list}
        fake = node.name == f"_fake_{public}" and public != kernel.op
        if node.name == public or fake or calls & set(_COMPILED):
            yield node.name


def _public(copy: _Module, kernel: Kernel) -> str:
    line = _line_of(kernel, copy.path)
    return kernel.function.__name__ if line else ""


def _called(node: ast.expr) -> str:
    """The last word of what a decorator or call names: ``jit`` of ``@triton.jit(...)``."""
    target = node.func if isinstance(node, ast.Call) else node
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def _from_others(copy: _Module, copies: dict[str, _Module]) -> dict[str, str]:
    """New names of what is imported, under its own name, from another module that is copied."""
    found: dict[str, str] = {}
    for index in copy.kept:
        for node in symbols.imports(copy.found[index].node):
            if isinstance(node, ast.ImportFrom):
                module = symbols.absolute(node, _package(copy.name))
                names = copies[module].names if module in copies else {}
                found |= {
                    a.name: names[a.name] for a in node.names if a.name in names and not a.asname
                }
    return found


def _target(home: _Module, naming: _Naming) -> str:
    """What declares the new kernel: a file where the old one was declared by a file."""
    if home.name.startswith(registry.FILE_PREFIX):
        return str(naming.path(home.path))
    return naming.module(home.name)


def _is_loaded(target: str, targets: Sequence[str]) -> bool:
    return any(
        target.startswith(f"{each}.") and hasattr(sys.modules.get(each), "__path__")
        for each in targets
    )
