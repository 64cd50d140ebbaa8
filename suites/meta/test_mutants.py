"""Six realistic faults in the bundled kernels turn the numeric layer red, and are located."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from harness import registry
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import ParityFailure
from harness.power.mutation import AnchorGone
from suites.meta.mutants import Mutant, planted

if TYPE_CHECKING:
    from pathlib import Path

QUANTIZE = "svdq_quantize_w4a4_act_fuse_lora.triton"
GEMM = "svdq_gemm_w4a4.triton"
SILU = "silu_and_mul.triton"

MUTANTS = (
    Mutant(
        "tail_mask_off_by_one",
        GEMM,
        "    col_ok = cols < n\n",
        "    col_ok = cols < n - 1\n",
        r"column \d+ of \d+ \(the last\)",
    ),
    Mutant(
        "scale_of_the_neighbouring_group",
        GEMM,
        "tl.load(wscales_ptrs + at * wscales_row,",
        "tl.load(wscales_ptrs + tl.maximum(at - 1, 0) * wscales_row,",
        r"y: budget: \d+ of \d+ elements wrong",
    ),
    Mutant(
        "nibbles_swapped",
        QUANTIZE,
        "(even | (odd << 4)).to(tl.uint8)",
        "(odd | (even << 4)).to(tl.uint8)",
        r"codes: exact: \d+ of \d+ elements wrong",
    ),
    Mutant(
        "low_rank_before_the_scale",
        GEMM,
        "        out += low_rank\n",
        "        out += low_rank * alpha\n",
        r"alpha=0\.75[\s\S]*y: budget: \d+ of \d+ elements wrong",
    ),
    Mutant(
        "store_truncates",
        SILU,
        "out.to(y.dtype.element_ty)",
        'out.to(y.dtype.element_ty, fp_downcast_rounding="rtz")',
        r"y: budget: \d+ of \d+ elements wrong; worst at .* x its budget",
    ),
    Mutant(
        "last_k_tile_dropped",
        GEMM,
        "for group in range(k // _GROUP):",
        "for group in range(k // _GROUP - 1):",
        r"y: budget: \d+ of \d+ elements wrong",
    ),
)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_numeric_layer_turns_red_and_points_at_the_place(
    mutant: Mutant, tmp_path: Path
) -> None:
    with planted(mutant, tmp_path) as kernel:
        check = Check(
            cell=Cell(kernel.name, CPU, Layer.NUMERIC),
            dtype="bfloat16",
            settings=Settings(),
            reproduce=lambda case: f"pytest --case {case}",
        )
        with pytest.raises(ParityFailure) as caught:
            check.explore(check.judge_against_reference)
    assert re.search(mutant.says, str(caught.value)), str(caught.value)


def test_an_edit_that_changes_no_result_is_green(tmp_path: Path) -> None:
    harmless = Mutant("parentheses", SILU, "out.to(y.dtype", "(out).to(y.dtype", "")
    with planted(harmless, tmp_path) as kernel:
        check = Check(
            cell=Cell(kernel.name, CPU, Layer.NUMERIC),
            dtype="bfloat16",
            settings=Settings(),
            reproduce=str,
        )
        check.explore(check.judge_against_reference)
    assert check.counts["cases"] >= 20


def test_a_mutant_whose_anchor_is_gone_is_an_error(tmp_path: Path) -> None:
    rotten = Mutant("rotten", SILU, "no such line", "", "")
    with pytest.raises(AnchorGone, match="occurs 0 times"), planted(rotten, tmp_path):
        pass
