"""Small sources on which every rule of mutation has something to do."""

from __future__ import annotations

from typing import Final

DEVICE: Final = '''"""Docs say 7.0."""

import triton
import triton.language as tl

_ROUND = tl.constexpr(1.5 * 2.0**23)
_MAX = tl.constexpr(65504.0)


@triton.jit
def _low(packed):
    return (packed << 4).to(tl.int8, bitcast=True) >> 4


@triton.jit
def _high(packed):
    return packed.to(tl.int8, bitcast=True) >> 4


@triton.jit
def _kernel(
    x,
    w,
    y,
    codes,
    bias,
    m,
    n,
    alpha,
    eps,
    x_row,
    x_col,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    UNSIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(n, BLOCK_N)
    pid = tl.program_id(0)
    rows = (pid // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (pid % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = rows < m
    stores = rows < tl.where(tl.program_id(1) == 0, m, 0)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for group in range(n // 4):
        at = tl.cast(group, tl.int64)
        gate = tl.load(x + (rows * x_row)[:, None], mask=row_ok[:, None], other=0.0).to(tl.float32)
        up = tl.load(w + at * x_col, mask=row_ok[:, None], other=0.0).to(tl.float32)
        if UNSIGNED:
            even = (up & 0xF).to(tl.int8)
        else:
            even = _low(up)
        acc += gate * up
        acc = tl.dot(even, tl.trans(_high(up)), acc, input_precision="tf32x3")
    for start in range(0, n, BLOCK_N):
        acc += start
    mean = tl.div_rn(tl.sum(acc, axis=1), n * 1.0)
    normal = acc * tl.rsqrt(mean + eps)
    out = normal * alpha
    if HAS_SCALE:
        out = out * 3.0
    if HAS_BIAS:
        out += tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)
    half = tl.exp(tl.abs(out) * -0.5)
    decay = tl.where(out < 0, half, 1.0)
    decay = tl.where(decay > _MAX, _MAX, decay)
    bits = tl.abs(decay).to(tl.int32, bitcast=True)
    scale = tl.max(bits, axis=1).to(tl.float32, bitcast=True)
    rounded = (scale + _ROUND) - _ROUND
    code = tl.minimum(tl.maximum(rounded.to(tl.int32), -7), 7)
    tl.store(codes + cols, (code | (rounded << 4)).to(tl.uint8), mask=row_ok & (cols < n))
    tl.store(y + rows * n, scale.to(y.dtype.element_ty), mask=stores)
    tl.store(y + rows * n, scale * 2.0, mask=stores)
'''

HOST: Final = '''"""A wrapper."""

import torch
import triton
from torch import Tensor, nn

ARCH = ">=sm80"
DTYPES = (torch.float16, torch.bfloat16)
CONFIGS = {}


def choose_config(n: int) -> tuple[str, str]:
    return "wide", f"n={n} is wide"


@triton.jit
def _kernel(x, w, y, m, n, x_row, x_col, HAS_W: tl.constexpr, BLOCK_M: tl.constexpr):
    pass


def _check(x: Tensor, w: Tensor | None, v: Tensor | None, eps: float) -> None:
    if x is None and w is None:
        msg = "x=None"
        raise ValueError(msg)
    contract.require_dtype("w", w, (x.dtype,))
    contract.require_shape("x", x, ("m", "n"), n=x.shape[1])
    contract.require_size("n", x.shape[1], min=16, max=512, multiple_of=16)
    contract.require_one_device(x=x, w=w)


@torch.library.custom_op("ns::op", mutates_args=())
def _op(x: Tensor, z: Tensor, w: Tensor | None, v: Tensor | None, eps: float) -> Tensor:
    _check(x, w, v, eps)
    device.require_arch(x.device, ARCH)
    m, n = x.shape
    y = torch.empty((m, n // 2), dtype=x.dtype, device=x.device)
    s = torch.empty((m, n), dtype=torch.float32, device=x.device)
    if m == 0:
        return y, s
    tiling = CONFIGS[choose_config(n)[0]]
    programs = triton.cdiv(m, tiling.block_m) * triton.cdiv(n, tiling.block_n)
    with device.on(x.device):
        _kernel[(programs,)](
            x,
            z,
            y,
            m,
            n,
            eps,
            *x.stride(),
            *z.stride(),
            *((0, 0) if w is None else w.stride()),
            HAS_W=w is not None,
            WIDE=n <= tiling.block_n,
            BLOCK_M=tiling.block_m,
            BLOCK_N=tiling.block_n,
            num_warps=tiling.num_warps,
            enable_fp_fusion=False,
        )
    return y, s


@_op.register_fake
def _fake_op(x: Tensor, z: Tensor, w: Tensor | None, v: Tensor | None, eps: float) -> Tensor:
    _check(x, w, v, eps)
    return x.new_empty((x.shape[0], 3)), x.new_empty(x.shape, dtype=torch.float32)


@kernel("op", backend="triton", arch=ARCH)
def op(x: Tensor, z: Tensor, w=None, v=None, eps: float = 1e-6) -> Tensor:
    """Docs."""
    _check(x, w, v, eps)
    y = _op(x, z, w, v, eps)
    return y


class Layer(nn.Module):
    upper_scale: Tensor
    lower_scale: Tensor

    def __init__(self, n: int, *, eps: float = 1e-6) -> None:
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        from here import op

        return op(x.reshape(-1, 8), self.upper_scale, w=self.lower_scale).reshape(*x.shape[:-1], 8)


def _state(weight: Tensor, smooth: Tensor) -> Tensor:
    return weight * smooth.contiguous()
'''
