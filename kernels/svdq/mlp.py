"""Two of SVDQuant's linear layers with an activation in between, whose result is never stored.

``second(activation(first(x)))`` by three calls in CUDA: the quantizer, the GEMM that requantizes,
the GEMM. The state is that of the two layers, under ``first.`` and ``second.``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from kernels.svdq import decompose
from kernels.svdq.linear import SVDQW4A4Linear

if TYPE_CHECKING:
    from torch import Tensor

OPS = ("svdq_gemm_w4a4_requantized",)  # beside those of the layers
SHIFT = 0.171875  # what unsigned codes are shifted by, as in cuda/encode.cuh


class SVDQW4A4MLP(nn.Module):
    """``second(activation(first(x)))``, quantized in between, for inference.

    With ``unsigned`` the codes in between are 0..15, of the activation + 0.171875, which suits what
    GELU leaves; ``second`` must then have the bias that takes the shift back, as nunchaku's
    checkpoints have it. `from_layers` makes it from an ordinary layer.

    Args:
        first: the layer before the activation.
        second: the layer behind it, whose inputs are the outputs of ``first``.
        activation: ``"silu"``, ``"gelu_tanh"`` or ``"none"``.
        unsigned: whether ``second`` reads unsigned codes.

    Raises:
        ValueError: the layers do not follow each other, or one is of another backend than cuda.
        TypeError: their dtypes differ.

    """

    def __init__(
        self,
        first: SVDQW4A4Linear,
        second: SVDQW4A4Linear,
        *,
        activation: str = "gelu_tanh",
        unsigned: bool = False,
    ) -> None:
        super().__init__()
        for name, layer in (("first", first), ("second", second)):
            if layer.backend != "cuda":
                msg = f"{name}.backend={layer.backend!r} has no fused GEMM; use backend='cuda'"
                raise ValueError(msg)
        if first.out_features != second.in_features:
            msg = (
                f"second.in_features={second.in_features} must be first.out_features="
                f"{first.out_features}; give layers that follow each other"
            )
            raise ValueError(msg)
        if first.wscales.dtype != second.wscales.dtype:
            msg = (
                f"second has dtype {second.wscales.dtype!r} and first {first.wscales.dtype!r}: "
                f"convert one with .to(...)"
            )
            raise TypeError(msg)
        self.first = first
        self.second = second
        self.activation = activation
        self.unsigned = unsigned

    @classmethod
    def from_layers(
        cls,
        first: SVDQW4A4Linear,
        second: SVDQW4A4Linear,
        *,
        activation: str = "gelu_tanh",
        unsigned: bool = True,
    ) -> SVDQW4A4MLP:
        """Fuse two ordinary layers; with ``unsigned``, a copy of ``second`` gets another bias."""
        if unsigned:
            state = dict(second.state_dict())
            bias = -SHIFT * (second.residual_weight() / second.smooth.double()).sum(1)
            if second.bias is not None:
                bias += second.bias.double()
            state["bias"] = decompose.stored("bias", bias, second.wscales.dtype)
            second = SVDQW4A4Linear.from_state_dict(state, backend=second.backend)
        return cls(first, second, activation=activation, unsigned=unsigned)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., first.in_features] to [..., second.out_features], both of the layers' dtype."""
        from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
        from kernels.svdq.cuda_gemm_requantized import svdq_gemm_w4a4_requantized_cuda
        from kernels.svdq.cuda_quantize import svdq_quantize_w4a4_act_fuse_lora_cuda

        first, second = self.first, self.second
        first.check_input(x)
        codes, ascales, lora_act = svdq_quantize_w4a4_act_fuse_lora_cuda(
            x.reshape(-1, first.in_features), first.lora_down, first.smooth
        )
        codes, ascales, lora_act = svdq_gemm_w4a4_requantized_cuda(
            codes,
            first.qweight,
            ascales,
            first.wscales,
            second.smooth,
            second.lora_down,
            activation=self.activation,
            lora_act=lora_act,
            lora_up=first.lora_up,
            bias=first.bias,
            wcscales=first.wcscales,
            next_unsigned=self.unsigned,
        )
        out = svdq_gemm_w4a4_cuda(
            codes,
            second.qweight,
            ascales,
            second.wscales,
            lora_act=lora_act,
            lora_up=second.lora_up,
            bias=second.bias,
            wcscales=second.wcscales,
            act_unsigned=self.unsigned,
        )
        return out.reshape(*x.shape[:-1], second.out_features)

    def extra_repr(self) -> str:
        """What the layers do not say."""
        return f"activation={self.activation!r}, unsigned={self.unsigned}"
