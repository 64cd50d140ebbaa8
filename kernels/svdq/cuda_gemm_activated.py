"""SVDQuant's W4A4 GEMM with a fused SiLU or GELU, in CUDA C++.

The kernels are those of ``cuda_gemm``, in all of their tilings, compiled with the activation of
``cuda/activation.cuh`` where y is finished. The first launch compiles what it launches.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from harness import kernel
from kernels.svdq.cuda_gemm import End, check, check_call, multiply
from kernels.svdq.cuda_policy import GEMM_CONFIGS
from kernels.svdq.domain import ARCH
from kernels.svdq.fused_arguments import check_activation

ACTIVATIONS: Final = {"silu": 1, "gelu_tanh": 2}  # the macro ACTIVATION
HEADER: Final = "activation.cuh"


def end_with(activation: str) -> End:
    """The macros that make a GEMM finish with one of ``ACTIVATIONS``."""
    return (("FINISH", f'"{HEADER}"'), ("ACTIVATION", ACTIVATIONS[activation]))


@torch.library.custom_op("kernel_parity::svdq_gemm_w4a4_activated_cuda", mutates_args=())
def _svdq_gemm_w4a4_activated_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    activation: str,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    check_activation(activation, ACTIVATIONS)
    return multiply(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, end=end_with(activation),
    )  # fmt: skip


@_svdq_gemm_w4a4_activated_cuda.register_fake
def _fake_svdq_gemm_w4a4_activated(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    activation: str,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    check_activation(activation, ACTIVATIONS)
    check(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    return ascales.new_empty((codes.shape[0], wcodes.shape[0]), dtype=out_dtype)


@kernel(
    "svdq_gemm_w4a4_activated",
    backend="cuda",
    arch=ARCH,
    torch_op="kernel_parity::svdq_gemm_w4a4_activated_cuda",
    configs=tuple(GEMM_CONFIGS),
    accumulates="tensor_core",  # the low-rank branch does; sums of codes are exact
    instructions={
        "sm8x": r"\bIMMA\.16864\.[SU]4\.S4\b",
        ">=sm90": r"\bIMMA\.16832\.S8\.S8\b",
        ">=sm80": r"\bMUFU\.EX2\b",
    },
    emulated=False,
)
def svdq_gemm_w4a4_activated_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    *,
    activation: str,
    lora_act: Tensor | None = None,
    lora_up: Tensor | None = None,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    wcscales: Tensor | None = None,
    act_unsigned: bool = False,
    out_dtype: torch.dtype | None = None,
    config: str | None = None,
) -> Tensor:
    """``activation(alpha * dequant(codes) @ dequant(wcodes)^T * wcscales + bias + low rank)``.

    ``activation`` is ``"silu"`` or ``"gelu_tanh"``, taken in fp32 before the one rounding; float16
    then saturates at +-65504. All else is as of ``svdq_gemm_w4a4_cuda``.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, strides, an alignment, a device or a value.
        UnsupportedArch: an arch before sm80.
        BackendMissing: cuda-core or NVRTC; says what to install.
        CompileFailed: with the compiler's log.
        LaunchedTooLate: the first call of a configuration is made in a graph's capture.

    """
    check_activation(activation, ACTIVATIONS)
    check_call(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    y: Tensor = _svdq_gemm_w4a4_activated_cuda(
        codes, wcodes, ascales, wscales, activation, lora_act, lora_up, bias, alpha, wcscales,
        act_unsigned, out_dtype, config,
    )  # fmt: skip
    return y
