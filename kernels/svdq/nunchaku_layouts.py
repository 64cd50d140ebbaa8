"""Nunchaku's packed tensors of SVDQuant W4A4, to logical order and back, as pure permutations.

Every packed tensor is the logical one with its elements moved; not a bit of them changes. Each
formula gives the place in linear memory of one logical element, and packing and unpacking are one
indexing each with the table of these places. An element is a 32-bit word of eight codes (lowest k
in the lowest nibble) for codes, and one number for everything else. The places follow from the
fragments of ``mma.sync.m16n8k64`` and from nunchaku's tiles of 128 x 64 weights and 256 x 64
activations: nunchaku's src/kernels/zgemm/gemm_base.cuh, deepcompressor's backend/nunchaku/utils.py.

The int4 layouts are the validated ones. ``NVFP4_WSCALES`` is retained, not gated: nothing here
computes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CODES_PER_WORD = 8
BYTES_PER_WORD = 4


def _qweight_word(n: Tensor, k: Tensor, columns: int) -> Tensor:
    tile = (n // 128 * (columns // 64) + k // 64) * 8 + n % 128 // 16
    lane = (tile * 8 + n % 8) * 4 + k % 32 // 8
    return lane * 4 + n % 16 // 8 * 2 + k % 64 // 32


def _wscale(n: Tensor, group: Tensor, groups: int) -> Tensor:
    pack = (n // 128 * groups + group) * 8 + n % 128 // 16
    return (pack * 4 + n % 8 // 2) * 4 + n % 16 // 8 * 2 + n % 2


def _nvfp4_wscale(n: Tensor, group: Tensor, groups: int) -> Tensor:
    tile = (n // 128 * (groups // 4) + group // 4) * 8 + n % 8
    return ((tile * 4 + n % 32 // 8) * 4 + n % 128 // 32) * 4 + group % 4


def _lora_down(channel: Tensor, rank: Tensor, ranks: int) -> Tensor:
    lane = ((channel // 16 * (ranks // 16) + rank // 16) * 8 + rank % 8) * 4 + channel % 8 // 2
    return (lane * 2 + rank % 16 // 8) * 4 + channel % 16 // 8 * 2 + channel % 2


def _lora_up(channel: Tensor, rank: Tensor, ranks: int) -> Tensor:
    lane = ((channel // 16 * (ranks // 16) + rank // 16) * 8 + channel % 8) * 4 + rank % 8 // 2
    return (lane * 2 + channel % 16 // 8) * 4 + rank % 16 // 8 * 2 + rank % 2


def _act_word(m: Tensor, k: Tensor, columns: int) -> Tensor:
    tile = ((m // 256 * (columns // 64) + k // 64) * 8 + m % 256 // 32) * 2 + m % 32 // 16
    lane = tile * 32 + m % 8 * 4 + k % 32 // 8
    return lane * 4 + k % 64 // 32 * 2 + m % 16 // 8


def _ascale(m: Tensor, group: Tensor, groups: int) -> Tensor:
    pack = (m // 256 * groups + group) * 8 + m % 256 // 32
    return (pack * 16 + m % 32 // 16 * 8 + m % 8) * 2 + m % 16 // 8


@dataclass(frozen=True)
class Layout:
    """The order of one packed tensor: where the element at a logical (row, column) lies.

    ``place(row, column, columns)`` is in elements; an element spans ``stride`` columns and holds
    ``width`` stored numbers.
    """

    name: str
    place: Callable[[Tensor, Tensor, int], Tensor]
    row_multiple: int
    column_multiple: int
    stride: int = 1
    width: int = 1


QWEIGHT = Layout(
    "qweight [N, K]", _qweight_word, 128, 64, stride=CODES_PER_WORD, width=BYTES_PER_WORD
)
WSCALES = Layout("wscales [N, K/64]", _wscale, 128, 1)
NVFP4_WSCALES = Layout("nvfp4 wscales [N, K/16]", _nvfp4_wscale, 128, 4)
LORA_DOWN = Layout("lora_down [K, R]", _lora_down, 16, 16)
LORA_UP = Layout("lora_up [N, R]", _lora_up, 16, 16)
ACT = Layout(
    "activation codes [M, K]", _act_word, 256, 64, stride=CODES_PER_WORD, width=BYTES_PER_WORD
)
ASCALES = Layout("ascales [M, K/64]", _ascale, 256, 1)


def places(
    layout: Layout, rows: int, columns: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Where each logical element lies, int64 [rows, columns / stride]: a permutation.

    Raises ValueError when a size is not a multiple of the layout's tile.
    """
    for axis, size, multiple in (
        ("rows", rows, layout.row_multiple),
        ("columns", columns, layout.column_multiple),
    ):
        if size % multiple:
            msg = (
                f"{layout.name} has {axis}={size!r}; nunchaku packs multiples of {multiple} only: "
                f"pad to {-(-size // multiple) * multiple} first"
            )
            raise ValueError(msg)
    row = torch.arange(rows, device=device).unsqueeze(1)
    column = torch.arange(0, columns, layout.stride, device=device)
    return layout.place(row, column, columns)


def _gather(packed: Tensor, layout: Layout, rows: int, columns: int) -> Tensor:
    """Elements in logical order, [rows * columns / stride, width]."""
    index = places(layout, rows, columns, device=packed.device)
    return packed.reshape(-1, layout.width)[index.flatten()]


