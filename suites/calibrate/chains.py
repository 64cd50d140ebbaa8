"""Plain matrix products in Triton: one chain of matrix instructions over all of K, four tilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness import device


@dataclass(frozen=True)
class Tiling:
    """Rows and columns of an output tile, terms a step, warps."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int


TILINGS: Final = {
    "m64n64k16": Tiling(block_m=64, block_n=64, block_k=16, num_warps=4),
    "m64n64k64": Tiling(block_m=64, block_n=64, block_k=64, num_warps=4),
    "m16n128k128": Tiling(block_m=16, block_n=128, block_k=128, num_warps=4),
    "m128n64k32": Tiling(block_m=128, block_n=64, block_k=32, num_warps=8),
}


@triton.jit
def _chain_kernel(
    a,
    b,
    y,
    m,
    n,
    k,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < m
    col_ok = cols < n
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        ks = start + tl.arange(0, BLOCK_K)
        k_ok = ks < k
        left = tl.load(
            a + rows[:, None] * k + ks[None, :], mask=row_ok[:, None] & k_ok[None, :], other=0.0
        )
        right = tl.load(
            b + ks[:, None] * n + cols[None, :], mask=k_ok[:, None] & col_ok[None, :], other=0.0
        )
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    tl.store(y + rows[:, None] * n + cols[None, :], acc, mask=row_ok[:, None] & col_ok[None, :])


def one_chain(a: Tensor, b: Tensor, tiling: Tiling) -> Tensor:
    """``a [m, k] @ b [k, n]``, contiguous, as float32; float32 operands are multiplied as such."""
    (m, k), n = a.shape, b.shape[1]
    y = torch.empty((m, n), dtype=torch.float32, device=a.device)
    with device.on(a.device):
        _chain_kernel[(triton.cdiv(m, tiling.block_m), triton.cdiv(n, tiling.block_n))](
            a,
            b,
            y,
            m,
            n,
            k,
            PRECISION="ieee" if a.dtype == torch.float32 else "tf32",
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            BLOCK_K=tiling.block_k,
            num_warps=tiling.num_warps,
        )
    return y
