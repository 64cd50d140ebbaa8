"""Global memory as a launch sees it: buffers, and what of them may be read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from suites.numeric.ptx_values import Vector

POISON: Final = 0xFF
_GAP: Final = 4096  # bytes between buffers


class Memory:
    """Global memory: buffers far from each other, of which some may be written."""

    def __init__(self, octets: int = 1 << 22) -> None:
        self.octets = np.full(octets, POISON, np.uint8)
        self.readable = np.zeros(octets, np.bool_)
        self.writable = np.zeros(octets, np.bool_)
        self.end = _GAP

    def place(self, values: Vector, *, writable: bool = False) -> int:
        """The address of a copy of ``values``, at a multiple of 256 bytes."""
        octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        start = -(-self.end // 256) * 256
        self.end = start + octets.size + _GAP
        self.octets[start : start + octets.size] = octets
        self.readable[start : start + octets.size] = True
        self.writable[start : start + octets.size] = writable
        return start

    def at(self, address: int, dtype: npt.DTypeLike, *shape: int) -> Vector:
        """What lies at an address."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.octets[address : address + size].view(dtype).reshape(shape).copy()


def octets_of(tensor: Tensor) -> Vector:
    """The bytes from a tensor's first element to its last, whatever lies between rows."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in steps)
    return np.asarray(tensor.as_strided((extent,), (1,)).view(torch.uint8).numpy())
