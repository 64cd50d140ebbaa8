"""The modules under test, each with a dense float64 twin made of the references."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from harness import Expected, Sample, subject
from kernels.activation.module import SiluAndMul
from kernels.norm.module import RMSNorm
from kernels.nvfp4.linear import OPS as NVFP4_OPS
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.moe import OPS as MOE_OPS
from kernels.nvfp4.moe import NVFP4MoE
from kernels.nvfp4.moe_state import FORMATS as MOE_KEYS
from kernels.nvfp4.runner_modules import use_runners
from kernels.svdq.linear import OPS, SVDQW4A4Linear
from kernels.svdq.mlp import OPS as MLP_OPS
from kernels.svdq.mlp import SVDQW4A4MLP
from references.nvfp4_gemm import nvfp4_gemm
from references.nvfp4_moe_down import nvfp4_moe_down
from references.nvfp4_moe_up import nvfp4_moe_up
from references.nvfp4_quantize import nvfp4_quantize
from references.rms_norm import rms_norm
from references.silu_and_mul import silu_and_mul
from references.svdq_gemm import svdq_gemm_w4a4
from references.svdq_gemm_requantized import svdq_gemm_w4a4_requantized
from references.svdq_quantize import svdq_quantize_w4a4_act_fuse_lora

if TYPE_CHECKING:
    from collections.abc import Callable

# Relative L2 of one rounding to the dtype, measured on Gaussian data; a module may have twice it.
ROUNDING: Final = {torch.float32: 3e-8, torch.float16: 2.1e-4, torch.bfloat16: 1.65e-3}
ONE_ROUNDING: Final = "twice what one rounding of the result measures"
HALVES: Final = ("float16", "bfloat16")


@subject(ops=("rms_norm",), dtypes=("float32", *HALVES))
def norm(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """RMSNorm of a batch of sequences."""
    del backend
    module = RMSNorm(96, dtype=dtype, device=device)
    module.weight.copy_(1 + torch.randn(96, generator=generator) / 4)
    x = torch.randn(2, 5, 96, generator=generator).to(device, dtype)

    def dense(x: Tensor) -> Tensor:
        return rms_norm(x.double().flatten(0, 1), module.weight.double(), 1e-6).reshape(x.shape)

    return _sample(module, x, dense, ("weight",), extra=2e-7)


@subject(ops=("silu_and_mul",), dtypes=("float32", *HALVES))
def gated_activation(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """SwiGLU's activation of a batch of sequences."""
    del backend
    x = torch.randn(2, 5, 96, generator=generator).to(device, dtype)

    def dense(x: Tensor) -> Tensor:
        return _value(silu_and_mul(x.double().flatten(0, 1))).reshape(2, 5, 48)

    return _sample(SiluAndMul(), x, dense, (), extra=2e-7)


