"""On exact grids the bundled kernels are right to the bit, and less than a budget is a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from harness import registry
from harness.case import Case
from harness.execute import execute
from harness.judge import judge
from harness.reference import evaluate
from suites.meta.mutants import Mutant, planted

if TYPE_CHECKING:
    from pathlib import Path

    from harness.declare import Kernel

CPU = torch.device("cpu")
RMS_NORM = "rms_norm.triton"
QUANTIZE = "svdq_quantize_w4a4_act_fuse_lora.triton"
GEMM = "svdq_gemm_w4a4.triton"
NVFP4_GEMM = "nvfp4_gemm.triton"
SIZES = {
    RMS_NORM: {"m": 33, "n": 205},
    QUANTIZE: {"m": 33, "k": 320, "r": 48},
    GEMM: {"m": 33, "n": 72, "k": 320, "r": 32},
    NVFP4_GEMM: {"m": 33, "n": 72, "k": 352},
}
GRIDS = {RMS_NORM: ("grid",)} | dict.fromkeys((QUANTIZE, GEMM, NVFP4_GEMM), ("exact", "probe"))

# Errors of 8 units of 2^-24, which the budget of every sum admits.
FAULTS = (
    Mutant(
        "low_rank_by_a_hair",
        QUANTIZE,
        "        acc,\n        mask=row_ok",
        "        acc * (1 + 2.0**-21),\n        mask=row_ok",
        "bitwise",
    ),
    Mutant(
        "product_by_a_hair",
        GEMM,
        "    out = acc * alpha\n",
        "    out = acc * alpha * (1 + 2.0**-21)\n",
        "bitwise",
    ),
    Mutant(
        "nvfp4_product_by_a_hair",
        NVFP4_GEMM,
        "acc * _TO_VALUE * tl.load(alpha)",
        "acc * (_TO_VALUE * (1 + 2.0**-21)) * tl.load(alpha)",
        "bitwise",
    ),
)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


def judged(
    kernel: Kernel, values: str, *, dtype: str = "bfloat16", seed: int = 0
) -> tuple[set[str], list[str]]:
    """How outputs that are no bytes are judged, and which oracles found fault."""
    op = registry.op(kernel.op)
    params = {name: list(labels)[seed % len(labels)] for name, labels in op.params.items()}
    case = Case(
        kernel=kernel.name,
        sizes=tuple(SIZES[kernel.name].items()),
        dtype=dtype,
        params=tuple(params.items()),
        values=values,
        seed=seed,
    )
    call, seen = execute(op, kernel, case, CPU)
    truths = evaluate(op, kernel, case, call.tensors)
    findings = judge(op, seen, truths).findings
    return {truth.oracle for truth in truths.values()} - {"exact"}, [f.oracle for f in findings]


@pytest.mark.parametrize(
    ("name", "values"), [(name, values) for name, grids in GRIDS.items() for values in grids]
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_right_kernel_is_right_to_the_bit(name: str, values: str, dtype: str) -> None:
    for seed in range(4):
        assert judged(registry.kernel(name), values, dtype=dtype, seed=seed) == ({"bitwise"}, [])


def test_an_approximate_function_leaves_float32_to_its_budget() -> None:
    assert judged(registry.kernel(RMS_NORM), "grid", dtype="float32") == ({"budget"}, [])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_that_every_budget_admits_is_seen_on_the_grid(
    fault: Mutant, tmp_path: Path
) -> None:
    with planted(fault, tmp_path) as kernel:
        for seed in range(4):
            assert judged(kernel, "normal", seed=seed) == ({"budget"}, [])
            assert judged(kernel, "exact", seed=seed) == ({"bitwise"}, [fault.says])
