"""SVDQuant's activation quantizer with the low-rank down projection, in Triton.

Tiling: a program owns ``block_m`` rows and walks all of k in steps of ``groups`` groups of 64, so
that every output has one owner and nothing is added atomically. A second grid axis splits a rank
above ``block_r``; only its first program stores codes and scales.

Layout: any strides of the inputs. Codes lie two a byte, even k in the low nibble, ``[m, k/2]``;
scales lie group first, ``[k/64, m]``; ``lora_act [m, r]`` is float32. Offsets are 64 bit.

Order of operations, a step: ``acc += x_tile @ lora_down_tile`` on tensor cores (fp32 accumulators);
``xs = half_t(x / smooth)``; ``amax = max|xs|`` of the group; ``s = amax / 7``;
``code = rint(xs / s)``, half to even, kept in [-7, 7], NaN to 0; ``s`` is stored as half_t. Both
divisions are IEEE divisions in fp32: a multiplication by a reciprocal gives other codes.
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
from kernels.svdq.quantize_arguments import check_quantize

# Left alone, ptxas may spill around the slow path of a division, a call, to reach a rounder count.
MAX_REGISTERS: Final = 255
_GROUP = tl.constexpr(GROUP)
_ROUND = tl.constexpr(1.5 * 2.0**23)  # added and taken away: rounds to integer, half to even


@dataclass(frozen=True)
class Config:
    """A tiling: rows, groups a step, ranks a program at most, warps, pipeline stages."""

    block_m: int
    groups: int
    block_r: int
    num_warps: int
    num_stages: int


CONFIGS: Final = {
    "m16_g1_r64": Config(block_m=16, groups=1, block_r=64, num_warps=4, num_stages=4),
    "m16_g2_r128": Config(block_m=16, groups=2, block_r=128, num_warps=8, num_stages=3),
    "m32_g1_r128": Config(block_m=32, groups=1, block_r=128, num_warps=4, num_stages=3),
    "m64_g1_r128": Config(block_m=64, groups=1, block_r=128, num_warps=8, num_stages=2),
    "m64_g1_r256": Config(block_m=64, groups=1, block_r=256, num_warps=8, num_stages=2),
}


def choose_config(m: int, r: int) -> tuple[str, str]:
    """The name of the default tiling for ``m`` rows and rank ``r``, and why."""
    if r > 128:
        return "m64_g1_r256", f"r={r} fits one program of 256 ranks: x is quantized once"
    if m >= 8192:
        return "m64_g1_r128", f"m={m} makes enough tiles of 64 rows to fill any GPU"
    if r > 64:
        return "m32_g1_r128", f"r={r} fits 128 ranks; m={m} needs small tiles to occupy the GPU"
    return "m16_g1_r64", f"r={r} fits 64 ranks; m={m} needs the smallest tiles to occupy the GPU"


@triton.jit
def _quantize_kernel(
    x,
    lora_down,
    smooth,
    codes,
    ascales,
    lora_act,
    m,
    k,
    r,
    x_row,
    x_col,
    down_row,
    down_col,
    smooth_col,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    GROUPS: tl.constexpr,
):
    half_t: tl.constexpr = ascales.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    ranks = tl.program_id(1).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_ok = rows < m
    rank_ok = ranks < r
    stores = rows < tl.where(tl.program_id(1) == 0, m, 0)
    acc = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for start in range(0, k, GROUPS * _GROUP):
        ks = (start + tl.arange(0, GROUPS * _GROUP)).to(tl.int64)
        k_ok = ks < k
        tile = tl.load(
            x + (rows * x_row)[:, None] + (ks * x_col)[None, :],
            mask=row_ok[:, None] & k_ok[None, :],
            other=0.0,
        )
        down = tl.load(
            lora_down + (ks * down_row)[:, None] + (ranks * down_col)[None, :],
            mask=k_ok[:, None] & rank_ok[None, :],
            other=0.0,
        )
        acc = tl.dot(tile, down, acc)

        divisor = tl.load(smooth + ks * smooth_col, mask=k_ok, other=1.0).to(tl.float32)
        divisor = tl.broadcast_to(divisor[None, :], (BLOCK_M, GROUPS * _GROUP))
        smoothed = tl.div_rn(tile.to(tl.float32), divisor).to(half_t).to(tl.float32)
        smoothed = tl.reshape(smoothed, (BLOCK_M, GROUPS, _GROUP))
        # The bits of |xs| order as integers, NaN above infinity: a NaN reaches the scale, where a
        # floating-point maximum would drop it.
        bits = tl.abs(smoothed).to(tl.int32, bitcast=True)
        scale = tl.div_rn(tl.max(bits, axis=2).to(tl.float32, bitcast=True), 7.0)
        group = tl.arange(0, GROUPS).to(tl.int64) + start // _GROUP
        tl.store(
            ascales + group[None, :] * m + rows[:, None],
            scale.to(half_t),
            mask=stores[:, None] & (group * _GROUP < k)[None, :],
        )

        divisor = tl.broadcast_to(scale[:, :, None], (BLOCK_M, GROUPS, _GROUP))
        quotient = tl.div_rn(smoothed, tl.where(divisor == 0, 1.0, divisor))
        rounded = tl.where(quotient == quotient, (quotient + _ROUND) - _ROUND, 0.0)
        code = tl.minimum(tl.maximum(rounded.to(tl.int32), -7), 7) & 0xF
        even, odd = tl.split(tl.reshape(code, (BLOCK_M, GROUPS * _GROUP // 2, 2)))
        byte = (start // 2 + tl.arange(0, GROUPS * _GROUP // 2)).to(tl.int64)
        tl.store(
            codes + (rows * (k // 2))[:, None] + byte[None, :],
            (even | (odd << 4)).to(tl.uint8),
            mask=stores[:, None] & (byte * 2 < k)[None, :],
        )
    tl.store(
        lora_act + (rows * r)[:, None] + ranks[None, :],
        acc,
        mask=row_ok[:, None] & rank_ok[None, :],
    )


@torch.library.custom_op("kernel_parity::svdq_quantize_w4a4_act_fuse_lora_triton", mutates_args=())
def _svdq_quantize_w4a4_act_fuse_lora(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, config: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    check_quantize(x, lora_down, smooth, precision, config, configs=CONFIGS)
    device.require_arch(x.device, ARCH)
    (m, k), r = x.shape, lora_down.shape[1]
    codes = torch.empty((m, k // 2), dtype=torch.uint8, device=x.device)
    ascales = torch.empty((k // GROUP, m), dtype=x.dtype, device=x.device)
    lora_act = torch.empty((m, r), dtype=torch.float32, device=x.device)
    if m == 0:
        return codes, ascales, lora_act
    tiling = CONFIGS[config or choose_config(m, r)[0]]
    block_r = min(triton.next_power_of_2(r), tiling.block_r)
    with device.on(x.device):
        _quantize_kernel[(triton.cdiv(m, tiling.block_m), triton.cdiv(r, block_r))](
            x,
            lora_down,
            smooth,
            codes,
            ascales,
            lora_act,
            m,
            k,
            r,
            *x.stride(),
            *lora_down.stride(),
            *smooth.stride(),
            BLOCK_M=tiling.block_m,
            BLOCK_R=block_r,
            GROUPS=tiling.groups,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            enable_fp_fusion=False,
            maxnreg=MAX_REGISTERS,
        )
    return codes, ascales, lora_act


@_svdq_quantize_w4a4_act_fuse_lora.register_fake
def _fake_svdq_quantize_w4a4_act_fuse_lora(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, config: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    check_quantize(x, lora_down, smooth, precision, config, configs=CONFIGS)
    m, k = x.shape
    return (
        x.new_empty((m, k // 2), dtype=torch.uint8),
        x.new_empty((k // GROUP, m)),
        x.new_empty((m, lora_down.shape[1]), dtype=torch.float32),
    )


@kernel(
    "svdq_quantize_w4a4_act_fuse_lora",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::svdq_quantize_w4a4_act_fuse_lora_triton",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "rows", "offset", "strided", "transposed", "expanded"),
    instructions={
        "sm8x,sm12x": r"\bHMMA\.",
        "sm90": r"\bHG?MMA\.",  # warp-group products need 64 rows
        "sm10x": r"\b(UTC)?HMMA\b",  # so do those of tensor memory
    },
)
def svdq_quantize_w4a4_act_fuse_lora(
    x: Tensor,
    lora_down: Tensor,
    smooth: Tensor,
    *,
    precision: str = "int4",
    config: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize ``x [m, k]`` by groups of 64 after ``/ smooth [k]``; ``x @ lora_down [k, r]``.

    Inputs float16 or bfloat16, any strides. Returns ``codes`` uint8 ``[m, k/2]`` (signed int4, even
    k in the low nibble), ``ascales [k/64, m]`` in the dtype of ``x``, ``lora_act`` float32
    ``[m, r]``. ``config`` names a tiling of ``CONFIGS``; None leaves the choice to
    ``choose_config``. Raises TypeError for a dtype, ValueError for a shape, device or value,
    NotImplementedError for another precision, UnsupportedArch before sm80.
    """
    contract.require_tensors(x=x, lora_down=lora_down, smooth=smooth)
    check_quantize(x, lora_down, smooth, precision, config, configs=CONFIGS)
    quantized: tuple[Tensor, Tensor, Tensor] = _svdq_quantize_w4a4_act_fuse_lora(
        x, lora_down, smooth, precision, config
    )
    return quantized
