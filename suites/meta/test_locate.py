"""Wrong elements are located in words that are true of exactly these elements."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.locate import describe
from harness.spans import Axis, exact, ordinal
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from torch import Tensor

ROWS, COLUMNS = slice(None), slice(None)
VAGUE: Final = ("scattered", "%", " of the ")  # what is said of many masks


def wrong(shape: tuple[int, ...], *places: object) -> Tensor:
    marks = torch.zeros(shape, dtype=torch.bool)
    for place in places:
        marks[place] = True  # type: ignore[index]
    return marks


def some(shape: tuple[int, ...], share: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def checkerboard(shape: tuple[int, int], tile: int = 1) -> Tensor:
    rows, columns = (torch.arange(length) // tile for length in shape)
    return (rows.unsqueeze(1) + columns) % 2 == 1


ALL: Final = ": every element there"


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (wrong((8, 6)), ""),
        (wrong((0, 6)), ""),
        (wrong((8, 0)), ""),
        (wrong((8, 6), (ROWS, COLUMNS)), "every element is wrong"),
        (wrong((1, 1), (0, 0)), "every element is wrong"),
        (wrong((), ()), "every element is wrong"),
        (wrong((8, 6), (3, 2)), "in row 3 of 8 and column 2 of 6"),
        (wrong((8, 6), (7, COLUMNS)), "in row 7 of 8 (the last)" + ALL),
        (wrong((8, 6), (ROWS, 5)), "in column 5 of 6 (the last)" + ALL),
        (
            wrong((64, 64), (slice(16, 32), slice(48, 56))),
            "in the tile of rows 16..31 of 64 (the 2nd of 4 blocks of 16) and columns 48..55 of 64 "
            "(the 7th of 8 blocks of 8)" + ALL,
        ),
        (
            wrong((64, 64), (slice(3, 9), slice(5, 20))),
            "in rows 3..8 of 64 and columns 5..19 of 64" + ALL,
        ),
        (
            wrong((70, 64), slice(64, 70)),
            "in rows 64..69 of 70 (the tail after blocks of 64)" + ALL,
        ),
        (
            wrong((8, 100), (ROWS, slice(96, 100))),
            "in columns 96..99 of 100 (the tail after blocks of 32)" + ALL,
        ),
        (wrong((8, 6), slice(5, 8)), "in rows 5..7 of 8 (the tail)" + ALL),
        (wrong((256, 4), slice(3, 256, 16)), "in every 16th row from 3 of 256" + ALL),
        (wrong((4, 256), (ROWS, slice(0, 256, 8))), "in every 8th column from 0 of 256" + ALL),
        (wrong((64, 8), slice(0, 64, 3)), "in every 3rd row from 0 of 64" + ALL),
        (wrong((64, 8), slice(1, 64, 21)), "in every 21st row from 1 of 64" + ALL),
        (
            wrong((4, 256), *((ROWS, slice(a, a + 32)) for a in range(32, 256, 64))),
            "in columns 32..63 of every 64 of 256" + ALL,
        ),
        (
            wrong((4, 64), *((ROWS, slice(max(a, 0), a + 4)) for a in range(-2, 64, 16))),
            "in columns 14..15 and 0..1 of every 16 of 64" + ALL,
        ),
        (wrong((64, 8), 3, 9, 50), "in rows 3, 9 and 50 of 64" + ALL),
        (
            wrong((96, 8), *(slice(a, a + 8) for a in (0, 16, 40, 64, 88))),
            "in 5 of the 12 blocks of 8 rows" + ALL,
        ),
        (wrong((64, 8), 1, 5, 11, 12, 30, 50), "in 6 scattered rows of 64" + ALL),
        (wrong((4, 4), (0, 1), (3, 3)), "2 scattered elements: [0, 1], [3, 3]"),
        (wrong((10,), slice(8, 10)), "in elements 8..9 of 10 (the tail after blocks of 8)"),
        (wrong((10, 1), slice(0, 2)), "in rows 0..1 of 10"),
        (wrong((1, 8), (0, slice(1, 8, 2))), "in every 2nd column from 1 of 8"),
        (torch.eye(5, dtype=torch.bool), "in the main diagonal" + ALL),
        (torch.eye(6, dtype=torch.bool).flip(1), "in the antidiagonal of row + column = 5" + ALL),
        (~torch.ones(6, 9).tril(2).bool(), "in the triangle of column - row >= 3" + ALL),
        (checkerboard((6, 7)), "in a checkerboard: row + column is odd" + ALL),
        (
            checkerboard((256, 300), 64),
            "in a checkerboard of tiles of 64 rows x 64 columns: "
            "tile row + tile column is odd" + ALL,
        ),
        (
            wrong((64, 64), (slice(0, 16), slice(32, 48)), (slice(48, 64), slice(0, 16))),
            "in 2 of the 4 x 4 tiles of 16 rows x 16 columns: [0, 2], [3, 0]" + ALL,
        ),
        (wrong((2, 4, 8), (1, 2)), "in slice 1 of 2 along axis 0 (the last) and row 2 of 4" + ALL),
        (wrong((8, 4, 6), 2), "in slice 2 of 8 along axis 0" + ALL),
        (
            wrong((2, 3, 8, 8), (ROWS, 1, COLUMNS, 7)),
            "in slice 1 of 3 along axis 1 and column 7 of 8 (the last)" + ALL,
        ),
    ],
)
def test_these_elements_are_described(marks: Tensor, words: str) -> None:
    assert describe(marks) == words


@pytest.mark.parametrize(
    ("place", "shape", "words"),
    [
        (slice(64, 128), (512, 300), "in rows 64..127 of 512 (the 2nd of 8 blocks of 64): "),
        ((ROWS, slice(1, 512, 4)), (99, 512), "in every 4th column from 1 of 512: "),
        (
            (slice(64, 128), slice(128, 192)),
            (256, 256),
            "in one of the 4 x 4 tiles of 64 rows x 64 columns, rows 64..127 and columns 128..191",
        ),
        (checkerboard((256, 256), 32), (256, 256), "in a checkerboard of tiles of 32 rows x 32"),
        (torch.ones(99, 99).triu(1).bool(), (99, 99), "in the triangle of column - row >= 1: "),
        (2, (8, 50, 60), "in slice 2 of 8 along axis 0: "),
        (slice(256, 512), (9999,), "in elements 256..511 of 9999 (the 2nd of 40 blocks of 256): "),
    ],
)
def test_a_structure_is_seen_through_elements_that_are_right(
    place: object, shape: tuple[int, ...], words: str
) -> None:
    marks = wrong(shape, place)
    marks &= some(shape, 0.4) | (torch.arange(shape[-1]) % 64 < 2)
    found = describe(marks)
    assert found.startswith(words)
    share = 100 * int(marks.sum()) / int(wrong(shape, place).sum())
    assert re.search(rf": {share:.2g} % of the elements there$", found), (found, share)


@given(
    st.tuples(st.integers(16, 150), st.integers(16, 150)),
    st.sampled_from((0.02, 0.1, 0.3, 0.5, 0.7, 0.95)),
    st.integers(0, 2**32),
)
@LAW
def test_a_random_mask_is_no_structure(shape: tuple[int, int], share: float, seed: int) -> None:
    marks = some(shape, share, seed)
    count = int(marks.sum())
    words = describe(marks)
    if 2 * count > marks.numel():
        assert re.fullmatch(r"in [\d.]+ % of all elements", words)
    else:
        assert words.startswith(f"{count} scattered elements") or count < 2


def test_words_without_a_share_name_one_set_of_indices() -> None:
    named: dict[str, tuple[bool, ...]] = {}
    axis = Axis("row", 12)
    for hit in itertools.product((False, True), repeat=axis.length):
        if not any(hit):
            continue
        span = exact(np.array(hit), axis)
        assert span.size == sum(hit)
        if not any(word in span.words for word in VAGUE):
            assert named.setdefault(span.words, hit) == hit
    assert len(named) > 100


def test_words_without_a_share_name_one_mask() -> None:
    named: dict[str, tuple[bool, ...]] = {}
    for bits in itertools.product((False, True), repeat=12):
        words = describe(torch.tensor(bits).view(3, 4))
        if not any(word in words for word in VAGUE[1:]):
            assert named.setdefault(words, bits) == bits, words
    assert len(named) > 400


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Tensor, range, range]:
    shape = draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    spans = []
    for length in shape:
        first = draw(st.integers(0, length - 1))
        spans.append(range(first, draw(st.integers(first + 1, length))))
    marks = torch.zeros(shape, dtype=torch.bool)
    marks[spans[0].start : spans[0].stop, spans[1].start : spans[1].stop] = True
    return marks, spans[0], spans[1]


def span_of(words: str, name: str, length: int) -> range:
    if several := re.search(rf"{name}s (\d+)\.\.(\d+) of", words):
        return range(int(several[1]), int(several[2]) + 1)
    one = re.search(rf"{name} (\d+) of", words)
    return range(int(one[1]), int(one[1]) + 1) if one else range(length)


@given(blocks())
@LAW
def test_a_block_is_described_by_its_rows_and_columns(block: tuple[Tensor, range, range]) -> None:
    marks, rows, columns = block
    words = describe(marks)
    assert span_of(words, "row", marks.shape[0]) == rows
    assert span_of(words, "column", marks.shape[1]) == columns
    assert "%" not in words


@given(st.sampled_from((2, 3, 4, 8, 16, 32, 64, 128)), st.data())
@LAW
def test_a_period_is_found_with_its_start(period: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, period - 1))
    length = start + period * data.draw(st.integers(2, 5)) + data.draw(st.integers(1, period))
    words = describe(wrong((length, 4), slice(start, length, period)))
    assert f"every {ordinal(period)} row from {start} of {length}" in words


@given(st.integers(8, 64), st.data())
@LAW
def test_a_period_of_groups_is_found(period: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(2, period - 2))
    first = data.draw(st.integers(0, period - size))
    length = period * data.draw(st.integers(3, 6))
    marks = (torch.arange(length) - first) % period < size
    words = describe(marks.expand(3, -1))
    assert f"columns {first}..{first + size - 1} of every {period} of {length}" in words


def test_a_checkerboard_that_changes_colour_far_down_is_none() -> None:
    marks = checkerboard((600, 40))
    marks[300:] ^= True
    assert "checkerboard" not in describe(marks)


def test_a_block_with_holes_at_its_ends_is_still_a_block() -> None:
    marks = wrong((9999,), slice(256, 512)) & some((9999,), 0.4)
    marks[[256, 257, 510, 511]] = False
    words = "in elements 256..511 of 9999 (the 2nd of 40 blocks of 256): "
    assert describe(marks).startswith(words)


def test_ordinals_are_english() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 32, 101, 111)] == (
        [
            "1st",
            "2nd",
            "3rd",
            "4th",
            "11th",
            "12th",
            "13th",
            "21st",
            "22nd",
            "32nd",
            "101st",
            "111th",
        ]
    )


@pytest.mark.parametrize("share", [0.5, 1e-3])
def test_a_large_mask_is_described_in_well_under_a_second(share: float) -> None:
    marks = some((8192, 8192), share)
    started = time.process_time()
    assert "scattered" in describe(marks) or "of all elements" in describe(marks)
    assert time.process_time() - started < 2  # two calls, 0.2 s together when nothing else runs
