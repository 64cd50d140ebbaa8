"""The CUDA W4A4 kernels' policies: every choice is in the tables, runs anywhere, and says why."""

from __future__ import annotations

import itertools
import re

import pytest

from harness.arch import ARCHES
from harness.artifact import SHARED_LIMITS
from kernels.svdq.cuda_policy import (
    GEMM_CONFIGS,
    GEMM_TILES,
    QUANTIZE_CONFIGS,
    REQUANTIZE_TILES,
    STEP,
    ShortTile,
    TallTile,
    choose_gemm,
    choose_path,
    choose_quantize,
    choose_requantize,
    has_clusters,
)
from kernels.svdq.cuda_sources import FOLDER, source
from kernels.svdq.domain import GROUP, MAX_R

ROWS = (1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 300, 512, 1024, 4096, 16384)
COLUMNS = (8, 64, 512, 1024, 2048, 4096, 4224, 8192, 16384)
DEPTHS = (64, 512, 1024, 3072, 4096, 8192, 65536)
MULTIPROCESSORS = (84, 108, 132, 148, 188)
RANKS = range(16, MAX_R + 1, 16)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_integer_product_is_a_native_one(arch: str) -> None:
    path, why = choose_path(arch)
    assert path == ("s4" if arch in {"sm80", "sm86", "sm89"} else "s8")
    assert arch in why


def test_the_gemm_chooses_every_config_and_no_other() -> None:
    points = itertools.product(ROWS, COLUMNS, DEPTHS, MULTIPROCESSORS)
    assert {choose_gemm(*point)[0] for point in points} == set(GEMM_CONFIGS)


def test_a_gemm_that_requantizes_chooses_every_config_and_no_other() -> None:
    points = itertools.product(ROWS, (64, 192, 512, 4096, 4160, 16384), MULTIPROCESSORS)
    assert {choose_requantize(*point)[0] for point in points} == set(REQUANTIZE_TILES)


@pytest.mark.parametrize(
    ("size", "config", "why"),
    [
        ((16, 4096), "m16n64", "m=16 fits one tile row of 16"),
        ((17, 4096), "m32n64", "m=17 fits one tile row of 32"),
        ((64, 4096), "m64n64", "fewer whole tiles of 64x128 than there are multiprocessors"),
        ((4096, 3072), "m64n128", "1536 whole tiles, one or more a multiprocessor"),
        ((4096, 3136), "m64n64", "n=3136 make fewer whole tiles of 64x128"),
    ],
)
def test_the_choice_of_a_gemm_that_requantizes_says_why(
    size: tuple[int, int], config: str, why: str
) -> None:
    chosen, said = choose_requantize(*size, 132)
    assert chosen == config
    assert why in said


def test_a_tile_that_is_requantized_is_whole_groups_in_one_piece_that_fits() -> None:
    for tile in REQUANTIZE_TILES.values():
        rows, columns = tile.block_m // tile.warps_m // 16, tile.block_n // tile.warps_n // 8
        assert tile.block_n % GROUP == 0
        assert (rows <= 2, columns <= 4) == (True, True)
        # The tile of y, and 32 columns of lora_down; rows have 16 bytes more for the banks.
        needed = tile.block_m * (2 * tile.block_n + 16) + tile.block_n * (2 * 32 + 16)
        assert needed <= tile.shared_bytes


def test_the_quantizer_chooses_every_config_and_no_other() -> None:
    chosen = {
        choose_quantize(*point, clusters=clusters)[0]
        for point in itertools.product(ROWS, DEPTHS, RANKS, MULTIPROCESSORS)
        for clusters in (False, True)
    }
    assert chosen == set(QUANTIZE_CONFIGS)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_short_quantizer_is_one_launch_where_there_are_clusters(arch: str) -> None:
    clusters = has_clusters(arch)
    assert clusters == (arch not in {"sm80", "sm86", "sm89"})
    config = QUANTIZE_CONFIGS[choose_quantize(16, 8192, 32, 132, clusters=clusters)[0]]
    assert config.splits > 1
    assert config.is_clustered(clusters=clusters) == clusters


