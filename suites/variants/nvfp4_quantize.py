"""Correct variants of the NVFP4 quantizer.

Codes and scales have one right answer for a recipe; independent ways to either format lead to it
here: the multiples of a power of two, the bits, the nearest of all numbers of the format.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import torch

from harness.variants import variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Rounding = Callable[[Tensor], Tensor]

OP: Final = "nvfp4_quantize"
BLOCK: Final = 16
_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_STEP: Final = 2**20  # numbers that are held beside all of a format at once


def _nearest(size: Tensor, known: Tensor) -> Tensor:
    """The index of the nearest of ``known`` numbers, the even one of two; the first for a NaN."""
    flat = size.double().reshape(-1, 1)
    parts = [_nearest_of(part, known.double()) for part in flat.split(_STEP // len(known))]
    found = torch.cat(parts) if parts else flat.long().reshape(-1)
    return found.reshape(size.shape)


def _nearest_of(part: Tensor, known: Tensor) -> Tensor:
    apart = (part.clamp(max=float(known[-1])) - known).abs()
    order = torch.arange(len(known), device=part.device) % 2
    ranked = apart + torch.where(apart == apart.amin(1, keepdim=True), order, 2) * 1e9
    return torch.where(part[:, 0].isnan(), 0, ranked.argmin(1))


def _multiple(size: Tensor, *, mantissa: int, smallest: int) -> Tensor:
    """The nearest number of a format, by its last place: a power of two, ``2^smallest`` at least.

    ``round`` takes ties to even, and so does the format.
    """
    wide = size.double()
    exponent = torch.frexp(wide).exponent - 1 - mantissa
    place = torch.ldexp(torch.ones_like(wide), exponent.clamp(min=smallest))
    return (wide / place).round() * place


def scale_by_cast(size: Tensor) -> Tensor:
    """The framework's conversion."""
    return size.clamp(max=448).to(torch.float8_e4m3fn).float()


def scale_by_place(size: Tensor) -> Tensor:
    """Multiples of the last place."""
    return _multiple(size.clamp(max=448), mantissa=3, smallest=-9).float()


def scale_by_search(size: Tensor) -> Tensor:
    """The nearest of all 127 numbers."""
    octets = torch.arange(0x7F, dtype=torch.uint8, device=size.device)
    known = octets.view(torch.float8_e4m3fn).float()
    return torch.where(size.isnan(), size, known[_nearest(size, known)])


def code_by_bounds(size: Tensor) -> Tensor:
    """How many midpoints lie below; on one, the odd code's is passed."""
    code = torch.zeros_like(size, dtype=torch.uint8)
    for index, (low, high) in enumerate(itertools.pairwise(_E2M1)):
        middle = (low + high) / 2
        code += size >= middle if index % 2 else size > middle
    return code


def code_by_place(size: Tensor) -> Tensor:
    """Multiples of the last place, looked up."""
    rounded = _multiple(size.clamp(max=6).nan_to_num(nan=0.0), mantissa=1, smallest=-1)
    known = torch.tensor(_E2M1, dtype=torch.float64, device=size.device)
    return torch.searchsorted(known, rounded.contiguous()).to(torch.uint8)


def code_by_search(size: Tensor) -> Tensor:
    """The nearest of all 8 numbers."""
    return _nearest(size, torch.tensor(_E2M1, device=size.device)).to(torch.uint8)


def swizzled(scales: Tensor) -> Tensor:
    """Rows padded to 128 and blocks to 4; in a tile, 32 rows lie 16 bytes apart."""
    rows, blocks = scales.shape
    high, wide = -(-rows // 128) * 128, -(-blocks // 4) * 4
    padded = scales.new_zeros(high, wide)
    padded[:rows, :blocks] = scales
    tiles = padded.reshape(high // 128, 4, 32, wide // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(high, wide).to(torch.float8_e4m3fn)


def _declare(name: str, scale_of: Rounding, code_of: Rounding) -> None:
    @variant(op=OP, name=name)
    def quantized(x: Tensor, global_encode_scale: Tensor, recipe: str) -> tuple[Tensor, Tensor]:
        del recipe
        grouped: Tensor = x.float().unflatten(1, (-1, BLOCK))
        g = global_encode_scale
        sixth = torch.full_like(g, 1 / 6)  # by a number, a GPU may divide another way
        scale = scale_of(g * (grouped.abs().amax(2) * sixth))
        decode = scale * (torch.ones_like(g) / g)
        factor = torch.where(decode == 0, 0.0, torch.ones_like(decode) / decode)
        scaled = (grouped * factor[:, :, None]).flatten(1)
        signs = (x.signbit() & ~scaled.isnan()).to(torch.uint8) << 3
        code = code_of(scaled.abs()) | signs
        return code[:, 0::2] | code[:, 1::2] << 4, swizzled(scale)


_SCALES: Final = {"cast": scale_by_cast, "place": scale_by_place, "search": scale_by_search}
_CODES: Final = {"bounds": code_by_bounds, "place": code_by_place, "search": code_by_search}
for (_of_scale, _scale), (_of_code, _code) in itertools.product(_SCALES.items(), _CODES.items()):
    _declare(f"scales by {_of_scale}, codes by {_of_code}", _scale, _code)
