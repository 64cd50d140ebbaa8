"""NVFP4's GEMM by block-scaled tensor cores, in the CuTe DSL: what is checked, chosen, launched.

For sm100 and sm103, which have tensor memory. Tiling, layout and order of operations are told in
``cutedsl/gemm_block_scaled.py``; which tiling a launch takes, in ``block_scaled_policy``. Importing
this needs no CuTe DSL: the first launch in a process compiles what it launches, since the DSL's
host code describes to TMA what it reads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel
from harness.cutedsl import Source, function_of
from kernels import contract
from kernels.nvfp4.block_scaled_policy import (
    ARCH,
    CONFIGS,
    THREADS,
    Tile,
    choose_config,
)
from kernels.nvfp4.cutedsl_launch import FOLDER, contiguous
from kernels.nvfp4.gemm_arguments import check_gemm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.kernel_arguments import Kind
    from harness.native import Function

FILE: Final = FOLDER / "gemm_block_scaled.py"
UNIT: Final = 16  # bytes: what TMA reads, and vectors of the bias, begin at multiples
_PARAMETERS: Final[Mapping[str, Kind]] = {
    "codes": "uint8",
    "wcodes": "uint8",
    "ascales": "uint8",
    "wscales": "uint8",
    "alpha": "float32",
    "bias": "tensor?",
    "y": "tensor",
    "m": ctypes.c_int32,
    "n": ctypes.c_int32,
    "k": ctypes.c_int32,
}


@cache
def _gemm(tile: Tile, bias: str, out: str) -> Function:
    """``bias`` and ``out`` are dtypes; no bias is an empty word."""
    source = Source(
        name=FILE.name,
        text=FILE.read_text("utf-8"),
        kernel="nvfp4_gemm",
        parameters=_PARAMETERS,
        constants={"BLOCK_N": tile.columns, "STAGES": tile.stages, "BIAS": bias, "OUT": out},
        alignment=dict.fromkeys(("codes", "wcodes", "ascales", "wscales", "bias", "y"), UNIT),
        hosted=True,
        specific=True,
    )
    return function_of(source, __name__)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.library.custom_op("kernel_parity::nvfp4_gemm_block_scaled_cutedsl", mutates_args=())
def _nvfp4_gemm_block_scaled_cutedsl(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    config: str | None,
) -> Tensor:
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    device.require_arch(codes.device, ARCH)
    m, n, k = codes.shape[0], wcodes.shape[0], codes.shape[1] * 2
    y = torch.empty((m, n), dtype=out_dtype, device=codes.device)
    if m == 0:
        return y
    tile = CONFIGS[config or choose_config(m, n, device.multiprocessors(codes.device))[0]]
    bias = None if bias is None else contiguous(bias, UNIT)
    _gemm(tile, "" if bias is None else _word(bias.dtype), _word(out_dtype)).launch(
        *(contiguous(codes, UNIT), contiguous(wcodes, UNIT)),
        *(contiguous(each.view(torch.uint8), UNIT) for each in (ascales, wscales)),
        *(alpha, bias, y, m, n, k),
        grid=tile.grid(m, n),
        block=THREADS,
        shared_bytes=tile.shared_bytes,
    )
    return y


@_nvfp4_gemm_block_scaled_cutedsl.register_fake
def _fake_nvfp4_gemm_block_scaled(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    config: str | None,
) -> Tensor:
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    return codes.new_empty((codes.shape[0], wcodes.shape[0]), dtype=out_dtype)


@kernel(
    "nvfp4_gemm",
    backend="cutedsl",
    variant="block_scaled",
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_gemm_block_scaled_cutedsl",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "offset"),
    instructions={
        "sm100": r"\bUTCOMMA\.4X\b",  # of 16 elements a scale, for which
        "sm103": r"\bUTCOMMA\.BLOCK16\b",  # the assembler has two words
        "sm100,sm103": r"\bUTCCP\.T\.S\.4x32dp128bit\b",  # scales to tensor memory
        "sm10x": r"\bUTMALDG\.3D\b",  # scales by TMA
    },
    emulated=False,
)
def nvfp4_gemm_block_scaled_cutedsl(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    config: str | None = None,
) -> Tensor:
    """``alpha * dequant(codes, ascales) @ dequant(wcodes, wscales)^T + bias``.

    ``codes [m, k/2]`` and ``wcodes [n, k/2]`` are uint8, two E2M1 numbers a byte, even k low, any
    strides. ``ascales`` and ``wscales`` are float8_e4m3fn, one for each 16 along k, in the layout
    128x4 and contiguous: ``[m, k/16]`` and ``[n, k/16]`` padded to multiples of 128 and 4; what the
    padding holds does not matter. Tensor cores read them as unsigned: none may be negative. What
    does not begin at a multiple of 16 bytes, or is not dense, is copied first. ``alpha [1]`` is
    float32, the product of both global *decode* scales, ``1 / (g_a * g_w)``. ``bias [n]`` is
    float16 or bfloat16. Returns contiguous ``[m, n]`` in ``out_dtype``, float16 or bfloat16.
    ``config`` names a tiling of ``CONFIGS``; None leaves the choice to ``choose_config``.

    The first call of a configuration in a process compiles it, which takes seconds, and loads it;
    recording a CUDA graph needs such a call before.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, strides of scales, a device or a value.
        UnsupportedArch: an arch that ``ARCH`` does not claim.
        BackendMissing: the CuTe DSL or cuda-core; says what to install.
        CompileFailed: with the compiler's words.
        LaunchedTooLate: the first call of a configuration is made in a graph's capture.

    """
    contract.require_tensors(
        codes=codes, wcodes=wcodes, ascales=ascales, wscales=wscales, alpha=alpha
    )
    if bias is not None:
        contract.require_tensors(bias=bias)
    check_gemm(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config, configs=CONFIGS)
    y: Tensor = _nvfp4_gemm_block_scaled_cutedsl(
        codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config
    )
    return y
