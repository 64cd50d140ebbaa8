"""SVDQuant's linear layer: 4-bit weights and activations and a low-rank branch, over two ops.

``y = (quantized(x / smooth) @ residual^T) * wcscales + bias + (x @ lora_down) @ lora_up^T``. The
state keys are those of ``kernels.svdq.state`` and stay stable; ``kernels.svdq.nunchaku`` converts
checkpoints. Only a forward pass imports a backend's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kernels.module_backends import Backend, check_backend, load_backend
from kernels.svdq import decompose
from kernels.svdq.state import HALF_DTYPES, PACKED_REMEDY, Sizes, check_half, check_state

if TYPE_CHECKING:
    from collections.abc import Mapping


OPS = ("svdq_quantize_w4a4_act_fuse_lora", "svdq_gemm_w4a4")  # what a forward pass runs
Quantize = Callable[..., tuple[Tensor, Tensor, Tensor]]
Gemm = Callable[..., Tensor]


def _load_triton() -> tuple[Quantize, Gemm]:
    from kernels.svdq.triton_gemm import svdq_gemm_w4a4
    from kernels.svdq.triton_quantize import svdq_quantize_w4a4_act_fuse_lora

    return svdq_quantize_w4a4_act_fuse_lora, svdq_gemm_w4a4


def _load_cuda() -> tuple[Quantize, Gemm]:
    from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
    from kernels.svdq.cuda_quantize import svdq_quantize_w4a4_act_fuse_lora_cuda

    return svdq_quantize_w4a4_act_fuse_lora_cuda, svdq_gemm_w4a4_cuda


BACKENDS = {
    "triton": Backend(load=_load_triton, install="pip install triton"),
    "cuda": Backend(load=_load_cuda, install="pip install 'kernel-parity[cuda]'"),
}


class SVDQW4A4Linear(nn.Module):
    """``nn.Linear`` with an int4 residual, int4 activations and a low-rank branch, for inference.

    The state lives in buffers: nothing is trainable. A new layer computes zeros until a state is
    loaded; `from_linear` and `from_state_dict` make filled ones. ``.to(dtype)`` converts scales and
    factors and leaves the codes alone; forward accepts float16 and bfloat16.

    Args:
        in_features: K, a multiple of 64.
        out_features: N, a multiple of 8.
        rank: columns of the low-rank branch, a multiple of 16.
        bias: whether there is a ``bias``.
        wcscales: whether there is a ``wcscales``.
        dtype: float16 or bfloat16.
        device: where the state lives.
        backend: a key of ``BACKENDS``.

    Raises:
        ValueError: a size or the backend is not allowed.
        TypeError: the dtype is not allowed.

    """

    qweight: Tensor
    wscales: Tensor
    smooth: Tensor
    lora_down: Tensor
    lora_up: Tensor
    bias: Tensor | None
    wcscales: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int = 32,
        bias: bool = True,
        wcscales: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
        backend: str = "triton",
    ) -> None:
        super().__init__()
        sizes = Sizes(in_features, out_features, rank)
        check_half("dtype", dtype)
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.backend = check_backend(backend, BACKENDS)
        wanted = {"bias": bias, "wcscales": wcscales}
        for key, shape in sizes.shapes().items():
            if not wanted.get(key, True):
                self.register_buffer(key, None)
                continue
            fill = torch.ones if key in {"smooth", "wcscales"} else torch.zeros
            self.register_buffer(
                key, fill(shape, dtype=torch.uint8 if key == "qweight" else dtype, device=device)
            )

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        *,
        rank: int = 32,
        smooth_alpha: float = 0.5,
        activations: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "triton",
    ) -> SVDQW4A4Linear:
        """Quantize a dense layer; the result is on its device.

        Args:
            linear: the dense ``nn.Linear``; its weight must be finite.
            rank: columns of the low-rank branch.
            smooth_alpha: a in smooth = act_span^a / weight_span^(1-a).
            activations: a calibration sample [..., K], or the span [K]; None is no smoothing.
            dtype: float16 or bfloat16; None takes the weight's, which must then be one.
            backend: a key of ``BACKENDS``.

        Raises:
            TypeError: `linear` is not an nn.Linear, or the dtype is not a half_t.
            ValueError: a size, an argument or a value is outside its range.

        """
        if not isinstance(linear, nn.Linear):
            msg = f"linear={type(linear).__name__} must be a torch.nn.Linear"
            raise TypeError(msg)
        half = check_half("dtype" if dtype else "linear.weight.dtype", dtype or linear.weight.dtype)
        sizes = Sizes(linear.in_features, linear.out_features, rank)
        weight = linear.weight.detach().to("cpu", torch.float64)
        if not torch.isfinite(weight).all():
            count = int((~torch.isfinite(weight)).sum())
            msg = f"linear.weight has {count} elements that are not finite; it may have none"
            raise ValueError(msg)
        state = _quantized_state(weight, sizes, activations, alpha=smooth_alpha, dtype=half)
        if linear.bias is not None:
            state["bias"] = decompose.stored("bias", linear.bias.detach().cpu(), half)
        device = linear.weight.device
        return cls.from_state_dict(
            {key: value.to(device) for key, value in state.items()}, backend=backend
        )

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, backend: str = "triton"
    ) -> SVDQW4A4Linear:
        """Return the layer with this state, sizes inferred; contiguous tensors are not copied.

        Raises ValueError for missing or unknown keys and wrong shapes, TypeError for wrong dtypes.
        """
        sizes = check_state(state)
        layer = cls(
            sizes.in_features,
            sizes.out_features,
            rank=sizes.rank,
            bias="bias" in state,
            wcscales="wcscales" in state,
            dtype=state["wscales"].dtype,
            device="meta",
            backend=backend,
        )
        layer.load_state_dict(
            {key: value.contiguous() for key, value in state.items()}, assign=True
        )
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features], both of the layer's dtype."""
        self.check_input(x)
        quantize, gemm = load_backend(self.backend, BACKENDS)
        codes, ascales, lora_act = quantize(
            x.reshape(-1, self.in_features), self.lora_down, self.smooth, precision="int4"
        )
        out = gemm(
            codes,
            self.qweight,
            ascales,
            self.wscales,
            lora_act=lora_act,
            lora_up=self.lora_up,
            bias=self.bias,
            alpha=1.0,
            wcscales=self.wcscales,
            act_unsigned=False,
            out_dtype=x.dtype,
        )
        return out.reshape(*x.shape[:-1], self.out_features)

    def check_input(self, x: Tensor) -> None:
        """Raise TypeError for another dtype than the layer's, ValueError for another last axis."""
        dtype = self.wscales.dtype
        if dtype not in HALF_DTYPES:
            msg = (
                f"the layer's dtype={dtype!r} must be torch.float16 or torch.bfloat16: "
                f"convert the layer with .to(torch.bfloat16)"
            )
            raise TypeError(msg)
        if x.dtype != dtype:
            msg = f"x.dtype={x.dtype!r} must be the layer's {dtype!r}: convert one with .to(...)"
            raise TypeError(msg)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            msg = f"x.shape={tuple(x.shape)!r} must end in in_features={self.in_features}"
            raise ValueError(msg)

    def residual_weight(self) -> Tensor:
        """The int4 part, exactly, in float64 [N, K]: what multiplies the quantized x / smooth."""
        residual = decompose.dequantize_int4(self.qweight, self.wscales)
        return residual if self.wcscales is None else residual * self.wcscales.double().unsqueeze(1)

    def dequantized_weight(self) -> Tensor:
        """The dense weight for the raw x that this layer stands for, exactly, in float64 [N, K]."""
        low_rank = self.lora_up.double() @ self.lora_down.double().t()
        return self.residual_weight() / self.smooth.double() + low_rank

    def extra_repr(self) -> str:
        """The arguments that make an equal layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}, wcscales={self.wcscales is not None}, "
            f"dtype={self.wscales.dtype}, backend={self.backend!r}"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,  # noqa: FBT001 - torch's signature
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # A packed nunchaku layer has our keys and shapes; torch would copy int8 into uint8.
        codes = state_dict.get(f"{prefix}qweight")
        if isinstance(codes, Tensor) and codes.dtype != torch.uint8:
            error_msgs.append(
                f"{prefix}qweight has dtype {codes.dtype!r}, not torch.uint8: {PACKED_REMEDY}"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _quantized_state(
    weight: Tensor, sizes: Sizes, activations: Tensor | None, *, alpha: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    if activations is None:
        smooth = torch.ones(sizes.in_features, dtype=dtype)
    else:
        span = decompose.activation_span(activations, sizes.in_features)
        smooth = decompose.smoothing(span, weight, alpha=alpha, dtype=dtype)
    smoothed = weight * smooth.double()
    down, up = decompose.low_rank(smoothed, sizes.rank)
    lora_down = decompose.stored("lora_down", down / smooth.double().unsqueeze(1), dtype)
    lora_up = decompose.stored("lora_up", up, dtype)
    branch = lora_up.double() @ lora_down.double().t() * smooth.double()
    codes, scales = decompose.quantize_int4(smoothed - branch, dtype)
    return {
        "qweight": codes,
        "wscales": scales,
        "smooth": smooth,
        "lora_down": lora_down,
        "lora_up": lora_up,
    }
