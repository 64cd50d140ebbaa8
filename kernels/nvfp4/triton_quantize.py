"""The NVFP4 quantizer in Triton, by the recipe of vLLM and flashinfer.

Tiling: a program owns ``block_m`` rows by ``blocks`` blocks of 16 along k, the padding of the
scales included: it stores a scale of zero there, and no codes.

Layout: any strides of ``x``. Codes lie two a byte, even k in the low nibble, ``[m, k/2]``; scales
lie in the layout 128x4 (`kernels.nvfp4.scale_layout`). Offsets are 64 bit.

Order of operations, a block, all in fp32 with one rounding each: ``amax * (1/6)``, times ``g``, to
E4M3 (nearest, ties to even, at most 448) = S; ``1/g``, times S, ``1 /`` that (0 where it is 0) = f;
every element times f, to E2M1 (nearest, ties to even, at most 6; a zero keeps its sign, a NaN has
code 0). The quotients are IEEE divisions. Both encodings are integer arithmetic and comparisons:
sm80 has no conversion to E4M3 and nothing below sm100 one to E2M1, and no addition means nothing
that a compiler could contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness import device, kernel
from kernels import contract
from kernels.nvfp4.domain import ARCH, BLOCK, SCALE_DTYPE
from kernels.nvfp4.quantize_arguments import check_quantize
from kernels.nvfp4.scale_layout import COLUMNS, ROWS, padded_shape

_BLOCK = tl.constexpr(BLOCK)
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_SIXTH = tl.constexpr(1 / 6)  # rounded to fp32, 1/6 (1 + 2^-25): what the recipe multiplies by


@dataclass(frozen=True)
class Config:
    """A tiling: rows, blocks of 16 along k, warps."""

    block_m: int
    blocks: int
    num_warps: int


CONFIGS: Final = {
    "m1b64": Config(block_m=1, blocks=64, num_warps=2),
    "m4b32": Config(block_m=4, blocks=32, num_warps=4),
    "m16b16": Config(block_m=16, blocks=16, num_warps=4),
    "m32b4": Config(block_m=32, blocks=4, num_warps=4),
}


def choose_config(m: int, k: int) -> tuple[str, str]:
    """The name of the default tiling for ``x [m, k]``, and why."""
    if k <= 64:
        return "m32b4", f"k={k} is one tile of scales wide: a program takes 32 rows of it"
    if m <= 4:
        return "m1b64", f"m={m} rows are few: a program takes 1024 of a row"
    if m * k <= 2**20:
        return "m4b32", f"m={m}, k={k} need programs of 2048 elements to occupy the GPU"
    return "m16b16", f"m={m}, k={k} make enough programs of 4096 elements to fill any GPU"


@triton.jit
def _encode_e4m3(values):
    """The bytes of positive fp32 ``values``, which may be NaN: nearest, ties to even, at most 448.

    A number below 2^-6 is subnormal: a multiple of 2^-9, whose count is its byte, as the mantissa
    shifted right has it. A carry out of a mantissa is right in either case.
    """
    bits = tl.where(values > 448.0, 448.0, values).to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    mantissa = (bits & 0x7FFFFF) | 0x800000
    # From 25 on nothing is left, whatever the mantissa is.
    shift = tl.minimum(tl.maximum(141 - (bits >> 23), 1), 25)
    odd = (mantissa >> shift) & 1
    subnormal = (mantissa + (1 << (shift - 1)) - 1 + odd) >> shift
    byte = tl.where(bits < 0x3C800000, subnormal, normal)
    return tl.where(values == values, byte, 0x7F)


@triton.jit
def _decode_e4m3(byte):
    """The fp32 values of positive E4M3 bytes: the mantissa, an integer, times a power of two."""
    exponent = byte >> 3
    mantissa = tl.where(exponent > 0, (byte & 7) | 8, byte & 7).to(tl.float32)
    power = ((tl.maximum(exponent, 1) + 117) << 23).to(tl.float32, bitcast=True)
    return tl.where(byte == 0x7F, float("nan"), mantissa * power)


@triton.jit
def _encode_e2m1(values):
    """The sizes of fp32 ``values`` as codes: nearest, ties to even, at most 6; a NaN is 0."""
    size = tl.abs(values)
    code = (size > 0.25).to(tl.int32) + (size >= 0.75).to(tl.int32)
    code += (size > 1.25).to(tl.int32) + (size >= 1.75).to(tl.int32)
    code += (size > 2.5).to(tl.int32) + (size >= 3.5).to(tl.int32)
    return code + (size > 5.0).to(tl.int32)


@triton.jit
def _quantize(values, g):
    """Packed codes ``[rows, 8 blocks]`` and bytes of scales ``[rows, blocks]``, both int32.

    ``values [rows, blocks, 16]`` are fp32, ``g`` is their global encode scale.
    """
    rows: tl.constexpr = values.shape[0]
    blocks: tl.constexpr = values.shape[1]
    # The bits of |x| order as integers, NaN above infinity: a NaN reaches the scale, where a
    # floating-point maximum would drop it.
    bits = tl.abs(values).to(tl.int32, bitcast=True)
    amax = tl.max(bits, axis=2).to(tl.float32, bitcast=True)
    scale = _encode_e4m3(g * (amax * _SIXTH))

    decode = _decode_e4m3(scale) * tl.div_rn(1.0, g)
    ones = tl.full((rows, blocks), 1.0, tl.float32)
    factor = tl.where(decode == 0, 0.0, tl.div_rn(ones, tl.where(decode == 0, 1.0, decode)))
    scaled = values * factor[:, :, None]
    negative = (values.to(tl.int32, bitcast=True) < 0) & (scaled == scaled)
    code = _encode_e2m1(scaled) | tl.where(negative, 8, 0)
    even, odd = tl.split(tl.reshape(code, (rows, blocks * _BLOCK // 2, 2)))
    return even | (odd << 4), scale


@triton.jit
def _quantize_kernel(
    x,
    global_encode_scale,
    codes,
    scales,
    m,
    k,
    high,
    wide,
    x_row,
    x_col,
    BLOCK_M: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    blocks = tl.program_id(1).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    ks = tl.program_id(1).to(tl.int64) * (BLOCKS * _BLOCK) + tl.arange(0, BLOCKS * _BLOCK)
    row_ok = rows < m
    tile = tl.load(
        x + (rows * x_row)[:, None] + (ks * x_col)[None, :],
        mask=row_ok[:, None] & (ks < k)[None, :],
        other=0.0,
    )
    values = tl.reshape(tile.to(tl.float32), (BLOCK_M, BLOCKS, _BLOCK))
    packed, scale = _quantize(values, tl.load(global_encode_scale))
    octets = tl.program_id(1).to(tl.int64) * (BLOCKS * _BLOCK // 2) + tl.arange(
        0, BLOCKS * _BLOCK // 2
    )
    tl.store(
        codes + (rows * (k // 2))[:, None] + octets[None, :],
        packed.to(tl.uint8),
        mask=row_ok[:, None] & (octets * 2 < k)[None, :],
    )
    of_row = rows // _ROWS * (wide * _ROWS) + rows % 32 * 16 + rows % _ROWS // 32 * 4
    of_block = blocks // _COLUMNS * (_ROWS * _COLUMNS) + blocks % _COLUMNS
    tl.store(
        scales + of_row[:, None] + of_block[None, :],
        scale.to(tl.uint8),
        mask=(rows < high)[:, None] & (blocks < wide)[None, :],
    )


@torch.library.custom_op("kernel_parity::nvfp4_quantize_triton", mutates_args=())
def _nvfp4_quantize(
    x: Tensor, global_encode_scale: Tensor, recipe: str, config: str | None
) -> tuple[Tensor, Tensor]:
    check_quantize(x, global_encode_scale, recipe, config, configs=CONFIGS)
    device.require_arch(x.device, ARCH)
    m, k = x.shape
    high, wide = padded_shape(m, k // BLOCK)
    codes = torch.empty((m, k // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((high, wide), dtype=SCALE_DTYPE, device=x.device)
    if m == 0:
        return codes, scales
    tiling = CONFIGS[config or choose_config(m, k)[0]]
    grid = (triton.cdiv(high, tiling.block_m), triton.cdiv(wide, tiling.blocks))
    with device.on(x.device):
        _quantize_kernel[grid](
            x,
            global_encode_scale,
            codes,
            scales.view(torch.uint8),  # sm80 has no E4M3
            m,
            k,
            high,
            wide,
            *x.stride(),
            BLOCK_M=tiling.block_m,
            BLOCKS=tiling.blocks,
            num_warps=tiling.num_warps,
            enable_fp_fusion=False,
        )
    return codes, scales


@_nvfp4_quantize.register_fake
def _fake_nvfp4_quantize(
    x: Tensor, global_encode_scale: Tensor, recipe: str, config: str | None
) -> tuple[Tensor, Tensor]:
    check_quantize(x, global_encode_scale, recipe, config, configs=CONFIGS)
    m, k = x.shape
    return (
        x.new_empty((m, k // 2), dtype=torch.uint8),
        x.new_empty(padded_shape(m, k // BLOCK), dtype=SCALE_DTYPE),
    )


@kernel(
    "nvfp4_quantize",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_quantize_triton",
    configs=tuple(CONFIGS),
    layouts=("contiguous", "rows", "offset", "strided", "transposed", "expanded"),
)
def nvfp4_quantize(
    x: Tensor,
    global_encode_scale: Tensor,
    *,
    recipe: str = "vllm",
    config: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantize ``x [m, k]`` to NVFP4, so that ``x = e2m1 * S / global_encode_scale``.

    ``x`` is float16 or bfloat16, any strides; ``global_encode_scale [1]`` is float32, positive,
    2688 / the largest absolute value that is expected. Returns ``codes`` uint8 ``[m, k/2]`` (even k
    in the low nibble) and ``scales`` float8_e4m3fn, one for each 16 along k, in the layout 128x4,
    ``[m, k/16]`` padded with zeros to multiples of 128 and 4. ``recipe`` says whose roundings:
    ``vllm`` (flashinfer's too). ``config`` names a tiling of ``CONFIGS``; None leaves the choice to
    ``choose_config``. Raises TypeError for a dtype, ValueError for a shape, device or value,
    NotImplementedError for another recipe, UnsupportedArch before sm80.
    """
    contract.require_tensors(x=x, global_encode_scale=global_encode_scale)
    check_quantize(x, global_encode_scale, recipe, config, configs=CONFIGS)
    quantized: tuple[Tensor, Tensor] = _nvfp4_quantize(x, global_encode_scale, recipe, config)
    return quantized
