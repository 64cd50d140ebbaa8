"""SiLU-and-multiply (SwiGLU's product) in Triton.

Tiling: a program owns one tile of ``block_m`` rows by ``block_n`` columns of the output; tiles are
numbered along rows first, on a grid of one axis (a second axis ends at 65,535 programs).

Layout: gate and up are the left and right half of each row of ``x [m, 2 n]``, which may have any
strides; ``y [m, n]`` is contiguous. Offsets are 64 bit.

Order of operations, in fp32, with ``h = exp(-|gate| / 2)``: for gate >= 0,
``(gate / (1 + h h)) * up``; else ``(gate h / (1 + h h)) * (h up)``, rounded once. Half the exponent
is taken because ``exp(-gate)`` overflows below -88, where silu is still a normal number.
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
    """A tiling: rows and columns of an output tile, and the warps that share it."""

    block_m: int
    block_n: int
    num_warps: int


CONFIGS: Final = {
    "rows16_64": Config(block_m=16, block_n=64, num_warps=4),
    "rows4_256": Config(block_m=4, block_n=256, num_warps=4),
    "row_1024": Config(block_m=1, block_n=1024, num_warps=4),
    "row_4096": Config(block_m=1, block_n=4096, num_warps=8),
}


def choose_config(m: int, n: int) -> tuple[str, str]:
    """The name of the default tiling for an output ``[m, n]``, and why."""
    if n <= 64:
        return "rows16_64", f"n={n} fits a tile of 64, so that 16 rows fill a program"
    if n <= 256:
        return "rows4_256", f"n={n} fits a tile of 256, so that 4 rows fill a program"
    if m * n >= 2**22:
        return "row_4096", f"m={m} times n={n} makes enough tiles of 4096 to fill any GPU"
    return "row_1024", f"m={m} times n={n} needs small tiles to occupy the GPU"


@triton.jit
def _silu_and_mul_kernel(
    x,
    y,
    m,
    n,
    x_row,
    x_col,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column_tiles = tl.cdiv(n, BLOCK_N)
    pid = tl.program_id(0)
    rows = (pid // column_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (pid % column_tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rows < m)[:, None] & (cols < n)[None, :]
    x_rows = x + (rows * x_row)[:, None]
    gate = tl.load(x_rows + (cols * x_col)[None, :], mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_rows + ((cols + n) * x_col)[None, :], mask=mask, other=0.0).to(tl.float32)
    half = tl.exp(tl.abs(gate) * -0.5)
    decay = tl.where(gate < 0, half, 1.0)
    out = (gate * decay) / (1.0 + half * half) * (decay * up)
    tl.store(y + (rows * n)[:, None] + cols[None, :], out.to(y.dtype.element_ty), mask=mask)


def _check(x: Tensor, config: str | None) -> None:
    contract.require_dtype("x", x, DTYPES)
    contract.require_shape("x", x, ("m", "2n"))
    contract.require_size("m", x.shape[0], max=MAX_M)
    contract.require_size("2n", x.shape[1], min=2, max=2 * MAX_N, multiple_of=2)
    contract.require_config(config, CONFIGS)


@torch.library.custom_op("kernel_parity::silu_and_mul_triton", mutates_args=())
def _silu_and_mul(x: Tensor, config: str | None) -> Tensor:
    _check(x, config)
    device.require_arch(x.device, ARCH)
    m, n = x.shape[0], x.shape[1] // 2
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m == 0:
        return y
    tiling = CONFIGS[config or choose_config(m, n)[0]]
    programs = triton.cdiv(m, tiling.block_m) * triton.cdiv(n, tiling.block_n)
    with device.on(x.device):
        _silu_and_mul_kernel[(programs,)](
            x,
            y,
            m,
            n,
            *x.stride(),
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            num_warps=tiling.num_warps,
            enable_fp_fusion=True,
        )
    return y


@_silu_and_mul.register_fake
def _fake_silu_and_mul(x: Tensor, config: str | None) -> Tensor:
    _check(x, config)
    return x.new_empty((x.shape[0], x.shape[1] // 2))


@kernel(
    "silu_and_mul",
    backend="triton",
    arch=ARCH,
    torch_op="kernel_parity::silu_and_mul_triton",
    configs=tuple(CONFIGS),
    layouts=("contiguous", "rows", "offset", "strided", "transposed", "expanded"),
    instructions={">=sm80": r"MUFU\.EX2"},
)
def silu_and_mul(x: Tensor, *, config: str | None = None) -> Tensor:
    """``silu(x[:, :n]) * x[:, n:]``, contiguous ``[m, n]``, of ``x [m, 2 n]`` with any strides.

    float32, float16 or bfloat16. ``config`` names a tiling of ``CONFIGS``; None leaves the choice
    to ``choose_config``. Raises TypeError for a dtype, ValueError for a shape or value,
    UnsupportedArch before sm80.
    """
    contract.require_tensors(x=x)
    _check(x, config)
    y: Tensor = _silu_and_mul(x, config)
    return y
