"""Weights to NVFP4 and back in plain torch, on any device: the bytes of the recipe of vLLM.

What the quantizer's kernels do to activations, without a kernel: for whoever prepares a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from kernels.nvfp4.domain import BLOCK, SCALE_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MAX: Final = 6.0
E4M3_MAX: Final = 448.0


def global_encode_scale(amax: Tensor) -> Tensor:
    """``g [1] = 2688 / amax``, float32: the largest value gets the largest scale and code.

    ``amax`` is a tensor of one absolute value; where it is 0, ``g`` is 1.
    """
    largest = amax.detach().abs().float().reshape(1)
    encode = torch.full_like(largest, E4M3_MAX * E2M1_MAX) / largest
    limit = torch.finfo(torch.float32).max
    return torch.where(largest == 0, 1.0, encode.clamp(max=limit))


def quantize(weight: Tensor, encode: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 ``[n, k/2]`` and scales ``[n, k/16]``, not in tiles, of ``weight [n, k]``.

    Rounded to float32 first, if it is wider. ``encode [1]`` is the global encode scale.
    """
    blocks: Tensor = weight.detach().float().unflatten(1, (-1, BLOCK))
    encode = encode.to(blocks.device)
    one, sixth = torch.ones_like(encode), torch.full_like(encode, 1 / E2M1_MAX)
    wanted = encode * (blocks.abs().amax(2) * sixth)
    scales = wanted.clamp(max=E4M3_MAX).to(SCALE_DTYPE)
    decode = scales.float() * (one / encode)
    factor = torch.where(decode == 0, 0.0, torch.ones_like(decode) / decode)
    return _encode((blocks * factor.unsqueeze(2)).flatten(1)), scales


def dequantize(codes: Tensor, scales: Tensor, encode: Tensor) -> Tensor:
    """``e2m1 * S / g``, float64 ``[n, k]``, of scales that are not in tiles."""
    nibbles = torch.stack((codes & 0xF, codes >> 4), dim=2).flatten(1).long()
    known = torch.tensor(E2M1, dtype=torch.float64, device=codes.device)
    values: Tensor = torch.cat((known, -known))[nibbles].unflatten(1, (-1, BLOCK))
    return (values * scales.double().unsqueeze(2)).flatten(1) / encode.double()


def _encode(values: Tensor) -> Tensor:
    """The nearest E2M1 numbers, ties to even, two a byte; a zero keeps its sign, a NaN is 0."""
    size, known = values.abs(), torch.tensor(E2M1, device=values.device)
    middles = (known[:-1] + known[1:]) / 2
    code = torch.zeros_like(values, dtype=torch.uint8)
    for index, middle in enumerate(middles):
        code += size >= middle if index % 2 else size > middle
    code |= (values.signbit() & ~values.isnan()).to(torch.uint8) << 3
    return code[:, 0::2] | code[:, 1::2] << 4
