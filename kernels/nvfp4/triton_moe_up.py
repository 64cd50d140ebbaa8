"""The first half of NVFP4's mixture of experts in Triton: gate and up, SiLU, and NVFP4 again.

Routing: slots (a token and one of its experts) are sorted by expert on the device, nothing is read
by the host. A program owns a tile: up to ``block_m`` slots of one expert by ``block_n`` columns of
the intermediate. There are as many programs as the worst routing needs tiles; those beyond the last
return at once, as does all that an empty expert would have. Nothing is added across programs, so
the bits do not depend on their order.

Tiling: a program walks all of k in steps of ``block_k`` for two tiles of weights, gate and up of
the same columns, dequantized to fp16 as in `kernels.nvfp4.triton_gemm`: exactly.

Layout: codes ``[m, k/2]`` and ``[e, 2 i, k/2]``, any strides; the scales of each expert in tiles of
their own. Rows of what is stored are slots, ``token * t + j``, wherever they were sorted to.
Offsets are 64 bit.

Order of operations: both products accumulate in fp32 on tensor cores; ``* 2^16 * alpha`` each; then
``gate / (1 + exp(-gate)) * up``, in fp32; one rounding to the intermediate's dtype, to infinity
where it overflows; the recipe of `kernels.nvfp4.triton_quantize`.
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
from kernels.nvfp4.moe_arguments import check_ids, check_up
from kernels.nvfp4.scale_layout import COLUMNS, ROWS, padded_shape
from kernels.nvfp4.triton_gemm import (
    _OCTETS,
    _TO_VALUE,
    MAX_REGISTERS,
    _decode_scales,
    _even,
    _odd,
    _places,
)
from kernels.nvfp4.triton_quantize import _quantize

_BLOCK = tl.constexpr(BLOCK)
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)


@dataclass(frozen=True)
class Config:
    """A tiling: slots and columns of a tile, k a step, warps, stages."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


CONFIGS: Final = {
    "m16i64": Config(block_m=16, block_n=64, block_k=64, num_warps=4, num_stages=4),
    "m64i32": Config(block_m=64, block_n=32, block_k=64, num_warps=4, num_stages=4),
}


def choose_config(slots: int, experts: int) -> tuple[str, str]:
    """The name of the default tiling for so many slots and experts, and why."""
    rows = triton.cdiv(slots, experts)
    if rows <= 16:
        return "m16i64", f"{rows} slots an expert fit one tile row; narrow tiles occupy the GPU"
    return "m64i32", f"{rows} slots an expert share its weights, 64 at a time"


