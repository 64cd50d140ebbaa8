"""Wrong elements are located in words that are true of exactly these elements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.locate import describe

if TYPE_CHECKING:
    from torch import Tensor

LAW = settings(derandomize=True, deadline=None, database=None)


def wrong(shape: tuple[int, ...], *places: object) -> Tensor:
    marks = torch.zeros(shape, dtype=torch.bool)
    for place in places:
        marks[place] = True  # type: ignore[index]
    return marks


ROWS, COLUMNS = slice(None), slice(None)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (wrong((8, 6)), ""),
        (wrong((0, 6)), ""),
        (wrong((8, 0)), ""),
        (wrong((8, 6), (ROWS, COLUMNS)), "every element is wrong"),
        (wrong((1, 1), (0, 0)), "every element is wrong"),
        (wrong((), ()), "every element is wrong"),
        (wrong((8, 6), (3, 2)), "in row 3 of 8 and column 2 of 6 (all of them)"),
        (wrong((8, 6), (7, COLUMNS)), "in row 7 of 8 (the last) and all 6 columns (all of them)"),
        (wrong((8, 6), (ROWS, 0)), "in all 8 rows and column 0 of 6 (all of them)"),
        (wrong((8, 6), (ROWS, 5)), "in all 8 rows and column 5 of 6 (the last) (all of them)"),
        (
            wrong((64, 64), (slice(16, 32), slice(48, 56))),
            "in rows 16..31 of 64 and columns 48..55 of 64 (all of them)",
        ),
        (
            wrong((70, 64), (slice(64, 70), COLUMNS)),
            "in rows 64..69 of 70 (the tail) and all 64 columns (all of them)",
        ),
        (
            wrong((8, 100), (ROWS, slice(96, 100))),
            "in all 8 rows and columns 96..99 of 100 (the tail) (all of them)",
        ),
        (wrong((256, 4), slice(3, 256, 16)), "in every 16th row from 3 of 256 and all 4 columns"),
        (wrong((4, 256), (ROWS, slice(0, 256, 8))), "in all 4 rows and every 8th column from 0"),
        (wrong((64, 8), 3, 9, 50), "in 3 of 64 rows, from 3 to 50 and all 8 columns"),
        (wrong((64, 8), slice(0, 64, 5)), "in 13 of 64 rows, from 0 to 60"),
        (wrong((4, 4), (0, 0), (3, 3)), "(50 % of them)"),
        (wrong((10,), slice(8, 10)), "in columns 8..9 of 10 (the tail) (all of them)"),
        (wrong((10, 1), slice(0, 2)), "in rows 0..1 of 10 (all of them)"),
        (wrong((2, 4, 8), (1, 2)), "in row 6 of 8 and all 8 columns (all of them)"),
    ],
)
def test_these_elements_are_described(marks: Tensor, words: str) -> None:
    found = describe(marks)
    assert words in found
    assert bool(found) == bool(marks.any())


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


def span_of(words: str, name: str) -> range:
    if whole := re.search(rf"all (\d+) {name}s", words):
        return range(int(whole[1]))
    if several := re.search(rf"{name}s (\d+)\.\.(\d+) of", words):
        return range(int(several[1]), int(several[2]) + 1)
    one = re.search(rf"{name} (\d+) of", words)
    assert one, words
    return range(int(one[1]), int(one[1]) + 1)


@given(blocks())
@LAW
def test_a_block_is_described_by_its_rows_and_columns(block: tuple[Tensor, range, range]) -> None:
    marks, rows, columns = block
    words = describe(marks)
    if bool(marks.all()):
        assert words == "every element is wrong"
        return
    assert span_of(words, "row") == rows
    assert span_of(words, "column") == columns
    assert words.endswith("(all of them)")


@given(st.sampled_from((2, 4, 8, 16, 32, 64, 128)), st.data())
@LAW
def test_a_period_is_found_with_its_start(period: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, period - 1))
    length = start + period * data.draw(st.integers(2, 5)) + data.draw(st.integers(1, period))
    words = describe(wrong((length, 4), slice(start, length, period)))
    suffix = "nd" if period in {2, 32} else "th"
    assert f"every {period}{suffix} row from {start} of {length}" in words


@given(blocks(), st.integers(0, 2**32))
@LAW
def test_the_share_within_the_described_block_is_true(
    block: tuple[Tensor, range, range], seed: int
) -> None:
    marks = block[0]
    marks &= torch.rand(marks.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    words = describe(marks)
    if not words or words.startswith("every element"):
        return
    rows, columns = marks.any(1), marks.any(0)
    share = 100 * int(marks.sum()) / (int(rows.sum()) * int(columns.sum()))
    assert words.endswith("(all of them)" if share == 100 else f"({share:.0f} % of them)")
