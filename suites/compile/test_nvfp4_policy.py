"""The choice of a tiling for NVFP4's kernels: pure, complete, and with its reason in words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from kernels.nvfp4 import triton_gemm, triton_moe_down, triton_moe_up, triton_quantize

if TYPE_CHECKING:
    from types import ModuleType

SIZES = (1, 4, 16, 17, 64, 300, 1024, 4096, 8192, 65536)


def test_every_tiling_of_the_gemm_is_chosen_somewhere_and_no_other() -> None:
    chosen = {(m, n): triton_gemm.choose_config(m, n) for m, n in itertools.product(SIZES, SIZES)}
    assert {name for name, _ in chosen.values()} == set(triton_gemm.CONFIGS)
    for (m, _), (name, reason) in chosen.items():
        assert f"m={m}" in reason
        assert (triton_gemm.CONFIGS[name].block_m == 16) is (m <= 16)


def test_every_tiling_of_the_quantizer_is_chosen_somewhere_and_no_other() -> None:
    chosen = {
        (m, k): triton_quantize.choose_config(m, k) for m, k in itertools.product(SIZES, SIZES[3:])
    }
    assert {name for name, _ in chosen.values()} == set(triton_quantize.CONFIGS)
    assert all(f"k={k}" in reason or f"m={m}" in reason for (m, k), (_, reason) in chosen.items())


@pytest.mark.parametrize("half", [triton_moe_up, triton_moe_down])
def test_every_tiling_of_the_experts_is_chosen_somewhere_and_no_other(half: ModuleType) -> None:
    chosen = {
        (slots, experts): half.choose_config(slots, experts)
        for slots, experts in itertools.product(SIZES, (1, 8, 256))
    }
    assert {name for name, _ in chosen.values()} == set(half.CONFIGS)
    for (slots, experts), (name, reason) in chosen.items():
        rows = -(-slots // experts)
        assert f"{rows} slots an expert" in reason
        assert (half.CONFIGS[name].block_m == 16) is (rows <= 16)


@pytest.mark.parametrize("module", [triton_gemm, triton_moe_up, triton_moe_down])
def test_a_step_begins_where_a_tile_of_scales_does(module: ModuleType) -> None:
    assert all(config.block_k % 64 == 0 for config in module.CONFIGS.values())