@dataclass(frozen=True)
class Routing:
    """Slots by expert, and tiles of up to ``block_m`` of them; all on the device.

    ``slots [m t]`` are sorted by expert; those of expert e begin at ``starts[e]`` and end before
    ``starts[e + 1]``, and its tiles begin at ``firsts[e]``. ``experts [tiles]`` is whose each tile
    is; e for one beyond the last. A slot whose id is out of range is in no tile.
    """

    slots: Tensor
    starts: Tensor
    firsts: Tensor
    experts: Tensor

    @property
    def tiles(self) -> int:
        """How many tiles the worst routing has."""
        return self.experts.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a kernel is given, in the order of `_tile_of`."""
        return self.slots, self.starts, self.firsts, self.experts


def route(topk_ids: Tensor, experts: int, block_m: int) -> Routing:
    """Sort the slots of ``topk_ids [m, t]``; no step waits for the device."""
    ids, slots = torch.sort(topk_ids.reshape(-1), stable=True)
    bounds = torch.arange(experts + 1, dtype=ids.dtype, device=ids.device)
    starts = torch.searchsorted(ids, bounds)
    tiles = (starts[1:] - starts[:-1] + (block_m - 1)) // block_m
    ends = tiles.cumsum(0)
    # Each expert has one tile that is not full, if it has any slot.
    whole = max(0, ids.numel() - experts) // block_m
    numbers = torch.arange(min(ids.numel(), experts) + whole, device=ids.device)
    return Routing(slots, starts, ends - tiles, torch.searchsorted(ends, numbers, right=True))


@triton.jit
def _tile_of(slots, starts, firsts, expert, tile, BLOCK_M: tl.constexpr):
    """The slots of a tile of ``expert``, and which of them there are."""
    begin = tl.load(starts + expert) + (tile - tl.load(firsts + expert)) * BLOCK_M
    places = begin + tl.arange(0, BLOCK_M)
    ok = places < tl.load(starts + expert + 1)
    return tl.load(slots + places, mask=ok, other=0), ok


# What differs from call to call would be compiled again and again.
@triton.jit(do_not_specialize=["e", "t", "tiles", "wide", "next_wide"])
def _moe_up_kernel(
    codes,
    wcodes,
    ascales,
    wscales,
    slots,
    starts,
    firsts,
    experts,
    alphas,
    next_global_encode_scale,
    next_codes,
    next_scales,
    e,
    t,
    i,
    octets,
    tiles,
    wide,
    next_wide,
    codes_row,
    codes_col,
    wcodes_expert,
    wcodes_row,
    wcodes_col,
    wscales_expert,
    FP16: tl.constexpr,
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
    rows = slot // t
    cols = column * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = cols < i
    lanes = tl.arange(0, BLOCK_K // 2).to(tl.int64)
    blocks = tl.arange(0, BLOCK_K // 2 // _OCTETS).to(tl.int64)
    in_tile = blocks // _COLUMNS * (_ROWS * _COLUMNS) + blocks % _COLUMNS
    codes_ptrs = codes + (rows * codes_row)[:, None] + (lanes * codes_col)[None, :]
    ascales_ptrs = ascales + _places(rows, wide)[:, None] + in_tile[None, :]
    weights = wcodes + expert * wcodes_expert + (lanes * wcodes_col)[None, :]
    gates_ptrs = weights + (cols * wcodes_row)[:, None]
    ups_ptrs = weights + ((cols + i) * wcodes_row)[:, None]
    scales = wscales + expert * wscales_expert + in_tile[None, :]
    gate_scales_ptrs = scales + _places(cols, wide)[:, None]
    up_scales_ptrs = scales + _places(cols + i, wide)[:, None]
    gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, octets, BLOCK_K // 2):
        at = tl.cast(start, tl.int64)
        lane_ok = (lanes < octets - at)[None, :]
        block_ok = (blocks < (octets - at) // _OCTETS)[None, :]
        row_lanes = row_ok[:, None] & lane_ok
        col_lanes = col_ok[:, None] & lane_ok
        acts = tl.load(codes_ptrs + at * codes_col, mask=row_lanes, other=0)
        gates = tl.load(gates_ptrs + at * wcodes_col, mask=col_lanes, other=0)
        ups = tl.load(ups_ptrs + at * wcodes_col, mask=col_lanes, other=0)
        # A step begins at a multiple of 4 blocks, which is where a tile of scales begins.
        step = at // (_OCTETS * _COLUMNS) * (_ROWS * _COLUMNS)
        col_blocks = col_ok[:, None] & block_ok
        ascale = tl.load(ascales_ptrs + step, mask=row_ok[:, None] & block_ok, other=0)
        gate_scale = tl.load(gate_scales_ptrs + step, mask=col_blocks, other=0)
        up_scale = tl.load(up_scales_ptrs + step, mask=col_blocks, other=0)
        ascale = _decode_scales(ascale)
        gate_scale = _decode_scales(gate_scale)
        up_scale = _decode_scales(up_scale)
        even = _even(acts, ascale)
        gate = tl.dot(even, tl.trans(_even(gates, gate_scale)), gate)
        up = tl.dot(even, tl.trans(_even(ups, up_scale)), up)
        odd = _odd(acts, ascale)
        gate = tl.dot(odd, tl.trans(_odd(gates, gate_scale)), gate)
        up = tl.dot(odd, tl.trans(_odd(ups, up_scale)), up)
    gate = gate * _TO_VALUE * tl.load(alphas + expert * 2)
    up = up * _TO_VALUE * tl.load(alphas + expert * 2 + 1)
    y = gate / (1.0 + tl.exp(-gate)) * up
    y = y.to(tl.float16).to(tl.float32) if FP16 else y.to(tl.bfloat16).to(tl.float32)
    values = tl.reshape(y, (BLOCK_M, BLOCK_N // _BLOCK, _BLOCK))
    packed, scale = _quantize(values, tl.load(next_global_encode_scale + expert))
    next_octets = column * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    tl.store(
        next_codes + (slot * (i // 2))[:, None] + next_octets[None, :],
        packed.to(tl.uint8),
        mask=row_ok[:, None] & (next_octets * 2 < i)[None, :],
    )
    next_blocks = column * (BLOCK_N // _BLOCK) + tl.arange(0, BLOCK_N // _BLOCK)
    of_block = next_blocks // _COLUMNS * (_ROWS * _COLUMNS) + next_blocks % _COLUMNS
    tl.store(
        next_scales + _places(slot, next_wide)[:, None] + of_block[None, :],
        scale.to(tl.uint8),
        mask=row_ok[:, None] & (next_blocks * _BLOCK < i)[None, :],
    )


@torch.library.custom_op("kernel_parity::nvfp4_moe_up_triton", mutates_args=())
def _nvfp4_moe_up(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    alphas: Tensor,
    next_global_encode_scale: Tensor,
    intermediate_dtype: torch.dtype,
    read_ids: bool,  # noqa: FBT001 - an operator's schema
    config: str | None,
) -> tuple[Tensor, Tensor]:
    check_up(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        alphas,
        next_global_encode_scale,
        intermediate_dtype,
        config,
        configs=CONFIGS,
    )
    device.require_arch(codes.device, ARCH)
    (e, rows), octets, (m, t) = wcodes.shape[:2], codes.shape[1], topk_ids.shape
    if read_ids:
        check_ids(topk_ids, e)
    i = rows // 2
    # Zeros are the padding of scales, and what an expert that there is not makes of its slots.
    next_codes = torch.zeros((m, t, i // 2), dtype=torch.uint8, device=codes.device)
    shape = padded_shape(m * t, i // BLOCK)
    next_scales = torch.zeros(shape, dtype=torch.uint8, device=codes.device)
    if m == 0:
        return next_codes, next_scales.view(SCALE_DTYPE)
    tiling = CONFIGS[config or choose_config(m * t, e)[0]]
    routing = route(topk_ids, e, tiling.block_m)
    with device.on(codes.device):
        _moe_up_kernel[(routing.tiles * triton.cdiv(i, tiling.block_n),)](
            codes,
            wcodes,
            ascales.view(torch.uint8),  # sm80 has no E4M3
            wscales.view(torch.uint8),
            *routing.tensors,
            alphas,
            next_global_encode_scale,
            next_codes,
            next_scales,
            e,
            t,
            i,
            octets,
            routing.tiles,
            ascales.shape[1],
            next_scales.shape[1],
            *codes.stride(),
            *wcodes.stride(),
            wscales.stride(0),
            FP16=intermediate_dtype is torch.float16,
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            BLOCK_K=tiling.block_k,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            enable_fp_fusion=False,
            maxnreg=MAX_REGISTERS,
        )
    return next_codes, next_scales.view(SCALE_DTYPE)


@_nvfp4_moe_up.register_fake
def _fake_nvfp4_moe_up(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    alphas: Tensor,
    next_global_encode_scale: Tensor,
    intermediate_dtype: torch.dtype,
    read_ids: bool,  # noqa: FBT001 - an operator's schema
    config: str | None,
) -> tuple[Tensor, Tensor]:
    del read_ids
    check_up(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        alphas,
        next_global_encode_scale,
        intermediate_dtype,
        config,
        configs=CONFIGS,
    )
    (m, t), i = topk_ids.shape, wcodes.shape[1] // 2
    return (
        codes.new_empty((m, t, i // 2)),
        codes.new_empty(padded_shape(m * t, i // BLOCK), dtype=SCALE_DTYPE),
    )


@kernel(
    "nvfp4_moe_up",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_moe_up_triton",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "offset"),
    instructions={
        "sm8x,sm12x": r"\bHMMA\.",
        "sm90": r"\bHG?MMA\.",  # warp-group products need 64 rows
        "sm10x": r"\b(UTC)?HMMA\b",  # so do those of tensor memory
    },
)
def nvfp4_moe_up(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    alphas: Tensor,
    next_global_encode_scale: Tensor,
    *,
    intermediate_dtype: torch.dtype = torch.bfloat16,
    read_ids: bool = True,
    config: str | None = None,
) -> tuple[Tensor, Tensor]:
    """NVFP4 of ``half(silu(gate) * up)`` for every slot, a token and one of its experts.

    ``codes [m, k/2]`` and ``wcodes [e, 2 i, k/2]`` are uint8, two E2M1 numbers a byte, even k low,
    any strides; of an expert's rows the first i are gate, the others up. ``ascales`` and
    ``wscales`` are float8_e4m3fn in the layout 128x4 and contiguous: ``[m, k/16]`` and ``[e, 2 i,
    k/16]`` padded to multiples of 128 and 4, each expert for itself. ``topk_ids [m, t]`` is int32
    or int64. ``alphas [e, 2]`` are float32, ``1 / (g_a * g_gate)`` and ``1 / (g_a * g_up)``;
    ``next_global_encode_scale [e]`` is what each expert's result is quantized with.

    Returns ``next_codes`` uint8 ``[m, t, i/2]`` and ``next_scales`` ``[m t, i/16]`` in the layout
    128x4, its rows being the slots ``token * t + j``, padded with zeros. ``silu(gate) * up`` is
    rounded to ``intermediate_dtype`` first. ``config`` names a tiling of ``CONFIGS``; None leaves
    the choice to ``choose_config``.

    Ids are read before the launch to refuse one that is out of range: the host waits for the
    device. Who knows them to be in range says ``read_ids=False``. Unread, or in the capture of a
    CUDA graph, such a slot gets codes and scales of zero, and no memory outside is touched.

    Raises TypeError for a dtype, ValueError for a shape, strides of scales, a device, a value or an
    id, UnsupportedArch before sm80.
    """
    contract.require_tensors(
        codes=codes,
        wcodes=wcodes,
        ascales=ascales,
        wscales=wscales,
        topk_ids=topk_ids,
        alphas=alphas,
        next_global_encode_scale=next_global_encode_scale,
    )
    contract.require_flag("read_ids", read_ids)
    check_up(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        alphas,
        next_global_encode_scale,
        intermediate_dtype,
        config,
        configs=CONFIGS,
    )
    made: tuple[Tensor, Tensor] = _nvfp4_moe_up(
        codes,
        wcodes,
        ascales,
        wscales,
        topk_ids,
        alphas,
        next_global_encode_scale,
        intermediate_dtype,
        read_ids,
        config,
    )
    return made
