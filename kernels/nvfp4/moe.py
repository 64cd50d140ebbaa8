"""NVFP4's mixture of experts: weights and activations in 4 bits, over three ops.

For each token the weighted sum, over its experts, of ``down(quantized(silu(gate(x)) * up(x)))``.
The router is the caller's. The state keys are those of ``kernels.nvfp4.moe_state`` and stay stable;
``kernels.nvfp4.moe_checkpoints`` converts checkpoints. Only a forward pass imports a backend's
kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from kernels import contract
from kernels.module_backends import Backend, check_backend, load_backend
from kernels.nvfp4 import weights
from kernels.nvfp4.domain import BLOCK, DTYPES, ID_DTYPES, MAX_TOP_K
from kernels.nvfp4.moe_arguments import check_ids
from kernels.nvfp4.moe_state import FORMATS, Sizes, check_state
from kernels.nvfp4.runner_modules import RunnerModule
from kernels.nvfp4.runners import moe_gemm, register_moe
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPS = ("nvfp4_moe_up", "nvfp4_moe_down")  # beside the quantizer of the linear layer
Quantize = Callable[..., tuple[Tensor, Tensor]]
Up = Callable[..., tuple[Tensor, Tensor]]
Down = Callable[..., Tensor]


def _load_triton() -> tuple[Quantize, Up, Down]:
    from kernels.nvfp4.triton_moe_down import nvfp4_moe_down
    from kernels.nvfp4.triton_moe_up import nvfp4_moe_up
    from kernels.nvfp4.triton_quantize import nvfp4_quantize

    return nvfp4_quantize, nvfp4_moe_up, nvfp4_moe_down


BACKENDS = {"triton": Backend(load=_load_triton, install="pip install triton")}


class NVFP4MoE(RunnerModule):
    """A mixture of experts with SwiGLU, weights and activations in NVFP4, for inference.

    The state lives in buffers: nothing is trainable. A new module computes nothing until a state is
    loaded; `from_experts` and `from_state_dict` make filled ones. ``.to(dtype)`` changes nothing:
    input and output are float16 or bfloat16, whichever ``x`` is, and so is what is between.

    Args:
        experts: e, at most 256.
        in_features: k, a multiple of 32.
        intermediate_features: i, a multiple of 32.
        out_features: h, a multiple of 8; None takes ``in_features``.
        device: where the state lives.
        backend: a key of ``BACKENDS``.

    Raises:
        ValueError: a size or the backend is not allowed.

    """

    gate_up_codes: Tensor
    gate_up_scales: Tensor
    gate_up_global_encode_scale: Tensor
    input_global_encode_scale: Tensor
    down_codes: Tensor
    down_scales: Tensor
    down_global_encode_scale: Tensor
    intermediate_global_encode_scale: Tensor
    gate_up_alphas: Tensor
    down_alphas: Tensor

    def __init__(
        self,
        experts: int,
        in_features: int,
        intermediate_features: int,
        out_features: int | None = None,
        *,
        device: torch.device | str | None = None,
        backend: str = "triton",
    ) -> None:
        super().__init__()
        wide = in_features if out_features is None else out_features
        self.sizes = Sizes(experts, in_features, intermediate_features, wide)
        self.backend = check_backend(backend, BACKENDS)
        for key, shape in self.sizes.shapes().items():
            fill = torch.ones if FORMATS[key] is torch.float32 else torch.zeros
            self.register_buffer(key, fill(shape, dtype=FORMATS[key], device=device))
        # Derived, once: arithmetic on it in forward would round otherwise where it is compiled.
        for key, shape in (("gate_up_alphas", (experts, 2)), ("down_alphas", (experts,))):
            self.register_buffer(key, torch.ones(shape, device=device), persistent=False)
        self.register_load_state_dict_post_hook(_derive_alphas)  # type: ignore[no-untyped-call]

    @classmethod
    def from_experts(
        cls,
        gate: Tensor | Sequence[Tensor],
        up: Tensor | Sequence[Tensor],
        down: Tensor | Sequence[Tensor],
        *,
        activations: Tensor | None = None,
        backend: str = "triton",
    ) -> NVFP4MoE:
        """Quantize dense experts; the result is on their device.

        Args:
            gate: weights ``[e, i, k]``, or e of ``[i, k]``; they must be finite.
            up: as ``gate``; the two have global scales of their own.
            down: weights ``[e, h, i]``, or e of ``[h, i]``.
            activations: a calibration sample ``[..., k]``, whose largest absolute value sets the
                input's global scale, and what each expert makes of all of it that of its
                intermediate; None sets them to 1, for blocks whose largest value is in 0.1..2688.
            backend: a key of ``BACKENDS``.

        Raises:
            ValueError: a size or a value is outside its range, or the shapes do not fit.

        """
        dense = {
            name: _stacked(name, given)
            for name, given in zip(_DENSE, (gate, up, down), strict=True)
        }
        e, i, k = dense["gate"].shape
        contract.require_shape("up", dense["up"], ("e", "i", "k"), e=e, i=i, k=k)
        contract.require_shape("down", dense["down"], ("e", "h", "i"), e=e, i=i)
        Sizes(e, k, i, dense["down"].shape[1])  # before anything is quantized
        one = torch.ones(1, device=dense["gate"].device)
        state = {
            "input_global_encode_scale": one,
            "intermediate_global_encode_scale": one.repeat(e),
        }
        parts = {name: _quantized(given) for name, given in dense.items()}
        (gates, gate_scales, gate_globals), (ups, up_scales, up_globals) = (
            parts[name] for name in ("gate", "up")
        )
        codes, scales, globals_ = parts["down"]
        state |= {
            "gate_up_codes": torch.cat((gates, ups), 1),
            "gate_up_scales": swizzle_scales(_of_octets(torch.cat, (gate_scales, up_scales), 1)),
            "gate_up_global_encode_scale": torch.stack((gate_globals, up_globals), 1),
            "down_codes": codes,
            "down_scales": swizzle_scales(scales),
            "down_global_encode_scale": globals_,
        }
        if activations is not None:
            state |= _calibrated(activations, dense["gate"], dense["up"])
        return cls.from_state_dict(state, backend=backend)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, backend: str = "triton") -> NVFP4MoE:
        """Return the module with this state, sizes inferred; contiguous tensors are not copied.

        Raises ValueError for missing or unknown keys and wrong shapes, TypeError for wrong dtypes.
        """
        sizes = check_state(state)
        module = cls(
            sizes.experts,
            sizes.in_features,
            sizes.intermediate_features,
            sizes.out_features,
            device="meta",
            backend=backend,
        )
        module.load_state_dict(
            {key: value.contiguous() for key, value in state.items()}, assign=True
        )
        return module

    def forward(
        self, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, read_ids: bool = True
    ) -> Tensor:
        """Map ``x [..., k]`` to ``[..., h]``, of the same dtype.

        ``topk_ids [..., t]`` are int32 or int64, the experts of each token, at most 8, and
        ``topk_weights [..., t]`` what their results are multiplied by, float32 or converted to it.
        The same expert twice counts twice. An id out of range is refused by ValueError before any
        launch (where it is compiled, any but the quantizer's): the host reads the ids, and so waits
        for the device. In the capture of a CUDA graph it cannot, and with ``read_ids=False`` does
        not: such a token's result is NaN. A module with a runner reads ids wherever it can.
        """
        self._check_input(x, topk_weights, topk_ids)
        runner_id = self.runner_to_call()
        if runner_id is not None:
            return moe_gemm(x, topk_weights.float(), topk_ids, runner_id, self.out_features)
        traced = torch.compiler.is_compiling()
        if read_ids and not traced:
            check_ids(topk_ids, self.experts)
        return self.run(x, topk_weights, topk_ids, read_ids=read_ids and traced)

    def run(
        self,
        hidden_states: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        read_ids: bool = False,
    ) -> Tensor:
        """What `forward` computes, by the ops of the backend, whose arguments are the state.

        With ``read_ids`` the first half compares ids with the experts, for who has not done so.
        """
        x = hidden_states
        quantize, up, down = load_backend(self.backend, BACKENDS)
        ids = topk_ids.reshape(-1, topk_ids.shape[-1])
        codes, scales = quantize(
            x.reshape(-1, self.sizes.in_features), self.input_global_encode_scale, recipe="vllm"
        )
        codes, scales = up(
            codes,
            self.gate_up_codes,
            scales,
            self.gate_up_scales,
            ids,
            self.gate_up_alphas,
            self.intermediate_global_encode_scale,
            intermediate_dtype=x.dtype,
            read_ids=read_ids,
        )
        out = down(
            codes,
            self.down_codes,
            scales,
            self.down_scales,
            ids,
            topk_weights.reshape(ids.shape).float(),
            self.down_alphas,
            out_dtype=x.dtype,
            read_ids=False,  # `up` has
        )
        # As it is where it can be: as a runner's result, a view would have to be copied.
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], self.sizes.out_features)

    @property
    def in_features(self) -> int:
        """The last dimension of the input."""
        return self.sizes.in_features

    @property
    def out_features(self) -> int:
        """The last dimension of the result."""
        return self.sizes.out_features

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.sizes.experts

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return self.gate_up_codes.device

    def register_as(self, name: str) -> int:
        """Register the module, weakly, with ``nvfp4::moe_gemm``, its state being one."""
        state = self.state_dict()
        check_state(state)
        contract.require_one_device(**state)
        for key in ("gate_up_scales", "down_scales"):
            contract.require_contiguous(key, state[key])
        return register_moe(self, name, keep=False)

    def dequantized_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, up and down that this stands for, exactly but for ``/ g``, float64."""
        i, k = self.sizes.intermediate_features, self.sizes.in_features
        first = unswizzle_scales(self.gate_up_scales, 2 * i, k // BLOCK)
        second = unswizzle_scales(self.down_scales, self.sizes.out_features, i // BLOCK)
        one = torch.ones(1, dtype=torch.float64, device=first.device)
        both = torch.stack(
            [weights.dequantize(*part, one) for part in zip(self.gate_up_codes, first, strict=True)]
        )
        down = torch.stack(
            [weights.dequantize(*part, one) for part in zip(self.down_codes, second, strict=True)]
        )
        gate_up = self.gate_up_global_encode_scale.double()[:, :, None, None]
        gate, up = (both.unflatten(1, (2, i)) / gate_up).unbind(1)
        return gate, up, down / self.down_global_encode_scale.double()[:, None, None]

    def extra_repr(self) -> str:
        """The arguments that make an equal module."""
        return f"{self.sizes}, backend={self.backend!r}"

    def _check_input(self, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
        if x.dtype not in DTYPES:
            msg = f"x.dtype={x.dtype!r} must be torch.float16 or torch.bfloat16: convert x"
            raise TypeError(msg)
        if x.ndim == 0 or x.shape[-1] != self.sizes.in_features:
            msg = f"x.shape={tuple(x.shape)!r} must end in in_features={self.sizes.in_features}"
            raise ValueError(msg)
        if topk_ids.dtype not in ID_DTYPES:
            msg = f"topk_ids.dtype={topk_ids.dtype!r} must be torch.int32 or torch.int64"
            raise TypeError(msg)
        if not topk_weights.is_floating_point():
            msg = f"topk_weights.dtype={topk_weights.dtype!r} must be a float: use torch.float32"
            raise TypeError(msg)
        if topk_ids.ndim != x.ndim or topk_ids.shape[:-1] != x.shape[:-1]:
            msg = (
                f"topk_ids.shape={tuple(topk_ids.shape)!r} must be that of x, "
                f"{tuple(x.shape)!r}, but for the last axis: one row of experts for each token"
            )
            raise ValueError(msg)
        if topk_weights.shape != topk_ids.shape:
            msg = (
                f"topk_weights.shape={tuple(topk_weights.shape)!r} must be that of topk_ids, "
                f"{tuple(topk_ids.shape)!r}: one weight for each expert of a token"
            )
            raise ValueError(msg)
        contract.require_size("top_k", topk_ids.shape[-1], min=1, max=MAX_TOP_K)

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
            f"{prefix}{key} has dtype {state_dict[prefix + key].dtype}, not {kind}: convert "
            f"checkpoints with kernels.nvfp4.moe_checkpoints"
            for key, kind in FORMATS.items()
            if prefix + key in state_dict and state_dict[prefix + key].dtype is not kind
        ]
        error_msgs.extend(wrong)
        if not wrong:
            super()._load_from_state_dict(
                *(state_dict, prefix, local_metadata, strict),
                *(missing_keys, unexpected_keys, error_msgs),
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NVFP4MoE:  # noqa: FBT001, FBT002 - torch's signature
        """Move all of the state and convert none of it: a format is not a precision."""

        def moved(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


_DENSE = ("gate", "up", "down")


def _derive_alphas(module: NVFP4MoE, _: object) -> None:
    """``1 / (g_a * g_w)``, rounded once to float32."""
    first = module.input_global_encode_scale.double() * module.gate_up_global_encode_scale.double()
    second = module.intermediate_global_encode_scale.double()
    module.gate_up_alphas = first.reciprocal().float()
    module.down_alphas = (second * module.down_global_encode_scale.double()).reciprocal().float()


def _stacked(name: str, given: Tensor | Sequence[Tensor]) -> Tensor:
    stacked = given if isinstance(given, Tensor) else torch.stack(list(given))
    contract.require_shape(name, stacked, ("e", "rows", "columns"))
    contract.require_finite(name, stacked)
    return stacked.detach()


def _quantized(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales not in tiles, and global encode scales ``[e]``, of each expert by itself."""
    globals_ = [weights.global_encode_scale(expert.abs().amax()) for expert in dense]
    parts = [weights.quantize(*part) for part in zip(dense, globals_, strict=True)]
    codes, scales = zip(*parts, strict=True)
    return torch.stack(codes), _of_octets(torch.stack, scales, 0), torch.cat(globals_)


def _of_octets(join: Callable[..., Tensor], scales: Sequence[Tensor], dim: int) -> Tensor:
    """By way of bytes: not every device joins float8."""
    return join([part.view(torch.uint8) for part in scales], dim).view(scales[0].dtype)


def _calibrated(activations: Tensor, gate: Tensor, up: Tensor) -> dict[str, Tensor]:
    """Global scales of the input, and of what each expert makes of all of the sample."""
    contract.require_finite("activations", activations)
    x = activations.detach().reshape(-1, gate.shape[2]).float().to(gate.device)
    largest = [x.new_zeros(())] if not x.numel() else [x.abs().amax()]
    for one, other in zip(gate, up, strict=True):
        made = silu(x @ one.float().T) * (x @ other.float().T)
        largest.append(made.abs().amax() if x.numel() else x.new_zeros(()))
    first, *others = [weights.global_encode_scale(amax) for amax in largest]
    return {
        "input_global_encode_scale": first,
        "intermediate_global_encode_scale": torch.cat(others),
    }
