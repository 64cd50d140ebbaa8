"""The choice of a tiling for NVFP4's kernels: pure, complete, and with its reason in words."""

from __future__ import annotations

import itertools

from kernels.nvfp4 import triton_gemm, triton_quantize

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


def test_a_step_of_the_gemm_begins_where_a_tile_of_scales_does() -> None:
    assert all(config.block_k % 64 == 0 for config in triton_gemm.CONFIGS.values())
