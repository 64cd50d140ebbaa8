"""RMSNorm in Triton.

Tiling: a program owns ``block_m`` whole rows and walks them in tiles of ``block_n`` columns. A row
that fits one tile is read once and stays in registers; a longer one is read twice, first for its
sum of squares, then to be scaled (the second read hits L2).

Layout: any strides of ``x`` and ``weight``; ``y`` is contiguous. Offsets are 64 bit.

Order of operations, in fp32: squares are summed per tile column over tiles, then across columns;
``r = rsqrt(sum / n + eps)``; ``y = (x * r) * weight``, rounded once to the dtype of ``x``.
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

ARCH: Final = ">=sm80"
DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
MAX_M: Final = 2**20
MAX_N: Final = 65536


@dataclass(frozen=True)
class Config:
    """A tiling: rows and columns of a tile, and the warps that share it."""

    block_m: int
    block_n: int
    num_warps: int


CONFIGS: Final = {
    "rows16_64": Config(block_m=16, block_n=64, num_warps=4),
    "rows4_256": Config(block_m=4, block_n=256, num_warps=4),
    "row_1024": Config(block_m=1, block_n=1024, num_warps=4),
    "row_4096": Config(block_m=1, block_n=4096, num_warps=8),
    "row_16384": Config(block_m=1, block_n=16384, num_warps=16),
}


def choose_config(n: int) -> tuple[str, str]:
    """The name of the default tiling for rows of ``n``, and why."""
    for name, config in CONFIGS.items():
        if n <= config.block_n:
            return name, f"the narrowest tile that holds a row of n={n}, so that it is read once"
    return "row_4096", f"n={n} exceeds every tile: read twice, in tiles small enough to overlap"


@triton.jit
def _rms_norm_kernel(
    x,
    weight,
    y,
    m,
    n,
    x_row,
    x_col,
    weight_col,
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = (rows < m)[:, None]
    lanes = tl.arange(0, BLOCK_N)
    x_rows = x + (rows * x_row)[:, None]
    y_rows = y + (rows * n)[:, None]
    if RESIDENT:
        col_ok = lanes < n
        cols = lanes.to(tl.int64)
        tile = tl.load(x_rows + (cols * x_col)[None, :], mask=row_ok & col_ok[None, :], other=0.0)
        tile = tile.to(tl.float32)
        scale = tl.load(weight + cols * weight_col, mask=col_ok, other=0.0).to(tl.float32)
        mean = tl.div_rn(tl.sum(tile * tile, axis=1), n * 1.0)
        normal = tile * tl.rsqrt(mean + eps)[:, None]
        out = (normal * scale[None, :]).to(y.dtype.element_ty)
        tl.store(y_rows + cols[None, :], out, mask=row_ok & col_ok[None, :])
    else:
        squares = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, n, BLOCK_N):
            cols = (start + lanes).to(tl.int64)
            mask = row_ok & (cols < n)[None, :]
            tile = tl.load(x_rows + (cols * x_col)[None, :], mask=mask, other=0.0).to(tl.float32)
            squares += tile * tile
        mean = tl.div_rn(tl.sum(squares, axis=1), n * 1.0)
        inverse = tl.rsqrt(mean + eps)[:, None]
        for start in range(0, n, BLOCK_N):
            cols = (start + lanes).to(tl.int64)
            mask = row_ok & (cols < n)[None, :]
            tile = tl.load(x_rows + (cols * x_col)[None, :], mask=mask, other=0.0).to(tl.float32)
            scale = tl.load(weight + cols * weight_col, mask=cols < n, other=0.0).to(tl.float32)
            out = (tile * inverse * scale[None, :]).to(y.dtype.element_ty)
            tl.store(y_rows + cols[None, :], out, mask=mask)


def _check(x: Tensor, weight: Tensor, eps: float, config: str | None) -> None:
    contract.require_dtype("x", x, DTYPES)
    contract.require_dtype("weight", weight, (x.dtype,))
    contract.require_shape("x", x, ("m", "n"))
    m, n = x.shape
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("n", n, min=1, max=MAX_N)
    contract.require_shape("weight", weight, ("n",), n=n)
    contract.require_one_device(x=x, weight=weight)
    contract.require_positive("eps", eps)
    contract.require_config(config, CONFIGS)


@torch.library.custom_op("kernel_parity::rms_norm_triton", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float, config: str | None) -> Tensor:
    _check(x, weight, eps, config)
    device.require_arch(x.device, ARCH)
    m, n = x.shape
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m == 0:
        return y
    tiling = CONFIGS[config or choose_config(n)[0]]
    with device.on(x.device):
        _rms_norm_kernel[(triton.cdiv(m, tiling.block_m),)](
            x,
            weight,
            y,
            m,
            n,
            *x.stride(),
            *weight.stride(),
            eps,
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            RESIDENT=n <= tiling.block_n,
            num_warps=tiling.num_warps,
            enable_fp_fusion=True,
        )
    return y


@_rms_norm.register_fake
def _fake_rms_norm(x: Tensor, weight: Tensor, eps: float, config: str | None) -> Tensor:
    _check(x, weight, eps, config)
    return x.new_empty(x.shape)


@kernel(
    "rms_norm",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::rms_norm_triton",
    configs=tuple(CONFIGS),
    layouts=("contiguous", "rows", "offset", "strided", "transposed", "expanded"),
    instructions={">=sm80": r"MUFU\.RSQ"},
)
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, config: str | None = None) -> Tensor:
    """``x / sqrt(mean(x**2, dim=1) + eps) * weight`` of ``x [m, n]`` and ``weight [n]``.

    Both float32, float16 or bfloat16, with any strides; the result is contiguous. ``config`` names
    a tiling of ``CONFIGS``; None leaves the choice to ``choose_config``. Raises TypeError for a
    dtype, ValueError for a shape, device or value, UnsupportedArch before sm80.
    """
    contract.require_tensors(x=x, weight=weight)
    _check(x, weight, eps, config)
    y: Tensor = _rms_norm(x, weight, eps, config)
    return y
