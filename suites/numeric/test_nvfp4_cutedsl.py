"""The PTX of the DSL's NVFP4 GEMM, interpreted: every tiling computes what the reference says.

With no GPU. It shows indices, masks, roundings, the order of copies and barriers, that each product
of a code and a scale is exact, and that no load waits for a bank; it says nothing of ptxas or of a
device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.nvfp4 import triton_gemm
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
from kernels.nvfp4.cutedsl_policy import CONFIGS, Tile, WarpgroupTile, choose_path, tile_of
from suites.meta.scale_cutedsl import require_compiler
from suites.numeric.interpreted_gemm import expected, interpreted, operands, require_equal


def long(tile: Tile | WarpgroupTile) -> int:
    """So many numbers along k that every stage is used twice, and the last step is not whole."""
    if isinstance(tile, WarpgroupTile):
        return 64 * 4 + 32
    return 128 * tile.spans * tile.slices * (tile.stages + 1) + 32


# Several tiles are walked alike whatever their size: one with a slice, and two with several.
# What follows from a path are the numbers alone: each is seen in full, and in parts of tiles.
CASES = [
    *((config, "sm90", False) for config in CONFIGS),
    *(("m16n32", "sm80", False), ("m128", "sm89", False)),
    *(("m64n64", "sm90", True), ("m128", "sm90", True)),
    *((config, "sm80", True) for config in ("m16n32", "m64n128", "m128")),
]


@pytest.mark.parametrize(("config", "arch", "ragged"), CASES)
def test_the_code_computes_the_product(config: str, arch: str, *, ragged: bool) -> None:
    require_compiler()
    tile = tile_of(config, choose_path(arch)[0])
    if ragged:  # several tiles, a part of a step
        dtype = torch.bfloat16
        given = operands(tile.rows + 1, tile.columns + 8, 160, bias=None, row=112)
    else:
        dtype = torch.float16
        given = operands(tile.rows - 3, tile.columns, long(tile), bias=dtype)
    actual, counts = interpreted(
        nvfp4_gemm_cutedsl, arch, given, config=config, dtype=dtype, seed=7
    )
    assert counts.products > 0
    assert counts.conflicts == 0
    require_equal(actual, expected(given, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS)
def test_on_a_gpu_it_gives_the_bits_of_triton(config: str, dtype: torch.dtype) -> None:
    require_compiler()
    for m, n, k in ((1, 8, 32), (17, 264, 160), (300, 520, 2080)):
        given = operands(m, n, k, bias=dtype)
        there: Any = {name: None if each is None else each.cuda() for name, each in given.items()}
        wanted = expected(given, dtype)
        ours = nvfp4_gemm_cutedsl(**there, out_dtype=dtype, config=config)
        theirs = triton_gemm.nvfp4_gemm(**there, out_dtype=dtype)
        require_equal(ours.cpu(), wanted)
        require_equal(theirs.cpu(), wanted)
