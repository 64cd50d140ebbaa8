"""The choice of a tiling for NVFP4's kernels: pure, complete, and with its reason in words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from harness import arch as arches
from harness.artifact import SHARED_LIMITS
from kernels.nvfp4 import (
    cutedsl_policy,
    triton_gemm,
    triton_moe_down,
    triton_moe_up,
    triton_quantize,
)

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


@pytest.mark.parametrize("path", cutedsl_policy.PATHS)
@pytest.mark.parametrize("multiprocessors", [82, 132])
def test_every_tiling_of_the_dsls_gemm_is_chosen_somewhere_and_no_other(
    multiprocessors: int, path: str
) -> None:
    chosen = {
        (m, n): cutedsl_policy.choose_config(m, n, multiprocessors, path)
        for m, n in itertools.product((*SIZES, 32), SIZES)
    }
    assert {name for name, _ in chosen.values()} == set(cutedsl_policy.CONFIGS)
    for (m, _), (name, reason) in chosen.items():
        assert f"m={m}" in reason
        assert (cutedsl_policy.CONFIGS[name].rows >= 64) is (m > 32)


def test_every_claimed_arch_has_a_path_and_no_other() -> None:
    for arch in arches.ARCHES:
        if arches.admits(cutedsl_policy.ARCH, arch):
            path, reason = cutedsl_policy.choose_path(arch)
            assert arches.admits(cutedsl_policy.PATHS[path], arch)
            assert reason.startswith(arch)
        else:
            with pytest.raises(arches.UnsupportedArch, match=f"arch='{arch}' is not supported"):
                cutedsl_policy.choose_path(arch)


@pytest.mark.parametrize("m", [1024, 4096])
def test_warpgroups_have_many_rows_and_no_fewer(m: int) -> None:
    path = cutedsl_policy.ASIDE
    name, reason = cutedsl_policy.choose_config(m, 8192, 132, path)
    assert isinstance(cutedsl_policy.tile_of(name, path), cutedsl_policy.WarpgroupTile)
    assert reason.endswith("tiles of 128x256, 1 or more a multiprocessor")
    fewer, _ = cutedsl_policy.choose_config(m // 8, 8192, 132, path)
    assert isinstance(cutedsl_policy.tile_of(fewer, path), cutedsl_policy.Tile)


def test_a_path_has_its_own_way_to_dequantize() -> None:
    converts = {path: cutedsl_policy.tile_of("m16n32", path) for path in cutedsl_policy.PATHS}
    assert [tile.constants()["CONVERTS"] for tile in converts.values()] == [0, 1, 1]


@pytest.mark.parametrize("path", cutedsl_policy.PATHS)
@pytest.mark.parametrize("name", cutedsl_policy.CONFIGS)
def test_a_tiling_of_the_dsls_gemm_is_whole(name: str, path: str) -> None:
    """What the kernel divides by threads and warps comes out even, and fits into every arch."""
    tile = cutedsl_policy.tile_of(name, path)
    claim = cutedsl_policy.PATHS[path]
    claimed = [arch for arch in SHARED_LIMITS if arches.admits(claim, arch)]
    assert tile.shared_bytes <= min(SHARED_LIMITS[arch] for arch in claimed)
    if isinstance(tile, cutedsl_policy.WarpgroupTile):
        assert tile.rows % 128 == tile.columns % 128 == 0, "units of 128 rows"
        assert tile.columns <= 256, "columns of a product"
        return
    assert 128 % tile.rows == 128 % tile.columns == 0, "a tile lies in one tile of scales"
    assert tile.rows % (16 * tile.warps_m) == tile.columns % (8 * tile.warps_n) == 0
    slice_threads = tile.threads // tile.slices
    for rows in (tile.rows, tile.columns):
        assert rows * tile.spans * 4 % slice_threads == 0, "units of 16 bytes of codes"
        assert rows * tile.spans * 2 % slice_threads == 0, "words of scales"
    assert slice_threads % (4 * tile.spans) == 0
    assert tile.slices < 16, "barriers"
