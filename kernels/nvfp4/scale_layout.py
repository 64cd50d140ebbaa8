"""The layout 128x4 of block scales: from rows and columns, and back, byte for byte.

Block-scaled matrix instructions read scales in tiles of 128 rows by 4 blocks along k, 512 bytes
each; within a tile the scale of row r and block c is at ``r%32 * 16 + r//32 * 4 + c``. Tiles follow
each other along k first. Leading axes are batches, each padded for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from kernels import contract
from kernels.nvfp4.domain import SCALE_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 128  # of a tile
COLUMNS = 4
_LANES = 32  # rows that lie 16 bytes apart; those between belong to rows 32, 64 and 96 further


def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """The shape of the scales of ``rows`` rows and ``columns`` blocks along k, with padding."""
    return (rows + ROWS - 1) // ROWS * ROWS, (columns + COLUMNS - 1) // COLUMNS * COLUMNS


def swizzle_scales(scales: Tensor) -> Tensor:
    """``scales [..., rows, columns]`` in the layout 128x4, padded with zeros.

    Returns a contiguous tensor ``[..., rows', columns']`` of the next multiples of 128 and 4, whose
    bytes lie in tiles: its own indices mean nothing. Raises TypeError unless the scales are
    float8_e4m3fn, ValueError for a rank below 2.
    """
    _check("scales", scales)
    rows, columns = scales.shape[-2:]
    high, wide = padded_shape(rows, columns)
    octets = pad(scales.contiguous().view(torch.uint8), (0, wide - columns, 0, high - rows))
    *batch, _, _ = octets.shape
    tiles = octets.reshape(*batch, high // ROWS, 4, _LANES, wide // COLUMNS, COLUMNS)
    return tiles.movedim(-2, -4).transpose(-2, -3).reshape(octets.shape).view(SCALE_DTYPE)


def unswizzle_scales(swizzled: Tensor, rows: int, columns: int) -> Tensor:
    """The scales ``[..., rows, columns]`` that `swizzle_scales` was given; padding is dropped.

    Raises TypeError for another dtype, ValueError for a shape that is not that of ``rows`` and
    ``columns``, or if the bytes do not lie one after another.
    """
    _check("swizzled", swizzled)
    high, wide = padded_shape(rows, columns)
    if tuple(swizzled.shape[-2:]) != (high, wide):
        msg = (
            f"swizzled has shape {list(swizzled.shape)}; rows={rows} and columns={columns} are "
            f"padded to {[high, wide]}: pass the rows and columns that it was made of"
        )
        raise ValueError(msg)
    contract.require_contiguous("swizzled", swizzled)
    *batch, _, _ = swizzled.shape
    tiles = swizzled.view(torch.uint8).reshape(
        *batch, high // ROWS, wide // COLUMNS, _LANES, 4, COLUMNS
    )
    octets = tiles.transpose(-2, -3).movedim(-4, -2).reshape(swizzled.shape)
    return octets[..., :rows, :columns].contiguous().view(SCALE_DTYPE)


def _check(name: str, scales: Tensor) -> None:
    contract.require_tensors(**{name: scales})
    contract.require_dtype(name, scales, (SCALE_DTYPE,))
    if scales.dim() < 2:
        msg = (
            f"{name} has shape {list(scales.shape)}, of rank {scales.dim()}; "
            f"reshape it to [..., rows, k/16]"
        )
        raise ValueError(msg)
