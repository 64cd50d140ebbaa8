"""SVDQuant's W4A4 GEMM that quantizes its result for the next layer, in CUDA C++.

The main loop is that of ``cuda/gemm.cu``; what follows it is told in ``cuda/requantize.cuh``. The
next layer's low-rank product is summed by tiles of columns in a workspace, which the quantizer's
second kernel adds up in their order.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel
from kernels import contract
from kernels.svdq import cuda_gemm, cuda_quantize
from kernels.svdq.cuda_gemm_activated import ACTIVATIONS, end_with
from kernels.svdq.cuda_policy import (
    REQUANTIZE_TILES,
    choose_path,
    choose_requantize,
)
from kernels.svdq.domain import ARCH, GROUP
from kernels.svdq.fused_arguments import check_activation, check_next

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.kernel_arguments import Kind
    from harness.nvrtc import Function

_ACTIVATIONS: Final = ("none", *ACTIVATIONS)
HEADER: Final = "requantize.cuh"  # the end of the kernel, in place of the store
_PARAMETERS: Final[Mapping[str, Kind]] = {
    **cuda_gemm.GEMM_PARAMETERS,
    "y": "tensor?",
    "next_smooth": "tensor",
    "next_lora_down": "tensor",
    "next_codes": "uint8",
    "next_ascales": "tensor",
    "next_sums": "float32",
    "next_r": ctypes.c_int32,
}


@cache
def _gemm(
    tile: str, path: str, activation: str, *, act_unsigned: bool, next_unsigned: bool, bf16: bool
) -> Function:
    end: cuda_gemm.End = (("EPILOGUE", f'"{HEADER}"'), ("NEXT_UNSIGNED", int(next_unsigned)))
    if activation != "none":
        end += end_with(activation)
    return cuda_gemm.gemm_function(
        REQUANTIZE_TILES[tile],
        path,
        end,
        act_unsigned=act_unsigned,
        bf16=bf16,
        parameters=_PARAMETERS,
    )


def _check(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    activation: str,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    next_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    config: str | None,
) -> None:
    """What the operator and its fake refuse; torch.compile cannot trace through an offset."""
    check_activation(activation, _ACTIVATIONS)
    cuda_gemm.check(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        None, config, configs=REQUANTIZE_TILES,
    )  # fmt: skip
    check_next(wcodes, ascales, next_smooth, next_lora_down, next_unsigned)
    for name, value in (("next_smooth", next_smooth), ("next_lora_down", next_lora_down)):
        contract.require_contiguous(name, value)
        contract.require_aligned(name, value, cuda_gemm.ALIGNMENT)


@torch.library.custom_op("kernel_parity::svdq_gemm_w4a4_requantized_cuda", mutates_args=())
def _svdq_gemm_w4a4_requantized_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    activation: str,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    next_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    config: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(
        codes, wcodes, ascales, wscales, next_smooth, next_lora_down, activation, lora_act,
        lora_up, bias, alpha, wcscales, act_unsigned, next_unsigned, config,
    )  # fmt: skip
    contract.require_addresses(
        cuda_gemm.ALIGNMENT,
        codes=codes,
        wcodes=wcodes,
        wscales=wscales,
        lora_act=lora_act,
        lora_up=lora_up,
        next_smooth=next_smooth,
        next_lora_down=next_lora_down,
    )
    path, _ = choose_path(device.require_arch(codes.device, ARCH))
    m, n, k = codes.shape[0], wcodes.shape[0], codes.shape[1] * 2
    made = _outputs(codes, wcodes, ascales, next_lora_down)
    next_codes, next_ascales, next_lora_act = made
    if m == 0:
        return made
    name = config or choose_requantize(m, n, device.multiprocessors(codes.device))[0]
    tile = REQUANTIZE_TILES[name]
    tile_columns, next_r = -(-n // tile.block_n), next_lora_down.shape[1]
    # Partial sums, each written whole before the second kernel reads them: nothing persists.
    sums = next_lora_act
    if tile_columns > 1:
        sums = next_lora_act.new_empty((tile_columns, m, next_r))
    bf16 = ascales.dtype is torch.bfloat16
    gemm = _gemm(
        name, path, activation, act_unsigned=act_unsigned, next_unsigned=next_unsigned, bf16=bf16
    )
    rank = 0 if lora_act is None else lora_act.shape[1]
    gemm.launch(
        *(codes, wcodes, ascales, wscales, lora_act, lora_up, bias, wcscales, None, None),
        *(m, n, k, rank, alpha, int(bf16), tile.band),
        *(next_smooth, next_lora_down, next_codes, next_ascales, sums, next_r),
        grid=(tile.tiles(m, n), 1),
        block=tile.threads,
        shared_bytes=tile.shared_bytes,
    )
    if sums is not next_lora_act:
        cuda_quantize.add_splits(sums, next_lora_act)
    return made


def _outputs(
    codes: Tensor, wcodes: Tensor, ascales: Tensor, next_lora_down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    m, n = codes.shape[0], wcodes.shape[0]
    return (
        ascales.new_empty((m, n // 2), dtype=torch.uint8),
        ascales.new_empty((n // GROUP, m)),
        ascales.new_empty((m, next_lora_down.shape[1]), dtype=torch.float32),
    )


@_svdq_gemm_w4a4_requantized_cuda.register_fake
def _fake_svdq_gemm_w4a4_requantized(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    activation: str,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    next_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    config: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(
        codes, wcodes, ascales, wscales, next_smooth, next_lora_down, activation, lora_act,
        lora_up, bias, alpha, wcscales, act_unsigned, next_unsigned, config,
    )  # fmt: skip
    return _outputs(codes, wcodes, ascales, next_lora_down)


@kernel(
    "svdq_gemm_w4a4_requantized",
    backend="cuda",
    arch=ARCH,
    torch_op="kernel_parity::svdq_gemm_w4a4_requantized_cuda",
    configs=tuple(REQUANTIZE_TILES),
    accumulates="tensor_core",
    instructions={
        "sm8x": r"\bIMMA\.16864\.[SU]4\.S4\b",
        ">=sm90": r"\bIMMA\.16832\.S8\.S8\b",
        ">=sm80": r"\bHMMA\.16816\.F32",
    },
    emulated=False,
)
def svdq_gemm_w4a4_requantized_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    *,
    activation: str = "none",
    lora_act: Tensor | None = None,
    lora_up: Tensor | None = None,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    wcscales: Tensor | None = None,
    act_unsigned: bool = False,
    next_unsigned: bool = False,
    config: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``svdq_quantize_w4a4_act_fuse_lora(activation(svdq_gemm_w4a4(...)))``, y never stored.

    The GEMM's arguments are those of ``svdq_gemm_w4a4_cuda``, but that ``n`` is a multiple of 64;
    ``activation`` is ``"none"``, ``"silu"`` or ``"gelu_tanh"``. ``next_smooth [n]`` and
    ``next_lora_down [n, r2]`` have the dtype of the scales, which is that of y too. Returns the
    next layer's ``codes`` uint8 ``[m, n/2]``, ``ascales [n/64, m]`` and ``lora_act`` float32
    ``[m, r2]``. With ``next_unsigned`` the codes are 0..15, of y + 0.171875, as nunchaku makes them
    behind GELU: the next GEMM needs ``act_unsigned=True``, and a bias that takes the shift back.
    ``config`` names one of ``REQUANTIZE_TILES``; None leaves the choice to ``choose_requantize``.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, strides, an alignment, a device or a value.
        UnsupportedArch: an arch before sm80.
        BackendMissing: cuda-core or NVRTC; says what to install.
        CompileFailed: with the compiler's log.
        LaunchedTooLate: the first call of a configuration is made in a graph's capture.

    """
    contract.require_tensors(next_smooth=next_smooth, next_lora_down=next_lora_down)
    check_activation(activation, _ACTIVATIONS)
    cuda_gemm.check_call(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        None, config, configs=REQUANTIZE_TILES,
    )  # fmt: skip
    check_next(wcodes, ascales, next_smooth, next_lora_down, next_unsigned)
    made: tuple[Tensor, Tensor, Tensor] = _svdq_gemm_w4a4_requantized_cuda(
        codes, wcodes, ascales, wscales, next_smooth, next_lora_down, activation, lora_act,
        lora_up, bias, alpha, wcscales, act_unsigned, next_unsigned, config,
    )  # fmt: skip
    return made
