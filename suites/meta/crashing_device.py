"""Kernels that end a CUDA context, take all memory or never end; a sound one follows each.

Declared by `test_isolation_device`. Each fault shows from five columns on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import torch
import triton
import triton.language as tl

from harness import device, kernel, op, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FIRST: Final = 5
FAR: Final = 1 << 44  # bytes: beyond what any device has mapped
_ALL: Final = 1 << 46


@op(
    inputs={"x": "m n"},
    outputs={"y": "m n"},
    domain={"m": size(1, 8), "n": size(1, 64)},
    dtypes=("float32",),
)
def crash(x: Tensor) -> Tensor:
    """Twice x."""
    return 2 * x


@triton.jit
def _double(x, y, count, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202, N803
    at = tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(x + at, mask=at < count), mask=at < count)


@triton.jit
def _far(y, offset):  # noqa: ANN001, ANN202
    tl.store(y + offset, 1.0)


@triton.jit
def _trap(y):  # noqa: ANN001, ANN202
    at = y + tl.arange(0, 32)
    asm: tl.constexpr = "trap; mov.b32 $0, $1;"
    made = tl.inline_asm_elementwise(asm, "=r,r", [tl.load(at)], tl.int32, is_pure=False, pack=1)
    tl.store(at, made)


@triton.jit
def _wait(flag):  # noqa: ANN001, ANN202
    value = tl.load(flag, volatile=True)
    while value == 0:
        value = tl.load(flag, volatile=True)


def sound(x: Tensor) -> Tensor:
    """What every kernel here does when it does not fail."""
    device.require_arch(x.device, ">=sm80")
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    with device.on(x.device):
        _double[(1,)](x.contiguous(), y, x.numel(), BLOCK=512)
    return y


def planted(fault: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
    """Declare a kernel with a fault, and after it, by name, a sound one."""

    def run(x: Tensor) -> Tensor:
        if x.shape[1] >= FIRST:
            with device.on(x.device):
                fault(x)
        return sound(x)

    name = fault.__name__
    kernel("crash", backend="triton", arch=">=sm80", emulated=False, variant=name)(run)
    then = f"{name}_then"
    kernel("crash", backend="triton", arch=">=sm80", emulated=False, variant=then)(sound)
    return fault


@planted
def aborts(x: Tensor) -> None:
    del x
    os.abort()


@planted
def hangs(x: Tensor) -> None:
    _wait[(1,)](torch.zeros(1, dtype=torch.int32, device=x.device))


@planted
def takes_all_memory(x: Tensor) -> None:
    torch.empty(_ALL, dtype=torch.uint8, device=x.device)


@planted
def traps(x: Tensor) -> None:
    _trap[(1,)](torch.ones(32, dtype=torch.int32, device=x.device))


@planted
def writes_far_away(x: Tensor) -> None:
    _far[(1,)](torch.ones(1, device=x.device), FAR // 4)


@planted
def writes_late(x: Tensor) -> None:
    """On a stream of its own, which it does not wait for."""
    stream = torch.cuda.Stream(x.device)  # noqa: TID251
    with torch.cuda.stream(stream):  # noqa: TID251
        _far[(1,)](torch.ones(1, device=x.device), FAR // 4)
