"""NVFP4's GEMM in Triton: operands dequantized to fp16 by tile, exactly, and multiplied.

It runs wherever tensor cores multiply fp16, and needs no conversion that an arch may lack.

Tiling: a program owns one output tile of ``block_m`` by ``block_n`` and walks all of k in steps of
``block_k``. Tiles are numbered in bands of ``band`` tile rows, so that programs that run together
share weights in L2.

Layout: codes ``[m, k/2]`` and ``[n, k/2]`` lie two a byte, even k in the low nibble, any strides.
Scales lie in the layout 128x4 (`kernels.nvfp4.scale_layout`) and are read where they lie; those of
rows beyond m and n and of blocks beyond k are not read. ``y`` is contiguous. Offsets are 64 bit.

Exactness: the bits of an E2M1 code, shifted into those of an fp16 number, are 2^-14 of its value,
subnormal ones included, and those of an E4M3 scale 2^-8 of its. Scales are multiplied by 2^14; the
product of the two is then 2^-8 of the dequantized number: at most 6 bits, a multiple of 2^-18 and
at most 10.5, so that fp16 holds each one. Left unscaled, the factor of a scale would overflow.

Order of operations: the even codes of a tile are one operand and the odd ones another (a sum does
not care in which order k comes); products accumulate in fp32 on tensor cores. At the end, in fp32:
``* 2^16 * alpha``, ``+ bias``; one rounding to the output dtype, to infinity where it overflows.
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
from kernels.nvfp4.domain import ARCH, BLOCK
from kernels.nvfp4.gemm_arguments import check_gemm
from kernels.nvfp4.scale_layout import COLUMNS, ROWS

MAX_REGISTERS: Final = 255  # left to itself, ptxas spills at 128 for two blocks a multiprocessor
_OCTETS = tl.constexpr(BLOCK // 2)  # bytes of codes that share a scale
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_TO_SCALE = tl.constexpr(2.0**14)
_TO_VALUE = tl.constexpr(2.0**16)  # either operand is 2^-8 of its value


@dataclass(frozen=True)
class Config:
    """A tiling: rows and columns of an output tile, k a step, tile rows a band, warps, stages."""

    block_m: int
    block_n: int
    block_k: int
    band: int
    num_warps: int
    num_stages: int


# A step of 64 along k: with 128, tiles of 64 rows spill on all but sm90.
CONFIGS: Final = {
    "m16n32": Config(block_m=16, block_n=32, block_k=128, band=1, num_warps=4, num_stages=4),
    "m16n128": Config(block_m=16, block_n=128, block_k=64, band=1, num_warps=4, num_stages=4),
    "m64n64": Config(block_m=64, block_n=64, block_k=64, band=8, num_warps=4, num_stages=4),
    "m64n128": Config(block_m=64, block_n=128, block_k=64, band=8, num_warps=8, num_stages=4),
    "m128n64": Config(block_m=128, block_n=64, block_k=64, band=8, num_warps=8, num_stages=4),
}


def choose_config(m: int, n: int) -> tuple[str, str]:
    """The name of the default tiling for an output ``[m, n]``, and why."""
    if m <= 16 and n < 16384:
        return "m16n32", f"m={m} fits one tile row; n={n} needs narrow tiles to occupy the GPU"
    if m <= 16:
        return "m16n128", f"m={m} fits one tile row and n={n} makes enough tiles of 128"
    tiles = triton.cdiv(m, 128) * triton.cdiv(n, 64)
    if tiles >= 512:
        return "m128n64", f"m={m}, n={n} make {tiles} tiles of 128x64, two waves of any GPU"
    if n >= 4096:
        return "m64n128", f"m={m} is short and n={n} wide: a tile row of 64, weights 128 at a time"
    return "m64n64", f"m={m}, n={n} make only {tiles} tiles of 128x64; smaller ones fill the GPU"


@triton.jit
def _places(rows, wide):
    """Where in the layout 128x4 the scales of ``rows`` begin, ``wide`` being a row's blocks."""
    return rows // _ROWS * (wide * _ROWS) + rows % 32 * 16 + rows % _ROWS // 32 * 4


@triton.jit
def _decode_scales(octets):
    """E4M3 bytes as fp16, 2^6 of their values."""
    wide = octets.to(tl.uint16)
    bits = ((wide & 0x7F) << 7) | ((wide & 0x80) << 8)
    bits = tl.where((wide & 0x7F) == 0x7F, 0x7E00, bits).to(tl.uint16)  # NaN
    return bits.to(tl.float16, bitcast=True) * _TO_SCALE


@triton.jit
def _dequantize(signs, sizes, scales):
    """2^-8 of the values, fp16: signs at bit 15 and sizes at bit 9, ``scales`` one for 8 bytes."""
    blocks: tl.constexpr = scales.shape[1]
    rows: tl.constexpr = scales.shape[0]
    values = (signs | sizes).to(tl.float16, bitcast=True)
    values = tl.reshape(values, (rows, blocks, _OCTETS)) * scales[:, :, None]
    return tl.reshape(values, (rows, blocks * _OCTETS))


@triton.jit
def _even(packed, scales):
    wide = packed.to(tl.uint16)
    return _dequantize((wide & 0x08) << 12, (wide & 0x07) << 9, scales)


@triton.jit
def _odd(packed, scales):
    wide = packed.to(tl.uint16)
    return _dequantize((wide & 0x80) << 8, (wide & 0x70) << 5, scales)


