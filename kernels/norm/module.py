"""RMSNorm as a module: the weight is its only state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x**2, -1) + eps) * weight`` over the last axis, of any leading shape.

    The weight is a parameter of ``[features]``; the kernel has no backward, so forward runs
    without gradients only.
    """

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-6,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(
            torch.ones(features, dtype=dtype, device=device), requires_grad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x [..., features]``; dtype and shape stay."""
        from kernels.norm.triton import rms_norm

        rows = x.reshape(-1, x.shape[-1])
        return rms_norm(rows, self.weight, self.eps).reshape(x.shape)
