"""SVDQuant's W4A4 GEMM in CUDA C++: int4 codes, group scales, bias, low-rank branch.

Tiling, layout and order of operations are told in ``cuda/gemm.cu``, ``gemm_short.cu``,
``gemm_tall.cu`` and the headers that they include; which tiling, path of the integer product and
split of k a launch takes, in ``cuda_policy``. Importing this needs neither cuda-core nor NVRTC; the
first launch compiles what it launches.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel
from harness.artifact import SHARED_LIMITS
from harness.nvrtc import Function
from kernels import contract
from kernels.svdq.cuda_policy import (
    GEMM_CONFIGS,
    GemmTile,
    ShortTile,
    TallTile,
    Tile,
    choose_gemm,
    choose_path,
    has_clusters,
)
from kernels.svdq.cuda_sources import source
from kernels.svdq.domain import ARCH
from kernels.svdq.gemm_arguments import check_gemm

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from harness.kernel_arguments import Kind

End = tuple[tuple[str, "int | str"], ...]  # macros and their values
ALIGNMENT: Final = 16  # bytes that are copied at once
_FINISH: Final[Mapping[str, Kind]] = {
    "lora_act": "float32?",
    "lora_up": "tensor?",
    "bias": "tensor?",
    "wcscales": "tensor?",
    "y": "tensor",
}
_LOW_RANK: Final[Mapping[str, Kind]] = {"r": ctypes.c_int32, "alpha": ctypes.c_float}
_SIZES: Final[Mapping[str, Kind]] = {"m": ctypes.c_int32, "n": ctypes.c_int32}
_OPERANDS: Final[Mapping[str, Kind]] = {
    "codes": "uint8",
    "wcodes": "uint8",
    "ascales": "tensor",
    "wscales": "tensor",
    **_FINISH,
}
_WORKSPACE: Final[Mapping[str, Kind]] = {"workspace": "float32?"}
_NUMBERS: Final[Mapping[str, Kind]] = {
    **_SIZES,
    "k": ctypes.c_int32,
    **_LOW_RANK,
    "out_bf16": ctypes.c_int32,
}
_BAND: Final[Mapping[str, Kind]] = {"band": ctypes.c_int32}
_SHORT: Final[Mapping[str, Kind]] = {**_OPERANDS, **_WORKSPACE, **_NUMBERS}
_TALL: Final[Mapping[str, Kind]] = {**_OPERANDS, **_NUMBERS, **_BAND}
GEMM_PARAMETERS: Final[Mapping[str, Kind]] = {**_OPERANDS, **_WORKSPACE, **_NUMBERS, **_BAND}
_ADD_SPLITS: Final[Mapping[str, Kind]] = {
    "workspace": "float32",
    "splits": ctypes.c_int32,
    **_FINISH,
    **_SIZES,
    **_LOW_RANK,
    "scales_bf16": ctypes.c_int32,
    "out_bf16": ctypes.c_int32,
}


@cache
def _gemm(tile: Tile, path: str, end: End, *, act_unsigned: bool, bf16: bool) -> Function:
    if isinstance(tile, GemmTile):
        return gemm_function(
            tile, path, end, act_unsigned=act_unsigned, bf16=bf16, parameters=GEMM_PARAMETERS
        )
    defines = {**tile.defines(path, act_unsigned=act_unsigned, bf16=bf16), **dict(end)}
    if isinstance(tile, TallTile):
        return Function(source("gemm_tall.cu", "svdq_gemm_w4a4_tall", defines), _TALL, __name__)
    return Function(source("gemm_short.cu", "svdq_gemm_w4a4_short", defines), _SHORT, __name__)


def gemm_function(
    tile: GemmTile,
    path: str,
    end: End,
    *,
    act_unsigned: bool,
    bf16: bool,
    parameters: Mapping[str, Kind],
) -> Function:
    """The main kernel of gemm.cu in a tiling; the macros of ``end`` say how it finishes."""
    defines = tile.defines(path, act_unsigned=act_unsigned, bf16=bf16)
    made = source("gemm.cu", "svdq_gemm_w4a4", {**defines, **dict(end)})
    return Function(made, parameters, __name__)


@cache
def _add_splits(end: End) -> Function:
    made = source("gemm_add_splits.cu", "svdq_gemm_w4a4_add_splits", dict(end))
    return Function(made, _ADD_SPLITS, __name__)


def check_call(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
    *,
    configs: Collection[str] = GEMM_CONFIGS,
) -> None:
    """What a public function refuses before anything of its operator runs."""
    contract.require_tensors(codes=codes, wcodes=wcodes, ascales=ascales, wscales=wscales)
    optional = {"lora_act": lora_act, "lora_up": lora_up, "bias": bias, "wcscales": wcscales}
    contract.require_tensors(**{name: t for name, t in optional.items() if t is not None})
    check_gemm(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, configs=configs,
    )  # fmt: skip


def check(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
    *,
    configs: Collection[str] = GEMM_CONFIGS,
) -> None:
    """What the operator and its fake refuse; torch.compile cannot trace through an offset."""
    check_gemm(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config, configs=configs,
    )  # fmt: skip
    wide: dict[str, Tensor | None] = {"codes": codes, "wcodes": wcodes, "wscales": wscales}
    wide |= {"lora_act": lora_act, "lora_up": lora_up}
    narrow = {"ascales": ascales, "bias": bias, "wcscales": wcscales}
    for name, value in {**wide, **narrow}.items():
        if value is not None:
            contract.require_contiguous(name, value)
            if name in wide:
                contract.require_aligned(name, value, ALIGNMENT)


def multiply(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
    *,
    end: End = (),
) -> Tensor:
    """Check the arguments, launch what the policy chooses, and return y as ``end`` finishes it."""
    check(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    contract.require_addresses(
        ALIGNMENT, codes=codes, wcodes=wcodes, wscales=wscales, lora_act=lora_act, lora_up=lora_up
    )
    arch = device.require_arch(codes.device, ARCH)
    path, _ = choose_path(arch)
    m, n, k = codes.shape[0], wcodes.shape[0], codes.shape[1] * 2
    y = torch.empty((m, n), dtype=out_dtype or ascales.dtype, device=codes.device)
    if m == 0:
        return y
    name = config or choose_gemm(m, n, k, device.multiprocessors(codes.device))[0]
    tile = GEMM_CONFIGS[name].tile.fit(SHARED_LIMITS[arch])
    splits = GEMM_CONFIGS[name].splits
    # The blocks of a cluster read each other's sums, and need no second kernel.
    overlaps = isinstance(tile, ShortTile) and has_clusters(arch)
    clustered = overlaps and splits > 1
    # Partial sums, each written whole before the second kernel reads them: nothing persists.
    workspace = None
    if splits > 1 and not clustered:
        workspace = torch.empty((splits, m, n), dtype=torch.float32, device=codes.device)
    finish = (lora_act, lora_up, bias, wcscales, y)
    bf16, out_bf16 = (dtype is torch.bfloat16 for dtype in (ascales.dtype, y.dtype))
    rank = 0 if lora_act is None else lora_act.shape[1]
    _gemm(tile, path, end, act_unsigned=act_unsigned, bf16=bf16).launch(
        *(codes, wcodes, ascales, wscales, *finish),
        *(() if isinstance(tile, TallTile) else (workspace,)),
        *(m, n, k, rank, alpha, int(out_bf16)),
        *(() if isinstance(tile, ShortTile) else (tile.band,)),
        grid=(tile.tiles(m, n), splits),
        block=tile.threads,
        cluster=(1, splits) if clustered else None,
        overlaps=overlaps,
        shared_bytes=tile.shared_bytes,
    )
    if workspace is not None:
        _add_splits(end).launch(
            *(workspace, splits, *finish, m, n, rank, alpha, int(bf16), int(out_bf16)),
            grid=(-(-m // 16), -(-n // 64)),
            block=128,
        )
    return y


@torch.library.custom_op("kernel_parity::svdq_gemm_w4a4_cuda", mutates_args=())
def _svdq_gemm_w4a4_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    return multiply(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip


@_svdq_gemm_w4a4_cuda.register_fake
def _fake_svdq_gemm_w4a4(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
) -> Tensor:
    check(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    return ascales.new_empty((codes.shape[0], wcodes.shape[0]), dtype=out_dtype)


@kernel(
    "svdq_gemm_w4a4",
    backend="cuda",
    arch=ARCH,
    torch_op="kernel_parity::svdq_gemm_w4a4_cuda",
    configs=tuple(GEMM_CONFIGS),
    accumulates="tensor_core",  # the low-rank branch does; sums of codes are exact
    instructions={
        "sm8x": r"\bIMMA\.16864\.[SU]4\.S4\b",
        ">=sm90": r"\bIMMA\.16832\.S8\.S8\b",
    },
    emulated=False,
)
def svdq_gemm_w4a4_cuda(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    *,
    lora_act: Tensor | None = None,
    lora_up: Tensor | None = None,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    wcscales: Tensor | None = None,
    act_unsigned: bool = False,
    out_dtype: torch.dtype | None = None,
    config: str | None = None,
) -> Tensor:
    """``alpha * dequant(codes) @ dequant(wcodes)^T * wcscales + bias + lora_act @ lora_up^T``.

    ``codes [m, k/2]`` and ``wcodes [n, k/2]`` are uint8, two signed int4 a byte, even k low (the
    activations 0..15 if ``act_unsigned``). ``ascales [k/64, m]`` and ``wscales [k/64, n]`` are
    float16 or bfloat16, and ``lora_up [n, r]``, ``bias [n]`` and ``wcscales [n]`` are of the same
    dtype; ``lora_act [m, r]`` is float32. All are contiguous, and codes, ``wscales`` and low-rank
    factors begin at a multiple of 16 bytes. Returns contiguous ``[m, n]`` in ``out_dtype``, or the
    dtype of the scales if None; float16 saturates at +-65504. ``config`` names one of
    ``GEMM_CONFIGS``; None leaves the choice to ``choose_gemm``.

    The first call of a configuration compiles it and loads it, about a second without the cache on
    disk; recording a CUDA graph needs such a call before.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, strides, an alignment, a device or a value.
        UnsupportedArch: an arch before sm80.
        BackendMissing: cuda-core or NVRTC; says what to install.
        CompileFailed: with the compiler's log.
        LaunchedTooLate: the first call of a configuration is made in a graph's capture.

    """
    check_call(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    y: Tensor = _svdq_gemm_w4a4_cuda(
        codes, wcodes, ascales, wscales, lora_act, lora_up, bias, alpha, wcscales, act_unsigned,
        out_dtype, config,
    )  # fmt: skip
    return y
