"""The second half of NVFP4's mixture of experts in Triton: down, and the weighted sum over experts.

Two kernels. The first multiplies each slot (a token and one of its experts) with its expert's
weights: routing, tiles and exactness are those of `kernels.nvfp4.triton_moe_up`. It leaves fp32 in
a workspace ``[m t, h]``. The second adds the t results of each token in the order of its ids: no
atomics, so the bits depend on no order of programs.

Layout: codes ``[m, t, i/2]`` and ``[e, h, i/2]``, any strides; the scales of each expert in tiles
of their own; ``y`` is contiguous. Offsets are 64 bit.

Order of operations: products accumulate in fp32 on tensor cores; ``* 2^16 * alpha``; then, in fp32,
``+ weight * result`` for each expert; one rounding to the output dtype, to infinity where it
overflows.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness import device, kernel
from kernels import contract
from kernels.nvfp4.domain import ARCH
from kernels.nvfp4.moe_arguments import check_down, check_ids
from kernels.nvfp4.scale_layout import COLUMNS, ROWS
from kernels.nvfp4.triton_gemm import (
    _OCTETS,
    _TO_VALUE,
    MAX_REGISTERS,
    _decode_scales,
    _even,
    _odd,
    _places,
)
from kernels.nvfp4.triton_moe_up import Config, _tile_of, route

_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
COMBINED_ROWS: Final = 16  # tokens and columns of a program that adds
COMBINED_COLUMNS: Final = 128


CONFIGS: Final = {
    "m16h64": Config(block_m=16, block_n=64, block_k=64, num_warps=4, num_stages=4),
    "m64h64": Config(block_m=64, block_n=64, block_k=64, num_warps=4, num_stages=4),
}


def choose_config(slots: int, experts: int) -> tuple[str, str]:
    """The name of the default tiling for so many slots and experts, and why."""
    rows = triton.cdiv(slots, experts)
    if rows <= 16:
        return "m16h64", f"{rows} slots an expert fit one tile row; narrow tiles occupy the GPU"
    return "m64h64", f"{rows} slots an expert share its weights, 64 at a time"


# What differs from call to call would be compiled again and again.
@triton.jit(do_not_specialize=["e", "t", "tiles", "wide"])
def _moe_down_kernel(
    codes,
    wcodes,
    ascales,
    wscales,
    slots,
    starts,
    firsts,
    experts,
    alphas,
    parts,
    e,
    t,
    h,
    octets,
    tiles,
    wide,
    codes_token,
    codes_choice,
    codes_col,
    wcodes_expert,
    wcodes_row,
    wcodes_col,
    wscales_expert,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Tiles of one expert follow each other, so that programs that run together share weights.
    tile = tl.program_id(0) % tiles
    expert = tl.load(experts + tile)
    if expert >= e:
        return
    column = (tl.program_id(0) // tiles).to(tl.int64)
    slot, row_ok = _tile_of(slots, starts, firsts, expert, tile, BLOCK_M)
    cols = column * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = cols < h
    lanes = tl.arange(0, BLOCK_K // 2).to(tl.int64)
    blocks = tl.arange(0, BLOCK_K // 2 // _OCTETS).to(tl.int64)
    in_tile = blocks // _COLUMNS * (_ROWS * _COLUMNS) + blocks % _COLUMNS
    of_slot = slot // t * codes_token + slot % t * codes_choice
    codes_ptrs = codes + of_slot[:, None] + (lanes * codes_col)[None, :]
    ascales_ptrs = ascales + _places(slot, wide)[:, None] + in_tile[None, :]
    of_expert = wcodes + expert * wcodes_expert
    wcodes_ptrs = of_expert + (cols * wcodes_row)[:, None] + (lanes * wcodes_col)[None, :]
    scales = wscales + expert * wscales_expert
    wscales_ptrs = scales + _places(cols, wide)[:, None] + in_tile[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, octets, BLOCK_K // 2):
        at = tl.cast(start, tl.int64)
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
    tl.store(
        parts + (slot * h)[:, None] + cols[None, :],
        acc * _TO_VALUE * tl.load(alphas + expert),
        mask=row_ok[:, None] & col_ok[None, :],
    )


@triton.jit(do_not_specialize=["m", "e", "t"])
def _moe_combine_kernel(
    parts,
    ids,
    weights,
    y,
    m,
    e,
    t,
    h,
    ids_row,
    ids_col,
    weights_row,
    weights_col,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column_tiles = tl.cdiv(h, BLOCK_N)
    pid = tl.program_id(0)
    rows = (pid // column_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (pid % column_tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < m
    ok = row_ok[:, None] & (cols < h)[None, :]
    out = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for choice in range(t):
        expert = tl.load(ids + rows * ids_row + choice * ids_col, mask=row_ok, other=0)
        known = ((expert >= 0) & (expert < e))[:, None]
        weight = tl.load(weights + rows * weights_row + choice * weights_col, mask=row_ok, other=0)
        of_slot = ((rows * t + choice) * h)[:, None]
        # Nothing was stored for an expert that there is not.
        part = tl.load(parts + of_slot + cols[None, :], mask=ok & known, other=float("nan"))
        out += weight[:, None] * part
    tl.store(y + (rows * h)[:, None] + cols[None, :], out.to(y.dtype.element_ty), mask=ok)


@torch.library.custom_op("kernel_parity::nvfp4_moe_down_triton", mutates_args=())
def _nvfp4_moe_down(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    alphas: Tensor,
    out_dtype: torch.dtype,
    read_ids: bool,  # noqa: FBT001 - an operator's schema
    config: str | None,
) -> Tensor:
    check_down(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        topk_weights,
        alphas,
        out_dtype,
        config,
        configs=CONFIGS,
    )
    device.require_arch(codes.device, ARCH)
    (e, h), (m, t, octets) = wcodes.shape[:2], codes.shape
    if read_ids:
        check_ids(topk_ids, e)
    y = torch.empty((m, h), dtype=out_dtype, device=codes.device)
    if m == 0:
        return y
    parts = torch.empty((m * t, h), dtype=torch.float32, device=codes.device)
    tiling = CONFIGS[config or choose_config(m * t, e)[0]]
    routing = route(topk_ids, e, tiling.block_m)
    combined = triton.cdiv(m, COMBINED_ROWS) * triton.cdiv(h, COMBINED_COLUMNS)
    with device.on(codes.device):
        _moe_down_kernel[(routing.tiles * triton.cdiv(h, tiling.block_n),)](
            codes,
            wcodes,
            ascales.view(torch.uint8),  # sm80 has no E4M3
            wscales.view(torch.uint8),
            *routing.tensors,
            alphas,
            parts,
            e,
            t,
            h,
            octets,
            routing.tiles,
            ascales.shape[1],
            *codes.stride(),
            *wcodes.stride(),
            wscales.stride(0),
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            BLOCK_K=tiling.block_k,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            enable_fp_fusion=True,
            maxnreg=MAX_REGISTERS,
        )
        _moe_combine_kernel[(combined,)](
            parts,
            topk_ids,
            topk_weights,
            y,
            m,
            e,
            t,
            h,
            *topk_ids.stride(),
            *topk_weights.stride(),
            BLOCK_M=COMBINED_ROWS,
            BLOCK_N=COMBINED_COLUMNS,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return y


@_nvfp4_moe_down.register_fake
def _fake_nvfp4_moe_down(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    alphas: Tensor,
    out_dtype: torch.dtype,
    read_ids: bool,  # noqa: FBT001 - an operator's schema
    config: str | None,
) -> Tensor:
    del read_ids
    check_down(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        topk_weights,
        alphas,
        out_dtype,
        config,
        configs=CONFIGS,
    )
    return codes.new_empty((codes.shape[0], wcodes.shape[1]), dtype=out_dtype)


@kernel(
    "nvfp4_moe_down",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_moe_down_triton",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "offset"),
    instructions={
        "sm8x,sm12x": r"\bHMMA\.",
        "sm90": r"\bHG?MMA\.",  # warp-group products need 64 rows
        "sm10x": r"\b(UTC)?HMMA\b",  # so do those of tensor memory
    },
)
def nvfp4_moe_down(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    alphas: Tensor,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    read_ids: bool = True,
    config: str | None = None,
) -> Tensor:
    """The weighted sum, over the t experts of each token, of their products with its slots.

    ``codes [m, t, i/2]`` and ``wcodes [e, h, i/2]`` are uint8, two E2M1 numbers a byte, even i low,
    any strides. ``ascales`` and ``wscales`` are float8_e4m3fn in the layout 128x4 and contiguous:
    ``[m t, i/16]``, its rows being the slots ``token * t + j``, and ``[e, h, i/16]``, padded to
    multiples of 128 and 4, each expert for itself. ``topk_ids [m, t]`` is int32 or int64,
    ``topk_weights [m, t]`` float32, both of any strides. ``alphas [e]`` are float32, ``1 / (g_a *
    g_w)``. Returns contiguous ``[m, h]`` in ``out_dtype``, float16 or bfloat16. ``config`` names a
    tiling of ``CONFIGS``; None leaves the choice to ``choose_config``.

    Ids are read before the launch to refuse one that is out of range: the host waits for the
    device. Who knows them to be in range says ``read_ids=False``. Unread, or in the capture of a
    CUDA graph, such an id makes the row of its token NaN, and no memory outside is touched.

    Raises TypeError for a dtype, ValueError for a shape, strides of scales, a device, a value or an
    id, UnsupportedArch before sm80.
    """
    contract.require_tensors(
        codes=codes,
        wcodes=wcodes,
        ascales=ascales,
        wscales=wscales,
        topk_ids=topk_ids,
        topk_weights=topk_weights,
        alphas=alphas,
    )
    contract.require_flag("read_ids", read_ids)
    check_down(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        topk_weights,
        alphas,
        out_dtype,
        config,
        configs=CONFIGS,
    )
    y: Tensor = _nvfp4_moe_down(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        topk_weights,
        alphas,
        out_dtype,
        read_ids,
        config,
    )
    return y