@pytest.mark.parametrize(
    ("size", "config", "why"),
    [
        ((1, 8192, 8192), "m8n64", "m=1 fits 8 rows; tiles of 64 occupy most of the GPU"),
        ((8, 4096, 4096), "m8n32", "m=8 fits 8 rows; n=4096 needs narrow tiles"),
        ((9, 28672, 8192), "m16n64", "m=9 fits 16 rows; tiles of 64 occupy most of the GPU"),
        ((16, 4096, 4096), "m16n32", "n=4096 needs narrow tiles to occupy the GPU"),
        ((16, 512, 8192), "m16n32_k8", "16 tile(s) leave multiprocessors idle: k in 8 shares"),
        ((17, 8192, 8192), "m32n32", "m=17 fits one tile row of 32"),
        ((64, 4096, 4096), "m64n64_k2", "m=64 fits one tile row of 64"),
        ((512, 4096, 4096), "m64n128", "256 tiles, enough for 1 wave(s)"),
        ((4096, 4096, 4096), "m128n64", "2048 tiles, enough for 2 wave(s)"),
        ((100, 512, 64), "m64n64", "fewer tiles of 64x128 than there are multiprocessors"),
    ],
)
def test_a_choice_is_the_expected_one_and_says_why(
    size: tuple[int, int, int], config: str, why: str
) -> None:
    chosen, said = choose_gemm(*size, 132)
    assert chosen == config
    assert why in said


def test_a_share_of_k_keeps_steps_enough_and_no_multiprocessor_gets_two_blocks() -> None:
    for m, n, k, count in itertools.product(ROWS, COLUMNS, DEPTHS, MULTIPROCESSORS):
        config = GEMM_CONFIGS[choose_gemm(m, n, k, count)[0]]
        if config.splits > 1:
            assert config.tile.tiles(m, n) * config.splits <= count
            least = 1 if isinstance(config.tile, ShortTile) else 8
            assert config.tile.steps(k) // config.splits >= least


def test_a_tall_tile_is_never_split_and_its_sums_fit_where_its_stages_were() -> None:
    for config in GEMM_CONFIGS.values():
        tile = config.tile
        if isinstance(tile, TallTile):
            assert config.splits == 1
            stages = tile.stages * tile.groups * (tile.block_m + tile.block_n) * (GROUP // 2)
            assert 4 * tile.block_m * tile.block_n <= stages


@pytest.mark.parametrize("arch", ARCHES)
def test_every_config_fits_into_a_block_of_every_arch(arch: str) -> None:
    limit = SHARED_LIMITS[arch]
    needed = [each.tile.fit(limit).shared_bytes for each in GEMM_CONFIGS.values()]
    needed += [tile.shared_bytes for tile in REQUANTIZE_TILES.values()]
    needed += [each.shared_bytes(r) for each in QUANTIZE_CONFIGS.values() for r in RANKS]
    assert max(needed) <= limit
    # A stage is filled while another one is read.
    assert min(tile.fit(limit).stages for tile in GEMM_TILES.values()) >= 2
    threads = [each.tile.fit(limit).threads for each in GEMM_CONFIGS.values()]
    assert max([*threads, *(each.threads for each in QUANTIZE_CONFIGS.values())]) <= 1024


@pytest.mark.parametrize("r", RANKS)
def test_the_pieces_of_the_ranks_cover_them(r: int) -> None:
    for config in QUANTIZE_CONFIGS.values():
        assert config.rank_pieces(r) * 8 * config.rank_tiles(r) >= r
        assert (config.rank_pieces(r) - 1) * 8 * config.rank_tiles(r) < r


def test_a_step_of_a_tile_is_whole_groups() -> None:
    for tile in GEMM_TILES.values():
        groups = STEP * tile.warps if isinstance(tile, ShortTile) else tile.groups
        assert tile.steps(GROUP * groups) == 1
        assert tile.steps(GROUP * groups + GROUP) == 2


def test_inline_assembly_is_in_one_header() -> None:
    texts = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.cu*")}
    speaking = {name for name, text in texts.items() if re.search(r"\basm\b|__\w+sync\w*\(", text)}
    assert speaking == {"ptx.cuh"}


def test_a_source_brings_all_headers_along() -> None:
    made = source("gemm.cu", "svdq_gemm_w4a4", {"PATH_S8": 1})
    names = ("activation", "codes", "encode", "low_rank", "ptx", "requantize", "vectors")
    assert sorted(made.headers) == [f"{name}.cuh" for name in names]
    assert made.defines == {"PATH_S8": "1"}
