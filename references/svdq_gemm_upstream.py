"""What the original W4A4 GEMM's arithmetic gives: groups, scales and bias summed in 16 bits.

Read in nunchaku's ``src/kernels/zgemm`` (``gemm_base.cuh``, ``lora.cuh``, ``epilogues.cuh``) and in
the copy of it in cache-dit, 2026-08.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.upstream import round_once

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64
SOURCE = "nunchaku's zgemm, 16-bit accumulation"


def svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    wcscales: Tensor | None,
    alpha: float,
    act_unsigned: bool,
    out_dtype: torch.dtype | None,
    dtype: torch.dtype,
) -> Tensor | None:
    """Sums of groups in ``dtype``, as the original has them; None where it has no result.

    A group's integer dot product, rounded to ``dtype``, times the rounded product of its scales, is
    added to the sum by a fused multiply-add; then come wcscales and bias, with a rounding each. The
    low-rank product takes both factors in ``dtype``, sums on top of that in fp32 (by tensor
    cores, whose truncation of fp32 is left out), and is rounded again. fp16 saturates at the end.

    It aborts for ``alpha`` other than 1, and misreads its buffer for another ``out_dtype``. Its
    padding of m, n and k adds zeros and changes nothing.
    """
    if alpha != 1 or out_dtype not in {None, dtype}:
        return None

    def rounded(wide: Tensor) -> Tensor:
        return round_once(wide, dtype).double()

    acts, weights = _unpack(codes, signed=not act_unsigned), _unpack(wcodes, signed=True)
    total = torch.zeros(len(codes), len(wcodes), dtype=torch.float64, device=codes.device)
    for group, (a_scale, w_scale) in enumerate(zip(ascales, wscales, strict=True)):
        span = slice(group * GROUP, (group + 1) * GROUP)
        dots = rounded(acts[:, span] @ weights[:, span].T)
        scales = rounded(a_scale.double()[:, None] * w_scale.double())
        total = rounded(dots * scales + total)
    if wcscales is not None:
        total = rounded(total * wcscales.double())
    if bias is not None:
        total = rounded(total + bias.double())
    if lora_act is not None and lora_up is not None:
        low_rank = rounded(lora_act.double()) @ lora_up.double().T
        total = rounded((total + low_rank).float().double())
    if dtype is torch.float16:
        total = total.clamp(-65504, 65504)
    return total.to(dtype)


def _unpack(packed: Tensor, *, signed: bool) -> Tensor:
    """Two codes a byte, even k in the low nibble, as float64 integers."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1).double()
    return torch.where(nibbles > 7, nibbles - 16, nibbles) if signed else nibbles