@subject(ops=OPS, dtypes=HALVES)
def svdq_linear(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """SVDQW4A4Linear quantized from a dense layer with outlier channels, on a batch of two."""
    linear = nn.Linear(128, 96)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    x = torch.randn(2, 9, 128, generator=generator)
    x[..., 5] *= 30
    module = SVDQW4A4Linear.from_linear(
        linear, rank=16, activations=x, dtype=dtype, backend=backend
    ).to(device)
    keys = ("qweight", "wscales", "smooth", "lora_down", "lora_up", "bias")
    return _sample(module, x.to(device, dtype), lambda x: dense_svdq(module, x), keys, extra=1e-6)


@subject(ops=MLP_OPS, dtypes=HALVES)
def svdq_mlp(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """SVDQW4A4MLP with unsigned codes behind GELU, quantized from two dense layers."""
    layers = []
    for outputs, inputs in ((192, 128), (96, 192)):
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
        layers.append(
            SVDQW4A4Linear.from_linear(linear, rank=16, dtype=dtype, backend=backend).to(device)
        )
    module = SVDQW4A4MLP.from_layers(*layers, activation="gelu_tanh", unsigned=True)
    x = torch.randn(2, 9, 128, generator=generator).to(device, dtype)
    keys = ("qweight", "wscales", "smooth", "lora_down", "lora_up", "bias")
    names = tuple(f"{layer}.{key}" for layer in ("first", "second") for key in keys)
    # One of 3,456 codes between two roundings moves the input of the second layer by 1.5e-3.
    sample = _sample(module, x, lambda x: dense_mlp(module, x), names, extra=4e-3)
    return replace(sample, because=f"{ONE_ROUNDING}, and 0.004 for a few codes near a rounding")


def dense_mlp(module: SVDQW4A4MLP, x: Tensor) -> Tensor:
    """What the two layers compute, by the references of the three ops, in float64."""
    wide = {name: _widen(value) for name, value in module.state_dict().items()}
    flat, dtype = x.double().reshape(-1, module.first.in_features), module.first.wscales.dtype
    parts = svdq_quantize_w4a4_act_fuse_lora(
        flat, wide["first.lora_down"], wide["first.smooth"], precision="int4", dtype=dtype
    )
    between = svdq_gemm_w4a4_requantized(
        _value(parts["codes"]),
        wide["first.qweight"],
        _value(parts["ascales"]).to(dtype).double(),
        wide["first.wscales"],
        wide["second.smooth"],
        wide["second.lora_down"],
        lora_act=_value(parts["lora_act"]),
        lora_up=wide["first.lora_up"],
        bias=wide.get("first.bias"),
        wcscales=wide.get("first.wcscales"),
        activation=module.activation,
        alpha=1.0,
        act_unsigned=False,
        next_unsigned=module.unsigned,
        dtype=dtype,
    )
    made = svdq_gemm_w4a4(
        between["next_codes"].value,
        wide["second.qweight"],
        between["next_ascales"].value,
        wide["second.wscales"],
        lora_act=between["next_lora_act"].value,
        lora_up=wide["second.lora_up"],
        bias=wide.get("second.bias"),
        wcscales=wide.get("second.wcscales"),
        alpha=1.0,
        act_unsigned=module.unsigned,
        out_dtype=None,
        dtype=dtype,
    )
    return made.value.reshape(*x.shape[:-1], module.second.out_features)


def dense_svdq(module: SVDQW4A4Linear, x: Tensor) -> Tensor:
    """What the layer computes, by the references of its two ops, in float64."""
    wide = {name: _widen(value) for name, value in module.state_dict().items()}
    flat, dtype = x.double().reshape(-1, module.in_features), module.wscales.dtype
    parts = svdq_quantize_w4a4_act_fuse_lora(
        flat, wide["lora_down"], wide["smooth"], precision="int4", dtype=dtype
    )
    made = svdq_gemm_w4a4(
        _value(parts["codes"]),
        wide["qweight"],
        _value(parts["ascales"]).to(dtype).double(),
        wide["wscales"],
        lora_act=_value(parts["lora_act"]),
        lora_up=wide["lora_up"],
        bias=wide.get("bias"),
        wcscales=wide.get("wcscales"),
        alpha=1.0,
        act_unsigned=False,
        out_dtype=None,
        dtype=dtype,
    )
    return made.value.reshape(*x.shape[:-1], module.out_features)


@subject(ops=NVFP4_OPS, dtypes=HALVES)
def nvfp4_linear(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """NVFP4Linear quantized from a dense layer with outlier channels, on a batch of two."""
    linear = nn.Linear(160, 96, dtype=dtype)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    x = torch.randn(2, 9, 160, generator=generator)
    x[..., 5] *= 30
    module = NVFP4Linear.from_linear(linear, activations=x, backend=backend).to(device)
    keys = (
        *("weight_codes", "weight_scales"),
        *("weight_global_encode_scale", "input_global_encode_scale", "bias"),
    )
    return _sample(module, x.to(device, dtype), lambda x: dense_nvfp4(module, x), keys, extra=1e-6)


@subject(ops=NVFP4_OPS, dtypes=("bfloat16",))
def nvfp4_linear_by_id(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """The same layer as one opaque op, which asks a registry for it."""
    sample: Sample = nvfp4_linear(backend=backend, dtype=dtype, device=device, generator=generator)
    use_runners(sample.module, scope="suites.module")
    return sample


def dense_nvfp4(module: NVFP4Linear, x: Tensor) -> Tensor:
    """What the layer computes, by the references of its two ops, in float64."""
    wide = {name: _widen(value) for name, value in module.state_dict().items()}
    encode = wide["input_global_encode_scale"]
    flat = x.double().reshape(-1, module.in_features)
    parts = nvfp4_quantize(flat, encode, recipe="vllm")
    made = nvfp4_gemm(
        parts["codes"],
        wide["weight_codes"],
        parts["scales"],
        wide["weight_scales"],
        1 / (encode * wide["weight_global_encode_scale"]),
        wide.get("bias"),
        out_dtype=x.dtype,
    )
    return made.value.reshape(*x.shape[:-1], module.out_features)


@subject(ops=MOE_OPS, dtypes=HALVES)
def nvfp4_moe(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """NVFP4MoE of five dense experts, one without a token, another twice a token's."""
    experts, k, i, h = 5, 96, 64, 40
    gate, up, down = (
        torch.randn(experts, *shape, generator=generator) / 8 for shape in ((i, k), (i, k), (h, i))
    )
    x = torch.randn(2, 9, k, generator=generator)
    module = NVFP4MoE.from_experts(gate, up / 3, down, activations=x, backend=backend).to(device)
    ids = torch.randint(1, experts, (2, 9, 2), generator=generator)
    ids[0, 3] = 2
    weights = torch.rand(2, 9, 2, generator=generator)
    # One of 2,304 codes a step off moves the result by 4e-3 in the middle of 40; with 24 seeds none
    # was.
    return Sample(
        module=module,
        inputs=(x.to(device, dtype), weights.to(device), ids.to(device)),
        dense=lambda *inputs: dense_moe(module, *inputs),
        tolerance=2 * ROUNDING[dtype] + 5e-3,
        because=f"{ONE_ROUNDING}, and 0.005 for a code near a rounding",
        state_keys=tuple(MOE_KEYS),
    )


@subject(ops=MOE_OPS, dtypes=("bfloat16",))
def nvfp4_moe_by_id(
    *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Sample:
    """The same mixture as one opaque op, which asks a registry for it."""
    sample: Sample = nvfp4_moe(backend=backend, dtype=dtype, device=device, generator=generator)
    use_runners(sample.module, scope="suites.module")
    return sample


def dense_moe(module: NVFP4MoE, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
    """What the module computes, by the references of its three ops, in float64."""
    wide = {name: _widen(value) for name, value in module.state_dict().items()}
    given, between = wide["input_global_encode_scale"], wide["intermediate_global_encode_scale"]
    ids = topk_ids.flatten(0, -2)
    parts = nvfp4_quantize(x.double().reshape(-1, x.shape[-1]), given, recipe="vllm")
    found = nvfp4_moe_up(
        parts["codes"],
        wide["gate_up_codes"],
        parts["scales"],
        wide["gate_up_scales"],
        ids,
        1 / (given * wide["gate_up_global_encode_scale"]),
        between,
        intermediate_dtype=x.dtype,
    )
    made = nvfp4_moe_down(
        found["next_codes"].value,
        wide["down_codes"],
        found["next_scales"].value,
        wide["down_scales"],
        ids,
        topk_weights.double().reshape(ids.shape),
        1 / (between * wide["down_global_encode_scale"]),
        out_dtype=x.dtype,
    )
    return made.value.reshape(*x.shape[:-1], -1)


def _sample(
    module: nn.Module,
    x: Tensor,
    dense: Callable[[Tensor], Tensor],
    keys: tuple[str, ...],
    *,
    extra: float,
) -> Sample:
    return Sample(
        module=module,
        inputs=(x,),
        dense=dense,
        tolerance=2 * ROUNDING[x.dtype] + extra,
        because=f"{ONE_ROUNDING}, and {extra:g} for float32 arithmetic",
        state_keys=keys,
    )


def _widen(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _value(part: Tensor | Expected) -> Tensor:
    return part.value if isinstance(part, Expected) else part
