"""A dense weight into SVDQuant's parts: smoothing, low-rank factors, int4 residual.

The arithmetic is in float64 on the CPU. The factors and the smoothing *as stored* define the
residual, so nothing but the int4 step separates the parts from the weight: each element of the
smoothed weight is off by at most half its group's stored scale.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.svdq.state import GROUP

CODE_MAX = 7


def activation_span(activations: Tensor, in_features: int) -> Tensor:
    """Largest magnitude of each channel, float64 [K], of a sample [..., K] or of a span [K]."""
    if activations.ndim == 0 or activations.shape[-1] != in_features or activations.numel() == 0:
        msg = (
            f"activations.shape={tuple(activations.shape)!r} must be [{in_features}] (a span) or "
            f"[..., {in_features}] (a sample with at least one row)"
        )
        raise ValueError(msg)
    sample = activations.detach().to("cpu", torch.float64).abs()
    return sample.reshape(-1, in_features).amax(dim=0)


def smoothing(span: Tensor, weight: Tensor, *, alpha: float, dtype: torch.dtype) -> Tensor:
    """Return span^alpha / weight_span^(1 - alpha) in `dtype` [K], with 1 for zero and not finite.

    The rule looks at the stored number: 1e-9 is zero in float16, and x is divided by it.
    """
    if not 0.0 <= alpha <= 1.0:
        msg = f"smooth_alpha={alpha!r} must lie in [0, 1]: 0 follows the weight, 1 the activations"
        raise ValueError(msg)
    smooth = (span**alpha / weight.abs().amax(dim=0) ** (1.0 - alpha)).to(dtype)
    return torch.where(torch.isfinite(smooth) & (smooth != 0), smooth, torch.ones_like(smooth))


def low_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Down [K, R] and up [N, R] with up @ down^T the best of its rank to a float64 weight [N, K].

    The columns of `down` are orthonormal, `up` has the singular values; columns past min(N, K) are
    zeros. The largest entry of each column of `down` is positive: LAPACK leaves the sign open.

    By the eigenvectors of the smaller Gram matrix: ten times faster than a whole SVD. That costs
    half the digits of singular values below 1e-8 of the largest, which the residual takes up.
    """
    if weight.shape[0] < weight.shape[1]:
        left = _leading(weight @ weight.t(), rank)
        scaled = weight.t() @ left
        values = scaled.norm(dim=0)
        down, up = scaled / values.clamp_min(torch.finfo(weight.dtype).tiny), left * values
    else:
        down = _leading(weight.t() @ weight, rank)
        up = weight @ down
    peak = down.gather(0, down.abs().argmax(dim=0, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0).to(weight.dtype)
    surplus = (0, rank - down.shape[1])
    return pad(down * sign, surplus), pad(up * sign, surplus)


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Eigenvectors [n, min(rank, n)] of the largest eigenvalues, largest first."""
    ascending: Tensor = torch.linalg.eigh(gram).eigenvectors
    return ascending.flip(1)[:, :rank]


def stored(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` rounded to `dtype`; ValueError when the dtype cannot hold it."""
    rounded = value.to(dtype)
    if not torch.isfinite(rounded).all():
        worst = value.abs().max().item()
        msg = (
            f"{name} reaches {worst!r}, above the {torch.finfo(dtype).max!r} of {dtype!r}; "
            f"pass dtype=torch.bfloat16, or a smooth_alpha that spreads the range less"
        )
        raise ValueError(msg)
    return rounded


def quantize_int4(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes uint8 [N, K/2] and scales `dtype` [K/64, N] of a float64 weight [N, K].

    Per row and group of 64: scale = max|.| / 7 in float32, stored in `dtype`; code = the quotient
    by the *stored* scale, rounded half to even, in [-7, 7]. The weight is decoded with the stored
    scale, so this is the nearest code (the activation quantizer divides by the unrounded one). A
    group whose stored scale is zero has codes 0.
    """
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    scales = stored("wscales", groups.abs().amax(dim=-1).float() / CODE_MAX, dtype)
    divisor = scales.double().unsqueeze(-1)
    quotient = torch.where(divisor == 0, 0.0, groups / divisor)
    codes = quotient.round().clamp(-CODE_MAX, CODE_MAX).to(torch.int8)
    return pack_nibbles(codes.reshape(rows, columns)), scales.t().contiguous()


def dequantize_int4(codes: Tensor, scales: Tensor) -> Tensor:
    """The exact float64 [N, K] of codes uint8 [N, K/2] and scales [K/64, N]."""
    values = unpack_nibbles(codes).double()
    return values * scales.double().t().repeat_interleave(GROUP, dim=1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Signed codes int8 [N, K] in [-8, 7] -> uint8 [N, K/2], even k in the low nibble."""
    nibbles = codes.view(torch.uint8) & 0xF
    return nibbles[:, ::2] | (nibbles[:, 1::2] << 4)


def unpack_nibbles(codes: Tensor) -> Tensor:
    """uint8 [N, K/2], even k in the low nibble -> signed codes int8 [N, K] in [-8, 7]."""
    nibbles = torch.stack((codes & 0xF, codes >> 4), dim=-1).flatten(-2).view(torch.int8)
    return (nibbles ^ 8) - 8
