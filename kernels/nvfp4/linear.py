"""NVFP4's linear layer: weights and activations in 4 bits, over two ops.

``y = dequantized(quantized(x)) @ dequantized(weight)^T + bias``. The state keys are those of
``kernels.nvfp4.state`` and stay stable; ``kernels.nvfp4.checkpoints`` converts checkpoints. Only a
forward pass imports a backend's kernels. `NVFP4Linear.use_runner` makes it one op for a tracer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kernels import contract
from kernels.module_backends import Backend, check_backend, load_backend
from kernels.nvfp4 import weights
from kernels.nvfp4.domain import BLOCK, DTYPES
from kernels.nvfp4.runner_modules import RunnerModule
from kernels.nvfp4.runners import linear_gemm, register_linear
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales
from kernels.nvfp4.state import FORMATS, Sizes, check_state

if TYPE_CHECKING:
    from collections.abc import Mapping

OPS = ("nvfp4_quantize", "nvfp4_gemm")  # what a forward pass runs
Quantize = Callable[..., tuple[Tensor, Tensor]]
Gemm = Callable[..., Tensor]


def _load_triton() -> tuple[Quantize, Gemm]:
    from kernels.nvfp4.triton_gemm import nvfp4_gemm
    from kernels.nvfp4.triton_quantize import nvfp4_quantize

    return nvfp4_quantize, nvfp4_gemm


def _load_cutedsl() -> tuple[Quantize, Gemm]:
    from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
    from kernels.nvfp4.triton_quantize import nvfp4_quantize

    return nvfp4_quantize, nvfp4_gemm_cutedsl


def _load_block_scaled() -> tuple[Quantize, Gemm]:
    from kernels.nvfp4.cutedsl_block_scaled import nvfp4_gemm_block_scaled_cutedsl
    from kernels.nvfp4.triton_quantize import nvfp4_quantize

    return nvfp4_quantize, nvfp4_gemm_block_scaled_cutedsl


def _load_warp_scaled() -> tuple[Quantize, Gemm]:
    from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
    from kernels.nvfp4.triton_quantize import nvfp4_quantize

    return nvfp4_quantize, nvfp4_gemm_warp_scaled_cutedsl


_INSTALL_CUTEDSL = "pip install triton 'kernel-parity[cutedsl]'"
# The quantizer is Triton's in all of them.
BACKENDS = {
    "triton": Backend(load=_load_triton, install="pip install triton"),
    "cutedsl": Backend(load=_load_cutedsl, install=_INSTALL_CUTEDSL),
    "cutedsl.block_scaled": Backend(load=_load_block_scaled, install=_INSTALL_CUTEDSL),
    "cutedsl.warp_scaled": Backend(load=_load_warp_scaled, install=_INSTALL_CUTEDSL),
}


class NVFP4Linear(RunnerModule):
    """``nn.Linear`` with weights and activations in NVFP4, for inference.

    The state lives in buffers: nothing is trainable. A new layer computes its bias until a state is
    loaded; `from_linear` and `from_state_dict` make filled ones. ``.to(dtype)`` converts the bias
    and leaves codes and scales alone. Input and output are float16 or bfloat16, whichever ``x`` is.

    Args:
        in_features: K, a multiple of 32.
        out_features: N, a multiple of 8.
        bias: whether there is a ``bias``.
        dtype: of the bias: float16 or bfloat16.
        device: where the state lives.
        backend: a key of ``BACKENDS``.

    Raises:
        ValueError: a size or the backend is not allowed.
        TypeError: the dtype is not allowed.

    """

    weight_codes: Tensor
    weight_scales: Tensor
    weight_global_encode_scale: Tensor
    input_global_encode_scale: Tensor
    bias: Tensor | None
    alpha: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
        backend: str = "triton",
    ) -> None:
        super().__init__()
        sizes = Sizes(in_features, out_features)
        if dtype not in DTYPES:
            msg = f"dtype={dtype!r} must be torch.float16 or torch.bfloat16"
            raise TypeError(msg)
        self.in_features = in_features
        self.out_features = out_features
        self.backend = check_backend(backend, BACKENDS)
        for key, shape in sizes.shapes().items():
            kind = FORMATS.get(key, (dtype,))[0]
            fill = torch.ones if kind is torch.float32 else torch.zeros
            made = fill(shape, dtype=kind, device=device) if key != "bias" or bias else None
            self.register_buffer(key, made)
        # Derived, once: arithmetic on it in forward would round otherwise where it is compiled.
        self.register_buffer("alpha", torch.ones(1, device=device), persistent=False)
        self.register_load_state_dict_post_hook(_derive_alpha)  # type: ignore[no-untyped-call]

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        *,
        activations: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "triton",
    ) -> NVFP4Linear:
        """Quantize a dense layer; the result is on its device.

        Args:
            linear: the dense ``nn.Linear``; its weight must be finite.
            activations: a calibration sample, whose largest absolute value sets the input's global
                scale; None sets it to 1, for blocks whose largest value is in 0.1..2688.
            dtype: of the bias: float16 or bfloat16; None takes the weight's, which must then be
                one.
            backend: a key of ``BACKENDS``.

        Raises:
            TypeError: `linear` is not an nn.Linear, or the dtype is not a half_t.
            ValueError: a size or a value is outside its range.

        """
        if not isinstance(linear, nn.Linear):
            msg = f"linear={type(linear).__name__} must be a torch.nn.Linear"
            raise TypeError(msg)
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            dtype=dtype or linear.weight.dtype,
            device=linear.weight.device,
            backend=backend,
        )
        contract.require_finite("linear.weight", linear.weight)
        encode = weights.global_encode_scale(linear.weight.abs().amax())
        codes, scales = weights.quantize(linear.weight, encode)
        state = {
            "weight_codes": codes,
            "weight_scales": swizzle_scales(scales),
            "weight_global_encode_scale": encode,
            "input_global_encode_scale": torch.ones_like(encode),
        }
        if activations is not None:
            contract.require_finite("activations", activations)
            largest = activations.abs().amax() if activations.numel() else activations.new_zeros(())
            state["input_global_encode_scale"] = weights.global_encode_scale(largest)
        if linear.bias is not None:
            state["bias"] = linear.bias.detach()
        layer.load_state_dict(state)
        return layer

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, backend: str = "triton"
    ) -> NVFP4Linear:
        """Return the layer with this state, sizes inferred; contiguous tensors are not copied.

        Raises ValueError for missing or unknown keys and wrong shapes, TypeError for wrong dtypes.
        """
        sizes = check_state(state)
        layer = cls(
            sizes.in_features,
            sizes.out_features,
            bias="bias" in state,
            dtype=state["bias"].dtype if "bias" in state else torch.bfloat16,
            device="meta",
            backend=backend,
        )
        layer.load_state_dict(
            {key: value.contiguous() for key, value in state.items()}, assign=True
        )
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features], of the same dtype."""
        if x.dtype not in DTYPES:
            msg = f"x.dtype={x.dtype!r} must be torch.float16 or torch.bfloat16: convert x"
            raise TypeError(msg)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            msg = f"x.shape={tuple(x.shape)!r} must end in in_features={self.in_features}"
            raise ValueError(msg)
        runner_id = self.runner_to_call()
        if runner_id is not None:
            return linear_gemm(x, runner_id, self.out_features)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """What `forward` computes, by the ops of the backend, whose arguments are the state."""
        quantize, gemm = load_backend(self.backend, BACKENDS)
        codes, scales = quantize(
            x.reshape(-1, self.in_features), self.input_global_encode_scale, recipe="vllm"
        )
        out = gemm(
            codes,
            self.weight_codes,
            scales,
            self.weight_scales,
            self.alpha,
            bias=self.bias,
            out_dtype=x.dtype,
        )
        # As it is where it can be: as a runner's result, a view would have to be copied.
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], self.out_features)

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return self.weight_codes.device

    def register_as(self, name: str) -> int:
        """Register the layer, weakly, with ``nvfp4::linear_gemm``, its state being one."""
        state = self.state_dict()
        check_state(state)
        contract.require_contiguous("weight_scales", self.weight_scales)
        contract.require_one_device(**state, alpha=self.alpha)
        return register_linear(self, name, keep=False)

    def dequantized_weight(self) -> Tensor:
        """The dense weight that this layer stands for, exactly but for ``/ g``, float64 [N, K]."""
        scales = unswizzle_scales(self.weight_scales, self.out_features, self.in_features // BLOCK)
        return weights.dequantize(self.weight_codes, scales, self.weight_global_encode_scale)

    def extra_repr(self) -> str:
        """The arguments that make an equal layer."""
        runner = f", runner_name={self.runner_name!r}" if self.runner_name else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, backend={self.backend!r}{runner}"
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
        # torch would convert what has another dtype: bytes of scales by value, for one.
        wrong = [
            f"{prefix}{key} has dtype {state_dict[prefix + key].dtype}, not {kinds[0]}: convert "
            f"checkpoints with kernels.nvfp4.checkpoints"
            for key, kinds in FORMATS.items()
            if prefix + key in state_dict and state_dict[prefix + key].dtype not in kinds
        ]
        error_msgs.extend(wrong)
        if not wrong:
            super()._load_from_state_dict(
                *(state_dict, prefix, local_metadata, strict),
                *(missing_keys, unexpected_keys, error_msgs),
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NVFP4Linear:  # noqa: FBT001, FBT002 - torch's signature
        """Move all of the state, and convert the bias alone: a format is not a precision."""
        bias = self.bias

        def moved(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if tensor is bias or made.dtype == tensor.dtype else tensor.to(made.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


def _derive_alpha(layer: NVFP4Linear, _: object) -> None:
    """``1 / (g_a * g_w)``, rounded once to float32."""
    product = layer.input_global_encode_scale.double() * layer.weight_global_encode_scale.double()
    layer.alpha = product.reciprocal().float()
