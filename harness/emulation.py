"""Within a scope, Triton kernels run on CPU tensors, and round as the GPU does."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final

from harness import launches

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NotEmulated", "emulate", "is_active"]

_scopes: Final[list[bool]] = []  # the open ones; the process's, as Triton's own state is


class NotEmulated(NotImplementedError):
    """A kernel uses what only a GPU can do: inline PTX, an unknown library function, Gluon."""

    def __init__(self, kernel: str, why: str) -> None:
        super().__init__(f"{kernel} cannot be emulated: {why}")
        self.kernel = kernel
        self.why = why


def is_active() -> bool:
    """Whether this process is within an `emulate` scope."""
    return bool(_scopes)


@contextlib.contextmanager
def emulate(*, debug: bool = False) -> Iterator[None]:
    """Run the Triton launches of the scope on the CPU, in Triton's interpreter, made faithful.

    A launch with a CUDA tensor among its arguments runs on its GPU as ever. The kernels are the
    same ``JITFunction`` objects, untouched: they can be compiled before, during and after.

    Faithful: conversions between formats (one rounding, ties to even, or toward zero where the
    kernel says so), arithmetic in bfloat16 and float16 (every operation rounded), fma, TF32
    operands, the types of scalar arguments, the limits of a grid. An H200 gave the same bits, for a
    million values of each conversion and 16,384 of each operation. Not imitated: the order of sums,
    the truncation inside tensor cores and the error of approximate functions (float32 division is
    one), all of which differ between GPUs. Programs run one after another: races stay unseen.

    Autotuned kernels take their first config (see `harness.launches.capture_launches`).

    Args:
        debug: as Triton's option of this name: let ``tl.device_assert`` and integer arithmetic that
            overflows raise, where a GPU goes on and wraps around. A launch may ask for it as well.

    Raises:
        NotEmulated: from a launch, naming the kernel and what it uses.
    """
    from harness._emulated_launch import execute

    with launches.executing(functools.partial(execute, debug=debug)):
        _scopes.append(True)
        try:
            yield
        finally:
            _scopes.pop()
