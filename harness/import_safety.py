"""Import safety: what a fresh process sees of a kernel's package when its backend is not usable.

Every question is asked in a process of its own, started without a GPU, in which the backend is
absent, broken (it raises while it is imported) or too old (a module without its contents).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness import registry
from harness.backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from harness.declare import Kernel

HEAVY: Final = ("triton", "cutlass", "cuda.core", "cuda.bindings", "tvm_ffi")
SCENARIOS: Final = ("absent", "broken", "old")


@dataclass(frozen=True)
class Answer:
    """What a fresh process saw; errors as ``Type: message``, empty for none.

    ``lazy``: the kernel was reached through a package that loads it on first use, and so can say
    of an old backend what to install; a module that imports its backend at its top cannot.
    """

    package_error: str
    heavy: tuple[str, ...]
    cuda_context: bool
    first_error: str
    second_error: str
    names_backend: bool
    is_import_error: bool
    lazy: bool


class _Sabotage(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str, scenario: str) -> None:
        self._package = package
        self._scenario = scenario

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != self._package:
            return None
        if self._scenario == "absent":
            msg = f"No module named {name!r}"
            raise ModuleNotFoundError(msg, name=name)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        if self._scenario == "broken":
            msg = f"{module.__name__}: undefined symbol: _ZN3sabotaged"
            raise ImportError(msg, name=module.__name__)
        module.__dict__["__version__"] = "0.0.1"


def ask(kernel: Kernel, scenario: str) -> Answer:
    """Import the packages around ``kernel``, then its module, twice, in a fresh process."""
    module, file = kernel.function.__module__, kernel.place.rpartition(":")[0]
    target = file if module.startswith(registry.FILE_PREFIX) else module
    name = kernel.function.__name__
    with ProcessPoolExecutor(
        max_workers=1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(_answer, target, name, kernel.backend, scenario).result()


def problems(kernel: Kernel, scenario: str, answer: Answer) -> list[str]:
    """What is wrong with an answer; empty if the kernel's package is safe to import."""
    found = []
    if answer.package_error:
        found.append(f"its package does not import: {answer.package_error}")
    if answer.heavy:
        found.append(f"importing its package imports {', '.join(answer.heavy)}")
    if answer.cuda_context:
        found.append("importing it makes a CUDA context")
    if not answer.first_error:
        return found
    if not answer.is_import_error and (answer.lazy or scenario != "old"):
        found.append(f"raises no ImportError but {answer.first_error}")
    if not answer.names_backend:
        found.append(f"the error does not name {kernel.backend!r}: {answer.first_error}")
    if answer.first_error != answer.second_error:
        found.append(f"a second use fails differently: {answer.second_error or 'not at all'}")
    return found


def _answer(target: str, name: str, backend: str, scenario: str) -> Answer:
    """Runs in the fresh process."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # noqa: TID251 - hides the GPU from this process only
    language = BACKENDS[backend].package.partition(".")[0]
    sys.meta_path.insert(0, _Sabotage(language, scenario))
    package_error = ""
    heavy: tuple[str, ...] = ()
    if not target.endswith(".py"):
        package = target.rpartition(".")[0] or target
        package_error = _error_of(importlib.import_module, package)
        heavy = tuple(found for found in HEAVY if found in sys.modules)
    first, second = _error_of(_use, target, name), _error_of(_use, target, name)
    torch = sys.modules.get("torch")
    return Answer(
        package_error=package_error,
        heavy=heavy,
        cuda_context=bool(torch is not None and torch.cuda.is_initialized()),
        first_error=first,
        second_error=second,
        names_backend=language in first or BACKENDS[backend].distribution in first,
        is_import_error=first.startswith(("ImportError", "ModuleNotFoundError", "BackendMissing")),
        lazy=_exports(target, name),
    )


def _use(target: str, name: str) -> object:
    """Reach for the kernel as a user would: through a lazy package that exports it, or directly."""
    if _exports(target, name):
        return getattr(importlib.import_module(target.partition(".")[0]), name)
    registry.load(target)
    return None


def _exports(target: str, name: str) -> bool:
    top = None if target.endswith(".py") else sys.modules.get(target.partition(".")[0])
    return top is not None and name in getattr(top, "__all__", ())


def _error_of(function: Callable[..., object], *arguments: str) -> str:
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - the answer is the error itself
        return f"{type(error).__name__}: {error}"
    return ""
