"""What NVFP4's GEMMs in the CuTe DSL share: parameters, copies of what cannot be read, the launch.

A kernel that is launched so takes `PARAMETERS`, then a tiling's constants, and one tile a block.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import torch

from harness.cutedsl import Source, function_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.kernel_arguments import Kind
    from harness.native import Function

FOLDER: Final = Path(__file__).parent / "cutedsl"
UNIT: Final = 16  # bytes of codes that are copied at once
PARAMETERS: Final[Mapping[str, Kind]] = {
    "codes": "uint8",
    "wcodes": "uint8",
    "ascales": "uint8",
    "wscales": "uint8",
    "alpha": "float32",
    "bias": "tensor?",
    "y": "tensor",
    "m": ctypes.c_int32,
    "n": ctypes.c_int32,
    "octets": ctypes.c_int32,
    "wide": ctypes.c_int32,
    "codes_row": ctypes.c_int64,
    "wcodes_row": ctypes.c_int64,
    "bias_column": ctypes.c_int32,
    "has_bias": ctypes.c_int32,
    "bias_bf16": ctypes.c_int32,
    "y_bf16": ctypes.c_int32,
}


class Tiling(Protocol):
    """What a launch asks of a policy's tiling."""

    @property
    def threads(self) -> int:
        """Threads of a block."""

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory."""

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""

    def tiles(self, m: int, n: int) -> int:
        """Blocks of an output ``[m, n]``."""


def gemm_of(file: str, tile: Tiling, module: str, *, specific: bool = False) -> Function:
    """The kernel in ``file`` with the constants of a tiling; ``module`` is whose it is."""
    source = Source(
        name=file,
        text=(FOLDER / file).read_text("utf-8"),
        kernel="nvfp4_gemm",
        parameters=PARAMETERS,
        constants=tile.constants(),
        specific=specific,
    )
    return function_of(source, module)


def rows_apart(codes: Tensor) -> Tensor:
    """The codes themselves if rows are dense and can be copied 16 bytes at once, else a copy.

    Every backend takes the same calls; codes that a quantizer has made need no copy.
    """
    dense = codes.stride(1) == 1 and codes.stride(0) % UNIT == 0
    if dense and codes.data_ptr() % UNIT == 0:
        return codes
    return codes.clone(memory_format=torch.contiguous_format)


def contiguous(tensor: Tensor, alignment: int) -> Tensor:
    """The tensor itself if it is contiguous and begins at a multiple of that, else a copy."""
    if tensor.is_contiguous() and tensor.data_ptr() % alignment == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def launch(
    gemm: Function,
    tile: Tiling,
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    y: Tensor,
    *,
    scale_alignment: int,
) -> None:
    """Launch a kernel on operands that ``check_gemm`` has let pass; ``y`` is not empty."""
    (m, n), octets = y.shape, codes.shape[1]
    codes, wcodes = rows_apart(codes), rows_apart(wcodes)
    scales = (contiguous(each.view(torch.uint8), scale_alignment) for each in (ascales, wscales))
    gemm.launch(
        *(codes, wcodes, *scales, alpha, bias, y, m, n, octets, ascales.shape[1]),
        *(codes.stride(0), wcodes.stride(0), 0 if bias is None else bias.stride(0)),
        int(bias is not None),
        int(bias is not None and bias.dtype is torch.bfloat16),
        int(y.dtype is torch.bfloat16),
        grid=tile.tiles(m, n),
        block=tile.threads,
        shared_bytes=tile.shared_bytes,
    )
