"""NVFP4's layer in the encoder: how it is made, what it must return, how far it may stray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernels.nvfp4.linear import OPS, NVFP4Linear
from references.nvfp4_gemm import nvfp4_gemm
from references.nvfp4_quantize import nvfp4_quantize
from suites.e2e.judge import Bound, Limits
from suites.e2e.recipe import Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from harness import Expected

LIMITS: Final = Limits(
    format_error=Bound(
        at_most=0.2,
        because="1.5 times the 0.134 that two operands cost on Gaussian data (17.4 dB); this "
        "encoder's 36 layers have 0.03 to 0.15",
    ),
    mean_cosine=Bound(
        at_least=0.922, because="twice the distance of the format, simulated: 1 - 0.961"
    ),
    worst_cosine=Bound(
        at_least=0.55,
        because="twice the worst distance simulated with 280 sentences, rounded up: 1 - 0.78",
    ),
    similarity_noise=0.053,
)


def make(linear: nn.Linear, spans: Tensor, *, dtype: torch.dtype, backend: str) -> NVFP4Linear:
    """The layer that replaces ``linear``, whose input's channels reach ``spans`` [K]."""
    return NVFP4Linear.from_linear(linear, activations=spans, dtype=dtype, backend=backend)


def expected_output(state: Mapping[str, Tensor], x: Tensor) -> Expected:
    """Float64 output [M, N] of the layer that holds ``state`` on its input x [M, K], on the CPU."""
    held = {key: value.cpu() for key, value in state.items()}
    encode = held["input_global_encode_scale"]
    quantized = nvfp4_quantize(x.cpu().double(), encode.double(), "vllm")
    product = encode.double() * held["weight_global_encode_scale"].double()
    bias = held.get("bias")
    return nvfp4_gemm(
        quantized["codes"],
        held["weight_codes"],
        quantized["scales"].double(),
        held["weight_scales"].double(),
        product.reciprocal().float().double(),
        None if bias is None else bias.double(),
        x.dtype,
    )


def misread_block_scale(layer: nn.Module) -> None:
    """Plant a fault: one block in eight of a row's scales is that of the block before it."""
    scales = layer.get_buffer("weight_scales").view(-1, 4)  # four blocks along k of one row
    scales[::2, 1] = scales[::2, 0].clone()


NVFP4: Final = Scheme(
    ops=OPS,
    judged_as="nvfp4_gemm",
    make=make,
    expected=expected_output,
    misread=misread_block_scale,
    limits=LIMITS,
    emulated_blocks=(0,),  # 6 layers of all shapes: 20 s of one core
)
