"""SwiGLU's activation as a module: no state."""

from __future__ import annotations

from torch import Tensor, nn


class SiluAndMul(nn.Module):
    """``silu(gate) * up`` of the two halves of the last axis, of any leading shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., 2 n]`` to ``[..., n]``, both of one dtype."""
        from kernels.activation.triton import silu_and_mul

        rows = x.reshape(-1, x.shape[-1])
        return silu_and_mul(rows).reshape(*x.shape[:-1], x.shape[-1] // 2)
