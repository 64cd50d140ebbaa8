"""Tilings of sm120's NVFP4 GEMM are whole and fit a multiprocessor; the choice says why."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from harness.artifact import SHARED_LIMITS
from kernels.nvfp4.warp_scaled_policy import CONFIGS, choose_config

KIB: Final = 1024
MULTIPROCESSOR: Final = 100 * KIB  # of shared memory, on sm120
SIZES: Final = (1, 16, 17, 32, 33, 64, 300, 1024, 4096, 8192, 65536)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tiling_is_whole(name: str) -> None:
    """What the kernel divides by warps and rows of scales comes out even."""
    tile = CONFIGS[name]
    assert 128 % tile.rows == 128 % tile.columns == 0, "a tile lies in one tile of scales"
    assert min(32, tile.rows) % (16 * tile.warps_m) == 0, "of rows whose scales are 16 bytes apart"
    assert tile.columns % 32 == 32 % (8 * tile.warps_n) == 0
    assert tile.stages >= 2, "one is copied while another is read"


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("m16n32", 2), ("m32n64", 2), ("m64n64", 2), ("m64n128", 2), ("m128n128", 1)],
)
def test_so_many_blocks_share_a_multiprocessor(name: str, blocks: int) -> None:
    tile = CONFIGS[name]
    assert tile.shared_bytes <= SHARED_LIMITS["sm120"]
    assert blocks * (tile.shared_bytes + KIB) <= MULTIPROCESSOR
    assert blocks * tile.threads >= 256, "two warps a scheduler hide each other's waiting"


@pytest.mark.parametrize("multiprocessors", [36, 170, 188])
def test_every_tiling_is_chosen_somewhere_and_no_other(multiprocessors: int) -> None:
    chosen = {(m, n): choose_config(m, n, multiprocessors) for m, n in product(SIZES, SIZES)}
    assert {name for name, _ in chosen.values()} == set(CONFIGS)
    for (m, _), (name, reason) in chosen.items():
        assert f"m={m}" in reason
        assert (CONFIGS[name].rows >= 64) is (m > 32)
        assert min(m, 64) <= CONFIGS[name].rows < 4 * max(m, 16), "rows that nobody asked for"
        assert CONFIGS[name].rows <= 64 or m > 64


def test_a_choice_says_why() -> None:
    assert choose_config(4096, 4096, 170) == (
        "m128n128",
        "m=4096, n=4096 make 1024 tiles of 128x128, one a multiprocessor",
    )