def _scatter(logical: Tensor, layout: Layout, rows: int, columns: int) -> Tensor:
    index = places(layout, rows, columns, device=logical.device)
    elements = logical.reshape(-1, layout.width)
    packed = torch.empty_like(elements, memory_format=torch.contiguous_format)
    packed[index.flatten()] = elements
    return packed


def _matrix(name: str, value: Tensor, dtype: torch.dtype | None = None) -> tuple[int, int]:
    if value.ndim != 2:
        msg = f"{name}.shape={tuple(value.shape)!r} has {value.ndim} axes; it must have 2"
        raise ValueError(msg)
    if dtype is not None and value.dtype != dtype:
        msg = f"{name}.dtype={value.dtype!r} must be {dtype!r}: view its bytes as that"
        raise TypeError(msg)
    rows, columns = value.shape
    return rows, columns


def unpack_qweight(packed: Tensor) -> Tensor:
    """Weight codes int8 [N, K/2] of nunchaku -> uint8 [N, K/2], even k in the low nibble."""
    rows, half = _matrix("packed", packed, torch.int8)
    return _gather(packed, QWEIGHT, rows, 2 * half).view(torch.uint8).reshape(rows, half)


def pack_qweight(codes: Tensor) -> Tensor:
    """Weight codes uint8 [N, K/2], even k in the low nibble -> int8 [N, K/2] of nunchaku."""
    rows, half = _matrix("codes", codes, torch.uint8)
    return _scatter(codes, QWEIGHT, rows, 2 * half).view(torch.int8).reshape(rows, half)


def unpack_wscales(packed: Tensor) -> Tensor:
    """int4 group scales [K/64, N] of nunchaku -> logical [K/64, N]."""
    groups, rows = _matrix("packed", packed)
    return _gather(packed, WSCALES, rows, groups).reshape(rows, groups).t().contiguous()


def pack_wscales(scales: Tensor) -> Tensor:
    """Logical group scales [K/64, N] -> int4 group scales [K/64, N] of nunchaku."""
    groups, rows = _matrix("scales", scales)
    return _scatter(scales.t(), WSCALES, rows, groups).reshape(groups, rows)


def unpack_channels(packed: Tensor) -> Tensor:
    """A vector [C] of nunchaku (bias, smooth, wcscales: scales of one group) -> logical [C]."""
    return unpack_wscales(packed.reshape(1, -1)).reshape(-1)


def pack_channels(vector: Tensor) -> Tensor:
    """Logical per-channel vector [C] -> the same in nunchaku's order."""
    return pack_wscales(vector.reshape(1, -1)).reshape(-1)


def unpack_nvfp4_wscales(packed: Tensor) -> Tensor:
    """nvfp4 group scales e4m3 [K/16, N] of nunchaku -> logical [K/16, N] (retained, not gated)."""
    groups, rows = _matrix("packed", packed, torch.float8_e4m3fn)
    scales = _gather(packed.view(torch.uint8), NVFP4_WSCALES, rows, groups).reshape(rows, groups)
    return scales.t().contiguous().view(packed.dtype)


def pack_nvfp4_wscales(scales: Tensor) -> Tensor:
    """Logical group scales e4m3 [K/16, N] -> nunchaku's order (retained, not gated)."""
    groups, rows = _matrix("scales", scales, torch.float8_e4m3fn)
    return (
        _scatter(scales.view(torch.uint8).t(), NVFP4_WSCALES, rows, groups)
        .reshape(groups, rows)
        .view(scales.dtype)
    )


def unpack_lora(packed: Tensor, layout: Layout) -> Tensor:
    """A factor [channels, R] of nunchaku, LORA_DOWN or LORA_UP -> logical [channels, R]."""
    channels, ranks = _matrix("packed", packed)
    return _gather(packed, layout, channels, ranks).reshape(channels, ranks)


def pack_lora(factor: Tensor, layout: Layout) -> Tensor:
    """A logical factor [channels, R] -> nunchaku's order, LORA_DOWN or LORA_UP."""
    channels, ranks = _matrix("factor", factor)
    return _scatter(factor, layout, channels, ranks).reshape(channels, ranks)


def unpack_act(packed: Tensor) -> Tensor:
    """Activation codes uint8 [M, K/2] of nunchaku -> uint8 [M, K/2], even k in the low nibble."""
    rows, half = _matrix("packed", packed, torch.uint8)
    return _gather(packed, ACT, rows, 2 * half).reshape(rows, half)


def pack_act(codes: Tensor) -> Tensor:
    """Activation codes uint8 [M, K/2], even k in the low nibble -> nunchaku's order."""
    rows, half = _matrix("codes", codes, torch.uint8)
    return _scatter(codes, ACT, rows, 2 * half).reshape(rows, half)


def unpack_ascales(packed: Tensor) -> Tensor:
    """int4 activation scales [K/64, M] of nunchaku's quantizer -> logical [K/64, M]."""
    groups, rows = _matrix("packed", packed)
    return _gather(packed, ASCALES, rows, groups).reshape(rows, groups).t().contiguous()


def pack_ascales(scales: Tensor) -> Tensor:
    """Logical activation scales [K/64, M] -> the same in nunchaku's order."""
    groups, rows = _matrix("scales", scales)
    return _scatter(scales.t(), ASCALES, rows, groups).reshape(groups, rows)
