"""Kernels that end their process, each in its own way; a sound one follows each.

Declared by `test_isolation`. Each fault shows from five columns on, so that a search has something
to find, and the smallest case has n = 5.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel, op, size
from harness.launches import Launch, report_launch

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST: Final = 5  # columns from which a fault shows
_FOREVER: Final = threading.Event()


@op(
    inputs={"x": "m n"},
    outputs={"y": "m n"},
    domain={"m": size(1, 8), "n": size(1, 64)},
    dtypes=("float32",),
)
def crash(x: Tensor) -> Tensor:
    """Twice x."""
    return 2 * x


def sound(x: object) -> Tensor:
    """What every kernel here does when it does not fail."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        msg = f"x={x!r} is no tensor of float32; convert x"
        raise TypeError(msg)
    if x.dim() != 2 or not 1 <= x.shape[0] <= 8 or not 1 <= x.shape[1] <= 64:
        msg = f"x has the shape {tuple(x.shape)}; m is 1..8 and n is 1..64"
        raise ValueError(msg)
    device.require_arch(x.device, ">=sm80")
    report_launch(Launch("triton", "crash", __name__, None, (1,), {}))
    return x + x


def planted(fault: Callable[[], object]) -> Callable[[], object]:
    """Declare a kernel with a fault, and after it, by name, a sound one."""

    def run(x: object) -> Tensor:
        if isinstance(x, Tensor) and x.dim() == 2 and FIRST <= x.shape[1] <= 64:
            fault()
        return sound(x)

    name = fault.__name__
    kernel("crash", backend="triton", arch=">=sm80", variant=name)(run)
    kernel("crash", backend="triton", arch=">=sm80", variant=f"{name}_then")(sound)
    return fault


@planted
def aborts() -> None:
    os.abort()


@planted
def segfaults() -> None:
    ctypes.string_at(0)


@planted
def hangs() -> None:
    _FOREVER.wait()


@planted
def is_killed() -> None:
    """As by the kernel's OOM killer."""
    os.kill(os.getpid(), signal.SIGKILL)


@planted
def raises_memory_error() -> None:
    raise MemoryError


@planted
def eats_memory() -> None:
    """All that it may have, which is little more than it has."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read once
        has = int(file.read().split()[0]) * resource.getpagesize()
    limit = has + (1 << 28)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.zeros(1 << 28)


@planted
def ends_itself() -> None:
    os._exit(3)


@planted
def exits() -> None:
    sys.exit("bye")


@planted
def prints() -> None:
    """What is no text, to where a protocol might be."""
    os.write(1, b"\x80\x04 garbage \0\n" * 64)
    sys.stderr.write("more garbage\n" * 64)


@planted
def leaves_a_thread() -> None:
    threading.Thread(target=_FOREVER.wait).start()


def _narrow(x: object) -> Tensor:
    """It answers two of its probes by ending the process, and accepts a third."""
    if isinstance(x, Tensor) and x.dim() == 2:
        if x.shape[1] == 0:
            os.abort()
        if x.shape[1] > 64:
            ctypes.string_at(0)
        if x.shape[0] == 0:
            return x + x
    return sound(x)


kernel("crash", backend="triton", arch=">=sm80", variant="probed")(_narrow)