@triton.jit
def _gemm_kernel(
    codes,
    wcodes,
    ascales,
    wscales,
    alpha,
    bias,
    y,
    m,
    n,
    octets,
    wide,
    codes_row,
    codes_col,
    wcodes_row,
    wcodes_col,
    bias_col,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
):
    tile_rows = tl.cdiv(m, BLOCK_M)
    tile_cols = tl.cdiv(n, BLOCK_N)
    pid = tl.program_id(0)
    first = pid // (BAND * tile_cols) * BAND
    in_band = tl.minimum(tile_rows - first, BAND)
    place = pid % (BAND * tile_cols)
    rows = (first + place % in_band).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (place // in_band).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < m
    col_ok = cols < n
    lanes = tl.arange(0, BLOCK_K // 2).to(tl.int64)
    blocks = tl.arange(0, BLOCK_K // 2 // _OCTETS).to(tl.int64)
    codes_ptrs = codes + (rows * codes_row)[:, None] + (lanes * codes_col)[None, :]
    wcodes_ptrs = wcodes + (cols * wcodes_row)[:, None] + (lanes * wcodes_col)[None, :]
    in_tile = blocks // _COLUMNS * (_ROWS * _COLUMNS) + blocks % _COLUMNS
    ascales_ptrs = ascales + _places(rows, wide)[:, None] + in_tile[None, :]
    wscales_ptrs = wscales + _places(cols, wide)[:, None] + in_tile[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, octets, BLOCK_K // 2):
        at = tl.cast(start, tl.int64)
        # Compared as they are, so that the compiler sees how far a mask is constant.
        lane_ok = (lanes < octets - at)[None, :]
        block_ok = (blocks < (octets - at) // _OCTETS)[None, :]
        acts = tl.load(codes_ptrs + at * codes_col, mask=row_ok[:, None] & lane_ok, other=0)
        weights = tl.load(wcodes_ptrs + at * wcodes_col, mask=col_ok[:, None] & lane_ok, other=0)
        # A step begins at a multiple of 4 blocks, which is where a tile of scales begins.
        step = at // (_OCTETS * _COLUMNS) * (_ROWS * _COLUMNS)
        ascale = tl.load(ascales_ptrs + step, mask=row_ok[:, None] & block_ok, other=0)
        wscale = tl.load(wscales_ptrs + step, mask=col_ok[:, None] & block_ok, other=0)
        ascale = _decode_scales(ascale)
        wscale = _decode_scales(wscale)
        acc = tl.dot(_even(acts, ascale), tl.trans(_even(weights, wscale)), acc)
        acc = tl.dot(_odd(acts, ascale), tl.trans(_odd(weights, wscale)), acc)
    out = acc * _TO_VALUE * tl.load(alpha)
    if HAS_BIAS:
        out += tl.load(bias + cols * bias_col, mask=col_ok, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y + (rows * n)[:, None] + cols[None, :],
        out.to(y.dtype.element_ty),
        mask=row_ok[:, None] & col_ok[None, :],
    )


@torch.library.custom_op("kernel_parity::nvfp4_gemm_triton", mutates_args=())
def _nvfp4_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    config: str | None,
) -> Tensor:
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    device.require_arch(codes.device, ARCH)
    m, n, octets = codes.shape[0], wcodes.shape[0], codes.shape[1]
    y = torch.empty((m, n), dtype=out_dtype, device=codes.device)
    if m == 0:
        return y
    tiling = CONFIGS[config or choose_config(m, n)[0]]
    programs = triton.cdiv(m, tiling.block_m) * triton.cdiv(n, tiling.block_n)
    with device.on(codes.device):
        _gemm_kernel[(programs,)](
            codes,
            wcodes,
            ascales.view(torch.uint8),  # sm80 has no E4M3
            wscales.view(torch.uint8),
            alpha,
            bias,
            y,
            m,
            n,
            octets,
            ascales.shape[1],
            *codes.stride(),
            *wcodes.stride(),
            *((0,) if bias is None else bias.stride()),
            HAS_BIAS=bias is not None,
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            BLOCK_K=tiling.block_k,
            BAND=tiling.band,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            enable_fp_fusion=True,
            maxnreg=MAX_REGISTERS,
        )
    return y


@_nvfp4_gemm.register_fake
def _fake_nvfp4_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    config: str | None,
) -> Tensor:
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    return codes.new_empty((codes.shape[0], wcodes.shape[0]), dtype=out_dtype)


@kernel(
    "nvfp4_gemm",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_gemm_triton",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "offset"),
    instructions={
        "sm8x,sm12x": r"\bHMMA\.",
        "sm90": r"\bHG?MMA\.",  # warp-group products need 64 rows
        "sm10x": r"\b(UTC)?HMMA\b",  # so do those of tensor memory
    },
)
def nvfp4_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    config: str | None = None,
) -> Tensor:
    """``alpha * dequant(codes, ascales) @ dequant(wcodes, wscales)^T + bias``.

    ``codes [m, k/2]`` and ``wcodes [n, k/2]`` are uint8, two E2M1 numbers a byte, even k low, any
    strides. ``ascales`` and ``wscales`` are float8_e4m3fn, one for each 16 along k, in the layout
    128x4 and contiguous: ``[m, k/16]`` and ``[n, k/16]`` padded to multiples of 128 and 4; what the
    padding holds does not matter. ``alpha [1]`` is float32, the product of both global *decode*
    scales, ``1 / (g_a * g_w)``. ``bias [n]`` is float16 or bfloat16. Returns contiguous ``[m, n]``
    in ``out_dtype``, float16 or bfloat16. ``config`` names a tiling of ``CONFIGS``; None leaves the
    choice to ``choose_config``. Raises TypeError for a dtype, ValueError for a shape, strides of
    scales, a device or a value, UnsupportedArch before sm80.
    """
    contract.require_tensors(
        codes=codes, wcodes=wcodes, ascales=ascales, wscales=wscales, alpha=alpha
    )
    if bias is not None:
        contract.require_tensors(bias=bias)
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    y: Tensor = _nvfp4_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config)
    return y
