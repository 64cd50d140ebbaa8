"""NVFP4's kernels on every byte: all codes, all scales, all block maxima, in the padding too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.emulation import emulate
from kernels.nvfp4 import triton_gemm, triton_quantize
from kernels.nvfp4.scale_layout import swizzle_scales
from kernels.nvfp4.triton_gemm import nvfp4_gemm
from kernels.nvfp4.triton_quantize import nvfp4_quantize
from references.nvfp4_format import decode_e2m1, swizzled
from references.nvfp4_recipes import vllm

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HALVES = [torch.float16, torch.bfloat16]
ONE = 0x38  # of E4M3
EVERY_BYTE = torch.arange(256, dtype=torch.uint8)


def scales_of(octets: Tensor) -> Tensor:
    return swizzle_scales(octets.to(torch.uint8).view(torch.float8_e4m3fn))


def gemm(
    codes: Tensor,
    ascales: Tensor,
    wcodes: Tensor,
    wscales: Tensor,
    device: str,
    *,
    out_dtype: torch.dtype = torch.float16,
    config: str | None = None,
) -> Tensor:
    """The product on the device, of scales in the layout 128x4."""
    operands = (codes, wcodes, ascales, wscales, torch.ones(1))
    c, w, a_scales, w_scales, alpha = (tensor.to(device) for tensor in operands)
    with emulate():
        y = nvfp4_gemm(c, w, a_scales, w_scales, alpha, out_dtype=out_dtype, config=config)
    return y.cpu()


def same(actual: Tensor, expected: Tensor) -> bool:
    """Equal values, NaN where NaN is due."""
    return actual.shape == expected.shape and bool(
        ((actual == expected) | (actual.isnan() & expected.isnan())).all()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_gemm.CONFIGS)
def test_every_code_under_every_scale_is_dequantized_exactly(config: str, device: str) -> None:
    """One activation a row, 1.0 at another k: the product is the dequantized weight."""
    k = 2 * len(EVERY_BYTE)
    places = torch.arange(k)
    codes = torch.zeros(k, k // 2, dtype=torch.uint8)
    codes[places, places // 2] = (2 << 4 * (places % 2)).to(torch.uint8)
    wcodes = EVERY_BYTE.expand(256, -1).contiguous()
    octets = EVERY_BYTE[:, None].expand(-1, k // 16)
    y = gemm(
        codes, scales_of(torch.full((k, k // 16), ONE)), wcodes, scales_of(octets), device,
        config=config,
    )  # fmt: skip
    scale = EVERY_BYTE.view(torch.float8_e4m3fn).double()
    expected = decode_e2m1(EVERY_BYTE[None]) * scale[:, None]
    assert int(expected.isnan().any(1).sum()) == 2
    assert same(y.T.double(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("out_dtype", HALVES)
def test_every_pair_of_codes_and_scales_is_multiplied_exactly(
    out_dtype: torch.dtype, device: str
) -> None:
    """Products of two dequantized numbers of every size: one rounding, to infinity above 65504."""
    code, scale = torch.meshgrid(torch.arange(8, 16), torch.arange(0x7F), indexing="ij")
    packed = torch.zeros(code.numel(), 16, dtype=torch.uint8)
    packed[:, 0] = code.flatten().to(torch.uint8)
    octets = scale.flatten()[:, None].expand(-1, 2)
    y = gemm(packed, scales_of(octets), packed, scales_of(octets), device, out_dtype=out_dtype)
    values = (
        decode_e2m1(packed)[:, 0] * octets[:, 0].to(torch.uint8).view(torch.float8_e4m3fn).double()
    )
    assert torch.equal(y, (values[:, None] * values).to(out_dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_gemm.CONFIGS)
def test_padding_is_not_read_and_a_nan_keeps_to_its_row(config: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    m, n, k = 130, 72, 96
    codes, wcodes = (
        torch.randint(0, 256, (rows, k // 2), generator=generator, dtype=torch.uint8)
        for rows in (m, n)
    )
    octets, weights = (
        torch.randint(0x30, 0x40, (rows, k // 16), generator=generator) for rows in (m, n)
    )
    ascales, wscales = scales_of(octets), scales_of(weights)
    clean = gemm(codes, ascales, wcodes, wscales, device, config=config)
    assert clean.isfinite().all()
    padded = [
        torch.where(swizzled(torch.ones_like(given)) > 0, made.view(torch.uint8), 0x7F)
        for given, made in ((octets, ascales), (weights, wscales))
    ]
    assert all((made == 0x7F).any() for made in padded)
    spoiled = [made.view(torch.float8_e4m3fn) for made in padded]
    assert torch.equal(gemm(codes, spoiled[0], wcodes, spoiled[1], device, config=config), clean)
    octets[129, 3] = weights[64, 5] = 0x7F
    y = gemm(codes, scales_of(octets), wcodes, scales_of(weights), device, config=config)
    assert y[129].isnan().all()
    assert y[:, 64].isnan().all()
    others = torch.ones(m, n, dtype=torch.bool)
    others[129] = others[:, 64] = False
    assert torch.equal(y[others], clean[others])


def quantized(x: Tensor, encode: float, device: str, config: str | None) -> tuple[Tensor, Tensor]:
    with emulate():
        codes, scales = nvfp4_quantize(
            x.to(device), torch.tensor([encode], device=device), config=config
        )
    return codes.cpu(), scales.cpu().view(torch.uint8)


def check(x: Tensor, encode: float, device: str, config: str | None = None) -> None:
    """Codes and scales are the recipe's, and zero is what pads the scales."""
    codes, scales = quantized(x, encode, device, config)
    expected_codes, expected = vllm(x.double(), torch.tensor([encode]))
    octets = expected.to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(scales, swizzled(torch.where(expected.isnan(), 0x7F, octets)))
    assert torch.equal(codes, expected_codes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("encode", [1.0, 0.37, 2688 / 4.375, 2.0**-60, 2.0**100, 3e38])
def test_every_block_maximum(dtype: torch.dtype, encode: float, device: str) -> None:
    """Every positive bit pattern, infinity and NaN too, leads a block of smaller ones of it."""
    largest = torch.arange(2**15, dtype=torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(int(encode) % 997)
    parts = torch.rand(len(largest), 16, generator=generator) * 2 - 1
    parts[:, ::4] = torch.tensor([0.25, 0.75, 1.25, 5.0]) / 6
    parts[:, 3] = 1.0
    blocks = (largest.double()[:, None] * parts).to(dtype)
    blocks[:, 3] = largest
    check(blocks.reshape(128, -1), encode, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_quantize.CONFIGS)
@pytest.mark.parametrize("dtype", HALVES)
def test_crafted_ties_zeros_and_tiny_blocks(dtype: torch.dtype, config: str, device: str) -> None:
    """Midpoints of both signs under a block maximum of 6 and powers of two, to where scales end."""
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    block = torch.cat((middles, -middles, torch.tensor([6.0, -0.0])))
    sizes = 2.0 ** torch.arange(-13, 10)
    ties = (sizes[:, None] * block).to(dtype)
    zeros = torch.zeros(1, 16, dtype=dtype)
    x = torch.cat((ties, zeros, -zeros, ties.flip(0), zeros)).reshape(1, -1)
    rows = torch.cat((x, x.roll(16, 1), -x), 0)[:, : x.shape[1] // 32 * 32]
    for encode in (1.0, 0.25, 4.0):
        check(rows.contiguous(), encode, device, config)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_quantize.CONFIGS)
@pytest.mark.parametrize(("m", "k"), [(1, 32), (127, 96), (129, 160), (260, 32), (0, 64)])
def test_padding_of_the_scales_is_zero(m: int, k: int, config: str, device: str) -> None:
    generator = torch.Generator().manual_seed(m + k)
    check(torch.randn(m, k, generator=generator).bfloat16(), 500.0, device, config)
