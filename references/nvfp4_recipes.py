"""Three recipes that quantize to NVFP4, each to its own bytes: every fp32 rounding is in its place.

A step is taken in float64 and rounded to fp32: the product of two fp32 numbers is exact in float64,
and their quotient is never so near a tie that rounding twice would show. No step depends on how a
device divides by a constant (torch multiplies by the reciprocal on a GPU, and divides on a CPU).

Their scales differ by one step of E4M3, where a block's maximum lies on a midpoint: on Gaussian
bf16 data in none to 5 % of the blocks, by the global scale. Read in snapshots of 2026-08.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from references.nvfp4_format import BLOCK, E2M1_MAX, encode_e2m1, nearest_e4m3

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FLOAT32_MAX: Final = torch.finfo(torch.float32).max
SMALLEST_NORMAL_E4M3: Final = 2.0**-6


def te(x: Tensor, global_encode_scale: Tensor) -> tuple[Tensor, Tensor]:
    """TransformerEngine's: ``S = e4m3(amax (g/6))``, ``code = e2m1(x min(1 / (S/g), FLT_MAX))``.

    Codes of a block whose scale underflows to zero are not zero.
    """
    g = global_encode_scale.double()
    scale = nearest_e4m3(_f32(_amax(x) * _f32(g * _sixth())))
    multiplier = _f32(1 / _f32(scale * _f32(1 / g))).clamp(max=FLOAT32_MAX)
    return _codes(x, multiplier), scale


def vllm(x: Tensor, global_encode_scale: Tensor) -> tuple[Tensor, Tensor]:
    """That of vLLM and flashinfer: ``S = e4m3(g (amax/6))``, ``code = e2m1(x (1 / (S/g)))``.

    A block whose scale is zero is multiplied by zero.
    """
    scale = vllm_scale(_amax(x), global_encode_scale)
    return _codes(x, vllm_factor(scale, global_encode_scale)), scale


def vllm_scale(amax: Tensor, global_encode_scale: Tensor) -> Tensor:
    """The scale of a block by its largest absolute value: it never falls where that grows."""
    return nearest_e4m3(_f32(global_encode_scale.double() * _f32(amax * _sixth())))


def vllm_factor(scale: Tensor, global_encode_scale: Tensor) -> Tensor:
    """What the elements of a block of that scale are multiplied by."""
    decode = _f32(scale * _f32(1 / global_encode_scale.double()))
    return torch.where(decode == 0, 0.0, _f32(1 / decode))


def torchao(x: Tensor, global_decode_scale: Tensor) -> tuple[Tensor, Tensor]:
    """torchao's: ``S = e4m3(max((amax/6) / p, 2^-6))``, ``code = e2m1(x ((1/p) / S))``.

    A scale is never subnormal.
    """
    p = global_decode_scale.double()
    wanted = _f32(_f32(_amax(x) / E2M1_MAX) / p)
    scale = nearest_e4m3(wanted.clamp(min=SMALLEST_NORMAL_E4M3))
    return _codes(x, _f32(_f32(1 / p) / scale)), scale


RECIPES: Final[dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "te": te,
    "vllm": vllm,
    "torchao": torchao,
}
"""Codes, two a byte, and scales ``[m, k/16]``, float64, of ``x [m, k]`` and the global scale."""


def _f32(wide: Tensor) -> Tensor:
    """One rounding to fp32."""
    return wide.float().double()


def _sixth() -> float:
    """1/6 as fp32 has it."""
    return float(torch.tensor(1 / E2M1_MAX, dtype=torch.float32))


def _blocks(x: Tensor) -> Tensor:
    grouped: Tensor = x.double().unflatten(1, (-1, BLOCK))
    return grouped


def _amax(x: Tensor) -> Tensor:
    return _blocks(x).abs().amax(dim=2)


def _codes(x: Tensor, multiplier: Tensor) -> Tensor:
    scaled = _f32(_blocks(x) * multiplier.unsqueeze(2))
    return encode_e2m1(scaled.flatten(1))
