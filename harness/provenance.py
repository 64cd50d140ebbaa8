"""Whether the kernel under test computed a result: by what was launched, not by its wrapper's word.

A launch speaks for a kernel if it is of the declared backend, and of code in the kernel's package
or of what ``launches`` declares. And an output has to come from it: a launch had its memory as an
argument, or that of something which it was computed from.
"""

from __future__ import annotations

import inspect
import re
from types import FunctionType
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.declare import Kernel
    from harness.launches import Launch

_WORD: Final = re.compile(r"\w+")  # a C++ kernel's name without its template arguments
_SHOWN: Final = 80  # characters of a kernel's name
_PLAIN: Final = (int, float, str, bytes, type(None), torch.dtype, torch.device)


def packages(kernel: Kernel) -> tuple[str, ...]:
    """The modules whose launches speak for ``kernel``, and those below them; empty for any.

    Any do for a function in a module of no package, such as a file that adapts somebody's kernel:
    where its launches come from only ``launches=`` can say.
    """
    if kernel.launches:
        return kernel.launches
    function = inspect.unwrap(kernel.function)
    package = function.__module__.rpartition(".")[0] if isinstance(function, FunctionType) else ""
    return (package,) if package else ()


def own(kernel: Kernel, launches: Iterable[Launch]) -> tuple[Launch, ...]:
    """Those of ``launches`` that speak for ``kernel``."""
    wanted = packages(kernel)
    return tuple(
        launch
        for launch in launches
        if launch.backend == kernel.backend
        and (not wanted or not launch.module or _is_below(launch.module, wanted))
    )


def _is_below(module: str, packages: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def doubt(kernel: Kernel, launches: Sequence[Launch]) -> str:
    """Words for why nothing shows that ``kernel`` ran; empty if a launch does."""
    if not launches:
        return "no launch was seen: a fallback computed this, not the kernel"
    if own(kernel, launches):
        return ""
    seen = ", ".join(dict.fromkeys(launch.identity for launch in launches))
    where = " or ".join(packages(kernel)) or "any module"
    return (
        f"launched {seen} and nothing of backend={kernel.backend!r} in {where}: a fallback "
        f"computed this, not the kernel; if those are its own, declare launches=['their.module']"
    )


def doubt_of_device(kernel: Kernel, launches: Sequence[Launch], executed: Sequence[str]) -> str:
    """Words for launches that were told of, and of which the device ran nothing; empty otherwise.

    ``executed`` are the names that a profiler saw; none mean that it saw nothing at all. The CuTe
    DSL names its kernels in a way of its own, which nothing here knows.
    """
    names = {found[0] for launch in own(kernel, launches) if (found := _WORD.match(launch.name))}
    if not executed or not names or kernel.backend == "cutedsl":
        return ""
    if any(name in ran for name in names for ran in executed):
        return ""
    told, ran = ", ".join(sorted(names)), ", ".join(name[:_SHOWN] for name in executed)
    return f"launches of {told} were told of, but the device ran {ran}: not the kernel under test"


class Trail:
    """What is computed from the memory that launches had, as calls of torch go by."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = launches
        self._derived: set[int] = set()

    def follow(self, arguments: Iterable[object], result: object) -> None:
        """Take note of a call that went by; before the first launch nothing counts."""
        if not self._launches:
            return
        known = self._derived | _memory(self._launches)
        if any(_key(tensor) in known for tensor in _tensors(arguments)):
            self._derived |= {_key(tensor) for tensor in _tensors([result])}

    def doubt(self, kernel: Kernel, outputs: Mapping[str, Tensor]) -> str:
        """Words for an output that comes from no launch of ``kernel``; empty if all do.

        Also where nobody can tell: a launch that was told of without its arguments, or that has
        some other than tensors and plain values, in which an address may be.
        """
        launches = own(kernel, self._launches)
        values = [value for launch in launches for value in launch.arguments.values()]
        if not any(True for _ in _tensors(values)) or not all(map(_is_plain, values)):
            return ""
        known = self._derived | _memory(launches)
        for name, output in outputs.items():
            if output.numel() and _key(output) not in known and not _is_addressed(output, values):
                names = ", ".join(dict.fromkeys(launch.name for launch in launches))
                return (
                    f"{name}: neither its memory nor anything that it was computed from was an "
                    f"argument of {names}: other code computed this, not the kernel"
                )
        return ""


def _memory(launches: Iterable[Launch]) -> set[int]:
    return {_key(t) for launch in launches for t in _tensors(launch.arguments.values())}


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or -1


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value.device.type != "meta":
                yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif isinstance(base := getattr(value, "base", None), Tensor):
            yield base  # of Triton's descriptors


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (Tensor, *_PLAIN)) or isinstance(getattr(value, "base", None), Tensor)


def _is_addressed(output: Tensor, values: Iterable[object]) -> bool:
    """Whether a launch had an address within the output's memory as a number."""
    start = output.untyped_storage().data_ptr()
    end = start + output.untyped_storage().nbytes()
    return any(isinstance(value, int) and start <= value < end for value in values)
