"""Planted faults: a kernel's module with one edit by hand, loaded beside the real one."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import registry
from harness.power.mutation import written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from harness.declare import Kernel


@dataclass(frozen=True)
class Mutant:
    """One fault: in which kernel, what is replaced by what, and what the report must say of it."""

    name: str
    kernel: str
    anchor: str
    replacement: str
    says: str

    def source(self, module: ModuleType) -> str:
        """The faulty source of the kernel's module; raises AnchorGone."""
        original = inspect.getsource(module)
        mutation = written(
            *(self.kernel, module.__name__, original),
            family="semantic",
            rule=self.name,
            anchor=self.anchor,
            after=self.replacement,
        )
        return mutation.apply(original)


@contextmanager
def planted(mutant: Mutant, folder: Path) -> Iterator[Kernel]:
    """The faulty kernel, alone with its op in the registry, within the scope."""
    original = registry.kernel(mutant.kernel)
    op = registry.op(original.op)
    module = sys.modules[original.function.__module__]
    name = f"mutant_{mutant.name}"
    source = mutant.source(module)
    # A second operator of one name is refused, and the real one must stay.
    path = folder / f"{name}.py"
    path.write_text(source.replace('"kernel_parity::', f'"{name}::'), encoding="utf-8")
    with registry.scratch():
        registry.add_op(op)
        _load(name, path)
        yield registry.kernel(mutant.kernel)
    del sys.modules[name]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be imported as Python source"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
