"""The declared ops and kernels of this process, and how modules that declare them are loaded."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.declare import Kernel, Op
    from harness.subjects import Subject
    from harness.variants import Variant


Declared = TypeVar("Declared")
FILE_PREFIX: Final = "declared_"  # of the module name that a declaring file is imported under


class UnknownName(LookupError):
    """An op or kernel that nobody declared; the message lists the known ones."""


class WrongDeclaration(ValueError):
    """A declaration that contradicts itself or another; loading ends with it at once."""


class DuplicateDeclaration(WrongDeclaration):
    """Two declarations of one name; the message names both places."""


class DeclarationNotFound(ImportError):
    """A package, module or file given to ``--declare`` does not exist."""


class DeclarationFailed(ImportError):
    """A module or file given to ``--declare`` raised; the message says what and where."""


@dataclass
class _Registry:
    ops: dict[str, Op] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    subjects: dict[str, Subject] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    load_errors: dict[str, Exception] = field(default_factory=dict)


_current = _Registry()


def add_op(op: Op) -> None:
    """Add ``op``; raises DuplicateDeclaration if its name is taken by another place."""
    _refuse_second("op", op.name, op.place, _current.ops)
    _current.ops[op.name] = op


def add_kernel(kernel: Kernel) -> None:
    """Add ``kernel``; raises DuplicateDeclaration if its name is taken by another place."""
    _refuse_second("kernel", kernel.name, kernel.place, _current.kernels)
    _current.kernels[kernel.name] = kernel


def add_subject(subject: Subject) -> None:
    """Add a module under test; raises DuplicateDeclaration if its name is taken."""
    _refuse_second("subject", subject.name, subject.place, _current.subjects)
    _current.subjects[subject.name] = subject


def add_variant(variant: Variant) -> None:
    """Add a correct variant; raises DuplicateDeclaration if its op has one of its name."""
    _refuse_second("variant", str(variant), variant.place, _current.variants)
    _current.variants[str(variant)] = variant


def op(name: str) -> Op:
    """The op of that name; raises UnknownName."""
    return _look_up("op", name, _current.ops)


def ops() -> tuple[Op, ...]:
    """All ops by name."""
    return tuple(_current.ops[name] for name in sorted(_current.ops))


def kernel(name: str) -> Kernel:
    """The kernel of that name; raises UnknownName."""
    return _look_up("kernel", name, _current.kernels)


def kernels() -> tuple[Kernel, ...]:
    """All kernels by name; raises UnknownName if one is of an undeclared op."""
    for each in _current.kernels.values():
        if each.op not in _current.ops:
            known = ", ".join(sorted(_current.ops)) or "none"
            msg = (
                f"{each.name} at {each.place} implements op={each.op!r}, which nobody declared; "
                f"known ops: {known}; declare it with @op or load the module that does"
            )
            raise UnknownName(msg)
    return tuple(_current.kernels[name] for name in sorted(_current.kernels))


def subjects() -> tuple[Subject, ...]:
    """All modules under test by name."""
    return tuple(_current.subjects[name] for name in sorted(_current.subjects))


def variants() -> tuple[Variant, ...]:
    """All correct variants, by op and name."""
    return tuple(_current.variants[name] for name in sorted(_current.variants))


def load_errors() -> dict[str, Exception]:
    """Modules that could not be imported while loading, with their (first) error."""
    return dict(_current.load_errors)


def load(target: str) -> None:
    """Import a package with all its submodules, a module, or a ``.py`` file that declares.

    A submodule whose import fails is kept in ``load_errors`` and reported by the import_safety
    layer. Raises DeclarationNotFound if ``target`` itself is not there.
    """
    if target.endswith(".py"):
        _load_file(Path(target))
        return
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target}.".startswith(f"{error.name}."):
            raise
        msg = f"declare={target!r} is no importable package; give a package, module or .py file"
        raise DeclarationNotFound(msg) from error
    path = getattr(module, "__path__", ())
    for info in pkgutil.walk_packages(path, f"{target}.", onerror=lambda _: None):
        _load_submodule(info.name)


def load_all(targets: Sequence[str]) -> None:
    """Load every target in order.

    Raises DeclarationFailed for one that crashes, ends the process or imports what is not there,
    DeclarationNotFound, and LookupError or ValueError for a declaration that is wrong.
    """
    for target in targets:
        try:
            load(target)
        except (DeclarationNotFound, LookupError, ValueError):
            raise
        except (Exception, SystemExit) as error:
            msg = f"declare={target!r}: {_told(error)}"
            raise DeclarationFailed(msg) from error


def _told(error: BaseException) -> str:
    return f"{_place_of(error)}: {type(error).__name__}: {error}"


def _place_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.filename}:{last.lineno}"


@contextmanager
def scratch() -> Iterator[None]:
    """An empty registry within the scope; what was declared before is back afterwards."""
    global _current  # noqa: PLW0603 - the one place where the process-wide registry is swapped
    before, _current = _current, _Registry()
    try:
        yield
    finally:
        _current = before


def _load_submodule(name: str) -> None:
    try:
        importlib.import_module(name)
    except WrongDeclaration:
        raise
    except SystemExit as error:
        _current.load_errors.setdefault(name, DeclarationFailed(_told(error)))
    except Exception as error:  # noqa: BLE001 - reported by the import_safety layer
        _current.load_errors.setdefault(name, error)


def _load_file(path: Path) -> None:
    path = path.resolve()
    if not path.is_file():
        msg = f"declare={str(path)!r} is no file; give a package, module or existing .py file"
        raise DeclarationNotFound(msg)
    name = f"{FILE_PREFIX}{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"declare={str(path)!r} cannot be imported as Python source"
        raise DeclarationNotFound(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _refuse_second(
    what: str,
    name: str,
    place: str,
    known: Mapping[str, Op] | Mapping[str, Kernel] | Mapping[str, Subject] | Mapping[str, Variant],
) -> None:
    if name in known and known[name].place != place:
        msg = (
            f"{what} {name!r} is declared twice: at {known[name].place} and at {place}; "
            f"rename one, or give a kernel variant='...'"
        )
        raise DuplicateDeclaration(msg)


def _look_up(what: str, name: str, known: Mapping[str, Declared]) -> Declared:
    try:
        return known[name]
    except KeyError:
        msg = f"{what} {name!r} is unknown; known: {', '.join(sorted(known)) or 'none'}"
        for module, error in _current.load_errors.items():
            msg += f"; {module} did not load: {error}"
        raise UnknownName(msg) from None
