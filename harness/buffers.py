"""Guarded and poisoned memory: stray reads meet NaN, stray writes are seen, nothing stale is right.

Every input lies between guard zones of 0xFF bytes (a NaN in each float format) in a buffer of its
own, whose every byte must be unchanged afterwards: guards, gaps between strided rows, and values.
Every tensor that the kernel's host code allocates uninitialised lies between guard zones too, and
is filled with one of three poisons first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from harness.provenance import Trail

GUARD: Final = 4096  # bytes on either side: a whole tile's row of the widest kernels here
LAYOUTS: Final = ("contiguous", "rows", "offset", "strided", "transposed", "expanded")
POISONS: Final = ("nan", "huge", "bytes")
_GUARD_BYTE: Final = 0xFF
_PATTERN: Final = 0xA5


class UnknownLayout(LookupError):
    """A layout that does not exist; the message lists the known ones."""


@dataclass(frozen=True)
class Guarded:
    """A tensor inside a larger byte buffer, and what that buffer held."""

    name: str
    tensor: Tensor
    buffer: Tensor
    snapshot: Tensor

    def stray_writes(self) -> str:
        """Words for bytes that changed, or nothing."""
        changed = torch.nonzero(self.buffer != self.snapshot).reshape(-1)
        if not changed.numel():
            return ""
        first = int(changed[0]) - self.tensor.storage_offset() * self.tensor.element_size()
        where = "before its first element" if first < 0 else f"at byte {first} from its start"
        return f"{self.name}: {changed.numel()} bytes changed, the first {where}"


def strides_of(shape: Sequence[int], layout: str) -> tuple[tuple[int, ...], int]:
    """Strides and storage offset, in elements, of ``shape`` in ``layout``; raises UnknownLayout.

    ``rows``: the last axis is dense, rows lie 16 elements apart from each other. ``offset``: dense
    but one element off any alignment. ``strided``: every other element of a dense tensor.
    ``transposed``: the last two axes swapped in memory. ``expanded``: the first axis has stride 0.
    """
    if layout not in LAYOUTS:
        msg = f"layout={layout!r} is unknown; layouts: {', '.join(LAYOUTS)}"
        raise UnknownLayout(msg)
    padded = list(shape)
    if layout == "rows" and len(shape) > 1:
        padded[-1] += 16
    if layout == "transposed" and len(shape) > 1:
        padded[-2:] = padded[:-3:-1]
    strides = [math.prod(max(1, size) for size in padded[i + 1 :]) for i in range(len(shape))]
    if layout == "transposed" and len(shape) > 1:
        strides[-2:] = strides[:-3:-1]
    if layout == "strided":
        strides = [2 * stride for stride in strides]
    if layout == "expanded" and len(shape) > 1:
        strides[0] = 0
    return tuple(strides), int(layout == "offset")


def guard_input(name: str, values: Tensor, layout: str, device: torch.device) -> Guarded:
    """A copy of ``values`` on ``device`` in ``layout``, between guard zones.

    In the layout ``expanded`` all rows hold the values of the first.
    """
    strides, offset = strides_of(values.shape, layout)
    extent = offset + _extent(values.shape, strides)
    guarded = _allocate(extent, values.dtype, device)
    view = _view(guarded, values.dtype, values.shape, strides, offset)
    source = values[:1].expand_as(values) if 0 in strides and values.numel() else values
    (view[:1] if 0 in strides else view).copy_(source[:1] if 0 in strides else source)
    return Guarded(name, view, guarded, guarded.clone())


class PoisonedAllocations(TorchDispatchMode):
    """Poisons and guards every uninitialised tensor that code in the scope allocates on a device.

    It sees ``empty`` in all spellings, inside opaque custom operators too. It does not see memory
    that a kernel's own runtime takes without PyTorch. ``trail`` follows the calls that go by.
    """

    def __init__(self, device: torch.device, poison: str, trail: Trail | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._poison = poison
        self._trail = trail
        self.allocated: list[tuple[Tensor, int]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func.namespace not in _BUILTIN:
            return self._enter(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _EMPTY and result.device.type == self._device.type and result.numel():
            return self._replace(result)
        if self._trail is not None:
            self._trail.follow((args, kwargs), result)
        return result

    def _enter(
        self, func: torch._ops.OpOverload, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        # A mode is off while it handles a call, so an opaque operator would allocate unseen: go on
        # below the Python key with the mode on again.
        key = "CUDA" if self._device.type == "cuda" else "CPU"
        keys = torch._C.DispatchKeySet(torch._C._dispatch_key_parse(key))
        with self:
            return func.redispatch(keys, *args, **kwargs)

    def _replace(self, empty: Tensor) -> Tensor:
        extent = _extent(empty.shape, empty.stride())
        buffer = _allocate(extent, empty.dtype, empty.device)
        payload = buffer[GUARD : GUARD + extent * empty.element_size()]
        _fill(payload.view(empty.dtype), self._poison)
        self.allocated.append((buffer, payload.numel()))
        view = torch.empty(0, dtype=empty.dtype, device=empty.device)
        storage = buffer.untyped_storage()
        offset = GUARD // empty.element_size()
        return view.set_(storage, offset, empty.shape, empty.stride())

    def stray_writes(self) -> str:
        """Words for guard bytes that changed around an allocation, or nothing."""
        for index, (buffer, size) in enumerate(self.allocated):
            for side, zone in (("before", buffer[:GUARD]), ("after", buffer[GUARD + size :])):
                if changed := int((zone != _GUARD_BYTE).sum()):
                    return f"allocation {index}: {changed} bytes {side} it were written"
        return ""


_BUILTIN: Final = frozenset({"aten", "prim", "prims"})
_EMPTY: Final = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_permuted.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    }
)


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _allocate(extent: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    size = 2 * GUARD + extent * dtype.itemsize
    return torch.full((size,), _GUARD_BYTE, dtype=torch.uint8, device=device)


def _view(
    buffer: Tensor,
    dtype: torch.dtype,
    shape: Sequence[int],
    strides: Sequence[int],
    offset: int,
) -> Tensor:
    start = GUARD // dtype.itemsize + offset
    whole = buffer[: buffer.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(shape, strides, start)


def _fill(payload: Tensor, poison: str) -> None:
    filler = _FILLERS[poison] if payload.is_floating_point() else _fill_bytes
    filler(payload)


def _fill_bytes(payload: Tensor) -> None:
    payload.view(torch.uint8).fill_(_PATTERN)


def _fill_huge(payload: Tensor) -> None:
    payload.fill_(min(torch.finfo(payload.dtype).max, 2.0**100))


_FILLERS: Final[dict[str, Callable[[Tensor], object]]] = {
    "nan": lambda payload: payload.fill_(math.nan),
    "huge": _fill_huge,
    "bytes": _fill_bytes,
}
