"""SVDQuant's W4A4 GEMM in Triton: int4 codes, group scales, bias, low-rank branch.

Tiling: a program owns one output tile of ``block_m`` by ``block_n`` and walks all of k, a group of
64 at a time. Tiles are numbered in bands of ``band`` tile rows, so that programs that run together
share weights in L2.

Layout: codes ``[m, k/2]`` and ``[n, k/2]`` lie k-major, two a byte, even k in the low nibble; both
operands of the product stay k-major, as int8 tensor-core instructions want them. Scales lie group
first. Any strides of the inputs; ``y`` is contiguous. Offsets are 64 bit.

Order of operations, a group: nibbles are spread to int8, the 32 even codes of a group in one
operand and the 32 odd ones in another (a sum does not care in which order k comes), and two int8
products accumulate exactly in int32; the accumulator starts at the bits of 1.5 * 2^23, so that it
*is* a float once finished and I2F, which is four times slower than the products on Hopper, is not
needed; then ``acc += sum * (ascale * wscale)`` in fp32, the product of two scales being exact.
At the end, in fp32: ``* alpha``, ``* wcscales``, ``+ bias``, ``+ lora_act @ lora_up^T``; float16
saturates; one rounding to the output dtype. The low-rank product runs on tensor cores as tf32x3:
``lora_up`` is exact in tf32, ``lora_act`` loses less than 2^-23 as a sum of two tf32 numbers. True
fp32 would keep 16 ranks of the tile's rows and columns in registers, 255 a thread, and spill.
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
from kernels.svdq.domain import ARCH, GROUP
from kernels.svdq.gemm_arguments import check_gemm

MAX_REGISTERS: Final = 255  # left to itself, ptxas spills at 128 for two blocks a multiprocessor
_GROUP = tl.constexpr(GROUP)
_BYTES = tl.constexpr(GROUP // 2)
_RANKS = tl.constexpr(16)  # of a step of the low-rank branch; every legal rank is a multiple
_MAGIC = tl.constexpr(1.5 * 2.0**23)  # a float whose last bit weighs 1, with room for +-2^22
_MAGIC_BITS = tl.constexpr(0x4B400000)
_FP16_MAX = tl.constexpr(65504.0)


@dataclass(frozen=True)
class Config:
    """A tiling: rows and columns of an output tile, tile rows a band, warps, pipeline stages."""

    block_m: int
    block_n: int
    band: int
    num_warps: int
    num_stages: int


CONFIGS: Final = {
    "m16n32": Config(block_m=16, block_n=32, band=1, num_warps=2, num_stages=4),
    "m16n128": Config(block_m=16, block_n=128, band=1, num_warps=4, num_stages=4),
    "m64n64": Config(block_m=64, block_n=64, band=8, num_warps=8, num_stages=4),
    "m64n128": Config(block_m=64, block_n=128, band=8, num_warps=8, num_stages=3),
    "m128n64": Config(block_m=128, block_n=64, band=8, num_warps=8, num_stages=3),
}


def choose_config(m: int, n: int) -> tuple[str, str]:
    """The name of the default tiling for an output ``[m, n]``, and why."""
    if m <= 16 and n < 4096:
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
def _low(packed):
    return (packed << 4).to(tl.int8, bitcast=True) >> 4


@triton.jit
def _high(packed):
    return packed.to(tl.int8, bitcast=True) >> 4


@triton.jit
def _gemm_kernel(
    codes,
    wcodes,
    ascales,
    wscales,
    lora_act,
    lora_up,
    bias,
    wcscales,
    y,
    m,
    n,
    k,
    r,
    alpha,
    codes_row,
    codes_col,
    wcodes_row,
    wcodes_col,
    ascales_row,
    ascales_col,
    wscales_row,
    wscales_col,
    act_row,
    act_col,
    up_row,
    up_col,
    bias_col,
    wcscales_col,
    UNSIGNED: tl.constexpr,
    HAS_LORA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_WCSCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
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
    lanes = tl.arange(0, _BYTES).to(tl.int64)
    codes_ptrs = codes + (rows * codes_row)[:, None] + (lanes * codes_col)[None, :]
    wcodes_ptrs = wcodes + (cols * wcodes_row)[:, None] + (lanes * wcodes_col)[None, :]
    ascales_ptrs = ascales + rows * ascales_col
    wscales_ptrs = wscales + cols * wscales_col
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for group in range(k // _GROUP):
        at = tl.cast(group, tl.int64)
        acts = tl.load(codes_ptrs + at * _BYTES * codes_col, mask=row_ok[:, None], other=0)
        weights = tl.load(wcodes_ptrs + at * _BYTES * wcodes_col, mask=col_ok[:, None], other=0)
        ascale = tl.load(ascales_ptrs + at * ascales_row, mask=row_ok, other=0.0).to(tl.float32)
        wscale = tl.load(wscales_ptrs + at * wscales_row, mask=col_ok, other=0.0).to(tl.float32)
        if UNSIGNED:
            even = (acts & 0xF).to(tl.int8)
            odd = (acts >> 4).to(tl.int8)
        else:
            even = _low(acts)
            odd = _high(acts)
        total = tl.full((BLOCK_M, BLOCK_N), _MAGIC_BITS, dtype=tl.int32)
        total = tl.dot(even, tl.trans(_low(weights)), total, out_dtype=tl.int32)
        total = tl.dot(odd, tl.trans(_high(weights)), total, out_dtype=tl.int32)
        exact = total.to(tl.float32, bitcast=True) - _MAGIC
        acc += exact * (ascale[:, None] * wscale[None, :])
    out = acc * alpha
    if HAS_WCSCALES:
        channel = tl.load(wcscales + cols * wcscales_col, mask=col_ok, other=0.0).to(tl.float32)
        out = out * channel[None, :]
    if HAS_BIAS:
        out += tl.load(bias + cols * bias_col, mask=col_ok, other=0.0).to(tl.float32)[None, :]
    if HAS_LORA:
        low_rank = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, r, _RANKS):
            ranks = (start + tl.arange(0, _RANKS)).to(tl.int64)
            act = tl.load(
                lora_act + (rows * act_row)[:, None] + (ranks * act_col)[None, :],
                mask=row_ok[:, None],
                other=0.0,
            )
            up = tl.load(
                lora_up + (cols * up_row)[None, :] + (ranks * up_col)[:, None],
                mask=col_ok[None, :],
                other=0.0,
            )
            low_rank = tl.dot(act, up.to(tl.float32), low_rank, input_precision="tf32x3")
        out += low_rank
    if y.dtype.element_ty == tl.float16:
        # By comparison, because minimum and maximum would turn a NaN into the bound.
        out = tl.where(out > _FP16_MAX, _FP16_MAX, out)
        out = tl.where(out < -_FP16_MAX, -_FP16_MAX, out)
    tl.store(
        y + (rows * n)[:, None] + cols[None, :],
        out.to(y.dtype.element_ty),
        mask=row_ok[:, None] & col_ok[None, :],
    )


@torch.library.custom_op("kernel_parity::svdq_gemm_w4a4_triton", mutates_args=())
def _svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    check_gemm(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, configs=CONFIGS,
    )  # fmt: skip
    device.require_arch(codes.device, ARCH)
    m, n, k = codes.shape[0], wcodes.shape[0], codes.shape[1] * 2
    y = torch.empty((m, n), dtype=out_dtype or ascales.dtype, device=codes.device)
    if m == 0:
        return y
    tiling = CONFIGS[config or choose_config(m, n)[0]]
    programs = triton.cdiv(m, tiling.block_m) * triton.cdiv(n, tiling.block_n)
    with device.on(codes.device):
        _gemm_kernel[(programs,)](
            codes,
            wcodes,
            ascales,
            wscales,
            lora_act,
            lora_up,
            bias,
            wcscales,
            y,
            m,
            n,
            k,
            0 if lora_act is None else lora_act.shape[1],
            alpha,
            *codes.stride(),
            *wcodes.stride(),
            *ascales.stride(),
            *wscales.stride(),
            *((0, 0) if lora_act is None else lora_act.stride()),
            *((0, 0) if lora_up is None else lora_up.stride()),
            *((0,) if bias is None else bias.stride()),
            *((0,) if wcscales is None else wcscales.stride()),
            UNSIGNED=act_unsigned,
            HAS_LORA=lora_act is not None,
            HAS_BIAS=bias is not None,
            HAS_WCSCALES=wcscales is not None,
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            BAND=tiling.band,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            enable_fp_fusion=True,
            maxnreg=MAX_REGISTERS,
        )
    return y


@_svdq_gemm_w4a4.register_fake
def _fake_svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    check_gemm(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, configs=CONFIGS,
    )  # fmt: skip
    return ascales.new_empty((codes.shape[0], wcodes.shape[0]), dtype=out_dtype)


@kernel(
    "svdq_gemm_w4a4",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::svdq_gemm_w4a4_triton",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",  # the low-rank branch does; sums of codes are exact
    layouts=("contiguous", "rows", "offset", "strided", "transposed", "expanded"),
    instructions={
        "sm8x,sm103,sm12x": r"\bIMMA\.",  # sm103 has tcgen05, but not for int8
        "sm90": r"\bIG?MMA\.",  # warp-group products need 64 rows
        "sm100": r"\b(UTC)?IMMA\b",  # so do those of tensor memory
    },
)
def svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    *,
    lora_act: Tensor | None = None,
    lora_up: Tensor | None = None,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    wcscales: Tensor | None = None,
    act_unsigned: bool = False,
    out_dtype: torch.dtype | None = None,
    config: str | None = None,
) -> Tensor:
    """``alpha * dequant(codes) @ dequant(wcodes)^T * wcscales + bias + lora_act @ lora_up^T``.

    ``codes [m, k/2]`` and ``wcodes [n, k/2]`` are uint8, two signed int4 a byte, even k low (the
    activations 0..15 if ``act_unsigned``). ``ascales [k/64, m]`` and ``wscales [k/64, n]`` are
    float16 or bfloat16, and ``lora_up [n, r]``, ``bias [n]`` and ``wcscales [n]`` are of the same
    dtype; ``lora_act [m, r]`` is float32. Any strides. Returns contiguous ``[m, n]`` in
    ``out_dtype``, or the dtype of the scales if None; float16 saturates at +-65504. ``config``
    names a tiling of ``CONFIGS``; None leaves the choice to ``choose_config``. Raises TypeError for
    a dtype, ValueError for a shape, device or value, UnsupportedArch before sm80.
    """
    contract.require_tensors(codes=codes, wcodes=wcodes, ascales=ascales, wscales=wscales)
    optional = {"lora_act": lora_act, "lora_up": lora_up, "bias": bias, "wcscales": wcscales}
    contract.require_tensors(**{name: t for name, t in optional.items() if t is not None})
    check_gemm(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, configs=CONFIGS,
    )  # fmt: skip
    y: Tensor = _svdq_gemm_w4a4(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    return y
