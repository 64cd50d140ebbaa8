"""NVFP4's GEMM in the CuTe DSL: what its public function checks, chooses and launches.

Tiling, layout and order of operations are told in ``cutedsl/gemm_dequantized.py`` and, for many
rows on sm90, in ``cutedsl/gemm_dequantized_async.py``; which path and tiling a launch takes, in
``cutedsl_policy``. Importing this needs no CuTe DSL: the first launch compiles what it launches, or
finds it on disk. The folder ``cutedsl`` is no package, so that nothing that imports all modules
imports the DSL.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel
from kernels import contract
from kernels.nvfp4.cutedsl_launch import gemm_of, launch
from kernels.nvfp4.cutedsl_policy import (
    ARCH,
    CONFIGS,
    Tile,
    WarpgroupTile,
    choose_config,
    choose_path,
    tile_of,
)
from kernels.nvfp4.gemm_arguments import check_gemm

if TYPE_CHECKING:
    from harness.native import Function

WORD: Final = 4  # bytes of scales that are copied at once
TEXTS: Final = {Tile: "gemm_dequantized.py", WarpgroupTile: "gemm_dequantized_async.py"}


@cache
def _gemm(tile: Tile | WarpgroupTile) -> Function:
    return gemm_of(TEXTS[type(tile)], tile, __name__, specific=tile.specific)


@torch.library.custom_op("kernel_parity::nvfp4_gemm_cutedsl", mutates_args=())
def _nvfp4_gemm_cutedsl(
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
    path, _ = choose_path(device.require_arch(codes.device, ARCH))
    m, n = codes.shape[0], wcodes.shape[0]
    y = torch.empty((m, n), dtype=out_dtype, device=codes.device)
    if m > 0:
        name = config or choose_config(m, n, device.multiprocessors(codes.device), path)[0]
        tile = tile_of(name, path)
        operands = (codes, wcodes, ascales, wscales, alpha, bias, y)
        launch(_gemm(tile), tile, *operands, scale_alignment=WORD)
    return y


@_nvfp4_gemm_cutedsl.register_fake
def _fake_nvfp4_gemm(
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
    arch=ARCH,
    torch_op="kernel_parity::nvfp4_gemm_cutedsl",
    configs=tuple(CONFIGS),
    accumulates="tensor_core",
    layouts=("contiguous", "offset"),
    instructions={
        "sm8x": r"\bHMMA\.16816\.F32\b",
        "sm90": r"\b(HMMA\.16816|HGMMA\.64x256x16)\.F32\b",
    },
    emulated=False,
)
def nvfp4_gemm_cutedsl(
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
    strides; rows that are not dense, or not 16 bytes aligned, are copied first. ``ascales`` and
    ``wscales`` are float8_e4m3fn, one for each 16 along k, in the layout 128x4 and contiguous:
    ``[m, k/16]`` and ``[n, k/16]`` padded to multiples of 128 and 4; what the padding holds does
    not matter. ``alpha [1]`` is float32, the product of both global *decode* scales,
    ``1 / (g_a * g_w)``. ``bias [n]`` is float16 or bfloat16. Returns contiguous ``[m, n]`` in
    ``out_dtype``, float16 or bfloat16. ``config`` names a tiling of ``CONFIGS``; None leaves the
    choice to ``choose_config``.

    The first call of a configuration compiles it, which takes seconds, or finds it on disk, and
    loads it; recording a CUDA graph needs such a call before.

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
    y: Tensor = _nvfp4_gemm_cutedsl(codes, wcodes, ascales, wscales, alpha, bias, out_dtype, config)
    return y
