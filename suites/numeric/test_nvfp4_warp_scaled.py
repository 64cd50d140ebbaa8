"""The PTX of NVFP4's GEMM for sm120, interpreted: every tiling computes what the reference says.

With no GPU. It shows indices, masks, the order of copies and barriers, that no load waits for a
bank, and that codes and scales reach the threads that the PTX ISA names. It says nothing of ptxas,
of a device, or of how its tensor cores sum: here a product is exact and rounded once.
"""

from __future__ import annotations

from typing import Final

import pytest
import torch

from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
from kernels.nvfp4.warp_scaled_policy import CONFIGS
from suites.meta.scale_cutedsl import require_compiler
from suites.numeric.interpreted_gemm import expected, interpreted, operands, require_equal

HALF, BRAIN = torch.float16, torch.bfloat16
# Sizes beyond a tile, k, the bytes between rows (0: dense), the dtypes of the bias and of y.
EDGES: Final = {
    "one row": (1, 8, 32, 0, None, BRAIN),
    "half a product along k": (3, 8, 96, 0, BRAIN, HALF),
    "a whole step": (-1, 0, 256, 0, HALF, BRAIN),
    "several tiles": (1, 8, 160, 112, None, HALF),
}


def check(config: str, sizes: tuple[int, int, int], row: int, bias: object, dtype: object) -> None:
    require_compiler()
    given = operands(*sizes, bias=bias, row=row, smallest=0)
    actual, counts = interpreted(
        nvfp4_gemm_warp_scaled_cutedsl, "sm120", given, config=config, dtype=dtype, seed=7
    )
    assert counts.products > 0
    assert counts.conflicts == 0
    require_equal(actual, expected(given, dtype))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_stage_is_used_twice(config: str) -> None:
    tile = CONFIGS[config]
    k = 128 * tile.spans * (tile.stages + 1) + 32
    check(config, (tile.rows - 3, tile.columns, k), 0, BRAIN, HALF)
