"""The PTX of NVFP4's GEMM for sm120, interpreted: every tiling computes what the reference says.

With no GPU. It shows indices, masks, the order of copies and barriers, that no load waits for a
bank, and that codes and scales reach the threads that the PTX ISA names. It says nothing of ptxas,
of a device, or of how its tensor cores sum: here a product is exact and rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import torch

from harness import registry
from harness.case import Case
from harness.execute import build
from harness.judge import compare_with
from harness.reference import evaluate
from harness.values import families_of
from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
from kernels.nvfp4.warp_scaled_policy import CONFIGS
from references import nvfp4_gemm
from suites.meta.scale_cutedsl import require_compiler
from suites.numeric.interpreted_gemm import expected, interpreted, operands, require_equal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

HALF, BRAIN = torch.float16, torch.bfloat16
NAMES: Final = tuple(CONFIGS)
FAMILIES: Final = tuple(families_of(registry.op(nvfp4_gemm.nvfp4_gemm.__name__)))
# Rows and columns beyond one tile, k, the bytes between rows (0: dense), dtypes of bias and y.
EDGES: Final = {
    "a row too few": (-1, 0, 32, 0, None, BRAIN),
    "a column too many": (0, 8, 96, 0, BRAIN, HALF),
    "a row too many": (1, -8, 256, 0, HALF, BRAIN),
    "several tiles": (1, 8, 160, 112, None, HALF),
}


def computed(
    given: Mapping[str, Tensor | None], config: str, dtype: torch.dtype, seed: int = 7
) -> Tensor:
    actual, counts = interpreted(
        nvfp4_gemm_warp_scaled_cutedsl, "sm120", given, config=config, dtype=dtype, seed=seed
    )
    assert counts.products > 0
    assert counts.conflicts == 0
    return actual


@pytest.mark.parametrize("config", CONFIGS)
def test_every_stage_is_used_twice(config: str) -> None:
    require_compiler()
    tile = CONFIGS[config]
    k = 128 * tile.spans * (tile.stages + 1) + 32
    given = operands(tile.rows - 3, tile.columns, k, bias=BRAIN, smallest=0)
    require_equal(computed(given, config, HALF), expected(given, HALF))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_tile_ends_where_the_operands_do(config: str, edge: str) -> None:
    require_compiler()
    tile, (below, beside, k, row, bias, dtype) = CONFIGS[config], EDGES[edge]
    sizes = (tile.rows + below, tile.columns + beside, k)
    given = operands(*sizes, bias=bias, row=row, smallest=0)
    require_equal(computed(given, config, dtype), expected(given, dtype))


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_every_family_are_within_the_budget(family: str) -> None:
    require_compiler()
    seed = FAMILIES.index(family)
    op, kernel = registry.op("nvfp4_gemm"), registry.kernel("nvfp4_gemm.cutedsl.warp_scaled")
    dtypes = (("float16", "bfloat16"), ("bfloat16", "float16"))[seed % 2]
    case = Case(
        kernel=kernel.name,
        sizes=(("m", 19), ("n", 72), ("k", 352)),
        dtype=dtypes[0],
        params=(("out_dtype", dtypes[1]),),
        values=family,
        layout=kernel.layouts[seed % len(kernel.layouts)],
        config=NAMES[seed % len(NAMES)],
        seed=seed,
    )
    call = build(op, case, torch.device("cpu"))
    actual = computed(call.tensors, case.config, getattr(torch, dtypes[1]), seed)
    verdict = compare_with(actual, evaluate(op, kernel, case, call.tensors)["y"])
    assert verdict.passed, str(verdict)
