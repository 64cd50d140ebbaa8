"""Tilings of the block-scaled NVFP4 GEMM fit a multiprocessor, and scales lie where it clears."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest
import torch

from kernels.nvfp4.block_scaled_policy import CONFIGS, choose_config
from kernels.nvfp4.scale_layout import swizzle_scales

KIB: Final = 1024
MULTIPROCESSOR: Final = 228 * KIB  # of shared memory, on sm100 and sm103


@pytest.mark.parametrize(("name", "blocks"), [("m128n64", 2), ("m128n128", 2), ("m128n256", 1)])
def test_so_many_blocks_share_a_multiprocessor(name: str, blocks: int) -> None:
    tile = CONFIGS[name]
    assert blocks * (tile.shared_bytes + KIB) <= MULTIPROCESSOR
    used = tile.columns + 16 * (1 + tile.scale_tiles)
    assert blocks * 2 ** (used - 1).bit_length() <= 512  # columns of tensor memory


def test_every_tiling_is_chosen_somewhere_and_nothing_else() -> None:
    sizes = product((1, 128, 2048, 16384), (8, 4096, 65536), (148, 160))
    assert {choose_config(*each)[0] for each in sizes} == set(CONFIGS)


def test_a_choice_says_why() -> None:
    assert choose_config(8192, 8192, 148) == (
        "m128n256",
        "m=8192, n=8192 make 2048 tiles of 128x256, two a multiprocessor",
    )


@pytest.mark.parametrize("columns", [2, 6, 34])
def test_the_padding_of_columns_is_the_upper_half_of_words(columns: int) -> None:
    """Which the kernel clears in the last tile along k, where k is no multiple of 64."""
    scales = torch.full((200, columns), 1.5).to(torch.float8_e4m3fn)
    words = swizzle_scales(scales).view(torch.uint8).view(torch.int32).view(2, -1, 128)
    assert not (words[:, -1] & -0x10000).any()
    assert (words[:, :-1] & -0x10000).count_nonzero() == 200 * (columns // 4)
    row = torch.arange(200)
    places = words[row // 128, -1, row % 32 * 4 + row % 128 // 32]
    assert (places == 0x3C3C).all()
