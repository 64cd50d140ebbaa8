"""Planted faults: a kernel's module with one edit, loaded beside the real one.

An edit is an anchor in the source and what stands there instead. An anchor that is not in the
source exactly once is an error: a fault that no longer applies must not count as caught.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from harness.declare import Kernel


class AnchorGone(ValueError):
    """A mutant whose anchor stands in the source not once; the message says how often."""


@dataclass(frozen=True)
class Mutant:
    """One fault: in which kernel, what is replaced by what, and what the report must say of it."""

    name: str
    kernel: str
    anchor: str
    replacement: str
    says: str

    def source(self, original: str) -> str:
        """The faulty source; raises AnchorGone."""
        if (count := original.count(self.anchor)) != 1:
            msg = f"mutant {self.name!r}: its anchor {self.anchor!r} occurs {count} times, not once"
            raise AnchorGone(msg)
        return original.replace(self.anchor, self.replacement)


@contextmanager
def planted(mutant: Mutant, folder: Path) -> Iterator[Kernel]:
    """The faulty kernel, alone with its op in the registry, within the scope."""
    original = registry.kernel(mutant.kernel)
    op = registry.op(original.op)
    module = sys.modules[original.function.__module__]
    name = f"mutant_{mutant.name}"
    source = mutant.source(inspect.getsource(module))
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
