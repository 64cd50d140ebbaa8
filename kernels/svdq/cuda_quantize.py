"""SVDQuant's activation quantizer with the low-rank down projection, in CUDA C++.

Tiling, layout and order of operations are told in ``cuda/quantize.cu``; which tiling and split of k
a launch takes, in ``cuda_policy``. Importing this needs neither cuda-core nor NVRTC; the first
launch compiles what it launches.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness import device, kernel
from harness.nvrtc import Function
from kernels import contract
from kernels.svdq.cuda_policy import (
    QUANTIZE_CONFIGS,
    QuantizeConfig,
    choose_quantize,
    has_clusters,
)
from kernels.svdq.cuda_sources import source
from kernels.svdq.domain import ARCH, GROUP
from kernels.svdq.quantize_arguments import check_quantize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.kernel_arguments import Kind

ALIGNMENT: Final = 16  # bytes that are read at once
ROW_MULTIPLE: Final = 8  # elements between rows of x: 16 bytes
PAIRS: Final = 64  # of neighbouring sums in a block of the second kernel
_QUANTIZE: Final[Mapping[str, Kind]] = {
    "x": "tensor",
    "lora_down": "tensor",
    "smooth": "tensor",
    "codes": "uint8",
    "ascales": "tensor",
    "sums": "float32",
    "m": ctypes.c_int32,
    "k": ctypes.c_int32,
    "r": ctypes.c_int32,
    "share": ctypes.c_int32,
    "x_row": ctypes.c_int64,
}
_ADD_SPLITS: Final[Mapping[str, Kind]] = {
    "workspace": "float32",
    "splits": ctypes.c_int32,
    "lora_act": "float32",
    "m": ctypes.c_int32,
    "r": ctypes.c_int32,
}


def _quantize(config: QuantizeConfig, r: int, *, bf16: bool, clusters: bool) -> Function:
    return _tiling(tuple(config.defines(r, bf16=bf16, clusters=clusters).items()))


@cache
def _tiling(defines: tuple[tuple[str, int], ...]) -> Function:
    made = source("quantize.cu", "svdq_quantize_w4a4", dict(defines))
    return Function(made, _QUANTIZE, __name__)


@cache
def _add_splits() -> Function:
    made = source("quantize_add_splits.cu", "svdq_quantize_w4a4_add_splits")
    return Function(made, _ADD_SPLITS, __name__)


def add_splits(sums: Tensor, lora_act: Tensor) -> None:
    """Launch ``lora_act [m, r] =`` the sums ``[splits, m, r]``, added in their order."""
    splits, m, r = sums.shape
    _add_splits().launch(
        *(sums, splits, lora_act, m, r), grid=-(-m * r // (2 * PAIRS)), block=PAIRS
    )


def _check(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, config: str | None
) -> None:
    """What the operator and its fake refuse; torch.compile cannot trace through an offset."""
    check_quantize(x, lora_down, smooth, precision, config, configs=QUANTIZE_CONFIGS)
    contract.require_contiguous("lora_down", lora_down)
    contract.require_contiguous("smooth", smooth)
    rows_apart = x.stride(0) if x.shape[0] > 1 else 0
    if x.stride(1) != 1 or rows_apart % ROW_MULTIPLE:
        msg = (
            f"x has strides {list(x.stride())}; its rows must be dense and a multiple of "
            f"{ROW_MULTIPLE} elements apart: pass x.contiguous()"
        )
        raise ValueError(msg)
    for name, value in (("x", x), ("lora_down", lora_down), ("smooth", smooth)):
        contract.require_aligned(name, value, ALIGNMENT)


@torch.library.custom_op("kernel_parity::svdq_quantize_w4a4_act_fuse_lora_cuda", mutates_args=())
def _svdq_quantize_w4a4_act_fuse_lora_cuda(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, config: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, lora_down, smooth, precision, config)
    contract.require_addresses(ALIGNMENT, x=x, lora_down=lora_down, smooth=smooth)
    clusters = has_clusters(device.require_arch(x.device, ARCH))
    (m, k), r = x.shape, lora_down.shape[1]
    codes = torch.empty((m, k // 2), dtype=torch.uint8, device=x.device)
    ascales = torch.empty((k // GROUP, m), dtype=x.dtype, device=x.device)
    lora_act = torch.empty((m, r), dtype=torch.float32, device=x.device)
    if m == 0:
        return codes, ascales, lora_act
    multiprocessors = device.multiprocessors(x.device)
    name = config or choose_quantize(m, k, r, multiprocessors, clusters=clusters)[0]
    tiling = QUANTIZE_CONFIGS[name]
    # Partial sums, each written whole before the second kernel reads them: nothing persists.
    sums = lora_act
    clustered = tiling.is_clustered(clusters=clusters)
    if tiling.splits > 1 and not clustered:
        sums = torch.empty((tiling.splits, m, r), dtype=torch.float32, device=x.device)
    _quantize(tiling, r, bf16=x.dtype is torch.bfloat16, clusters=clusters).launch(
        *(x, lora_down, smooth, codes, ascales, sums, m, k, r, tiling.share(k), x.stride(0)),
        grid=(-(-m // tiling.block_m), tiling.splits, tiling.rank_pieces(r)),
        block=tiling.threads,
        cluster=(1, tiling.splits) if clustered else None,
        overlaps=clusters and tiling.warps_k > 1,
        shared_bytes=tiling.shared_bytes(r),
    )
    if sums is not lora_act:
        add_splits(sums, lora_act)
    return codes, ascales, lora_act


@_svdq_quantize_w4a4_act_fuse_lora_cuda.register_fake
def _fake_svdq_quantize_w4a4_act_fuse_lora(
    x: Tensor, lora_down: Tensor, smooth: Tensor, precision: str, config: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, lora_down, smooth, precision, config)
    m, k = x.shape
    return (
        x.new_empty((m, k // 2), dtype=torch.uint8),
        x.new_empty((k // GROUP, m)),
        x.new_empty((m, lora_down.shape[1]), dtype=torch.float32),
    )


@kernel(
    "svdq_quantize_w4a4_act_fuse_lora",
    backend="cuda",
    arch=ARCH,
    torch_op="kernel_parity::svdq_quantize_w4a4_act_fuse_lora_cuda",
    configs=tuple(QUANTIZE_CONFIGS),
    accumulates="tensor_core",
    instructions={">=sm80": r"\bHMMA\.16816\.F32"},
    emulated=False,
)
def svdq_quantize_w4a4_act_fuse_lora_cuda(
    x: Tensor,
    lora_down: Tensor,
    smooth: Tensor,
    *,
    precision: str = "int4",
    config: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize ``x [m, k]`` by groups of 64 after ``/ smooth [k]``; ``x @ lora_down [k, r]``.

    Inputs float16 or bfloat16, contiguous, but for rows of ``x``, which may lie any multiple of 8
    elements apart; all begin at a multiple of 16 bytes. Returns ``codes`` uint8 ``[m, k/2]``
    (signed int4, even k in the low nibble), ``ascales [k/64, m]`` in the dtype of ``x``,
    ``lora_act`` float32 ``[m, r]``. ``config`` names one of ``QUANTIZE_CONFIGS``; None leaves the
    choice to ``choose_quantize``.

    The first call of a configuration compiles it and loads it, about a second without the cache on
    disk; recording a CUDA graph needs such a call before.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, strides, an alignment, a device or a value.
        NotImplementedError: another precision.
        UnsupportedArch: an arch before sm80.
        BackendMissing: cuda-core or NVRTC; says what to install.
        CompileFailed: with the compiler's log.
        LaunchedTooLate: the first call of a configuration is made in a graph's capture.

    """
    contract.require_tensors(x=x, lora_down=lora_down, smooth=smooth)
    check_quantize(x, lora_down, smooth, precision, config, configs=QUANTIZE_CONFIGS)
    quantized: tuple[Tensor, Tensor, Tensor] = _svdq_quantize_w4a4_act_fuse_lora_cuda(
        x, lora_down, smooth, precision, config
    )
    return quantized
