"""NVFP4's formats and the layout of its scales, by definition: tables, midpoints, index formulas.

Elements are E2M1 (sign, two bits of exponent, one of mantissa), two a byte with even k in the low
nibble; blocks of 16 along k share an E4M3 scale. Scales lie in the layout 128x4 that block-scaled
matrix instructions read: rows padded to 128 and columns to 4, tiles of 128 by 4 in row-major order,
512 bytes each (PTX ISA, "tcgen05.mma", scale factor layout for ``.block16``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch

from harness.expression import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BLOCK: Final = 16
E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MAX: Final = 6.0
E4M3_MAX: Final = 448.0


def decode_e2m1(packed: Tensor) -> Tensor:
    """The values, float64, of codes that lie two a byte, even k in the low nibble."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1).long()
    values = torch.tensor(E2M1, dtype=torch.float64, device=packed.device)
    return torch.cat((values, -values))[nibbles]


def encode_e2m1(values: Tensor) -> Tensor:
    """Codes of the nearest E2M1 numbers, two a byte: ties to the even code, saturating at 6.

    A zero keeps its sign, whatever was rounded to it (as ``cvt.rn.satfinite.e2m1x2.f32`` does); a
    NaN has code 0.
    """
    size = values.abs()
    code = torch.zeros_like(values, dtype=torch.uint8)
    for below, (low, high) in enumerate(pairwise(E2M1)):
        middle = (low + high) / 2
        code += size >= middle if below % 2 else size > middle
    code |= (values.signbit() & ~values.isnan()).to(torch.uint8) << 3
    return code[:, 0::2] | code[:, 1::2] << 4


def nearest_e4m3(values: Tensor) -> Tensor:
    """The nearest E4M3 numbers, float64, of positive fp32 ones: ties to even, saturating at 448."""
    return values.float().clamp(max=E4M3_MAX).to(torch.float8_e4m3fn).double()


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Where in its padded buffer the scale of each row and block lies, ``[rows, columns]``."""
    r = torch.arange(rows, device=device)[:, None]
    c = torch.arange(columns, device=device)[None, :]
    tile = (r // 128) * -(-columns // 4) + c // 4
    return tile * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4


@dataclass(frozen=True)
class Padding:
    """What of the layout 128x4 is padding, where it holds so many rows and blocks of a row."""

    rows: str
    columns: str

    def __call__(self, sizes: Mapping[str, int]) -> Tensor:
        """A mask of the buffer, ``[rows', columns']``; the numbers are expressions over axes."""
        rows, columns = (evaluate(word, sizes) for word in (self.rows, self.columns))
        real = swizzled(torch.ones(rows, columns, dtype=torch.bool))
        return ~real


def swizzled(scales: Tensor) -> Tensor:
    """``scales [rows, columns]`` in the layout 128x4, padding zero: ``[rows', columns']``."""
    rows, columns = scales.shape
    made = scales.new_zeros(-(-rows // 128) * 128, -(-columns // 4) * 4)
    made.view(-1)[places(rows, columns, scales.device).reshape(-1)] = scales.reshape(-1)
    return made


def linear(scales: Tensor, rows: int, columns: int) -> Tensor:
    """What `swizzled` was given; the padding is not read."""
    return scales.reshape(-1)[places(rows, columns, scales.device)]
