"""A map of errors fits into a record, loses no wrong element and can be read."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness.error_map import COLUMNS, HALF, INSIDE, NOT_FINITE, ROWS, of_panel
from harness.picture import Panel
from suites.meta.users_project import BAD, GOOD, NUMERIC, RECORDS

if TYPE_CHECKING:
    from torch import Tensor

    from suites.meta.users_project import Project

pytest_plugins = ("pytester",)


def panel_of(units: Tensor, *, exact: bool = False, tile: tuple[int, int] = (1, 1)) -> Panel:
    shape = (units.shape[0] * tile[0], units.shape[1] * tile[1])
    return Panel("y", shape, units, tile, exact, "in column 7")


def made(found: Panel) -> dict[str, Any]:
    return of_panel(found)


def lines_of(found: Panel) -> list[str]:
    lines: list[str] = made(found)["lines"]
    return lines


@pytest.mark.parametrize(
    ("error", "letter"),
    [
        (0.0, HALF),
        (0.5, HALF),
        (0.51, INSIDE),
        (1.0, INSIDE),
        (1.001, "1"),
        (3.2, "2"),
        (12.0, "3"),
        (1e4, "9"),
        (1e300, "9"),
        (math.inf, NOT_FINITE),
        (math.nan, NOT_FINITE),
    ],
)
def test_a_letter_says_how_large_an_error_is(error: float, letter: str) -> None:
    units = torch.tensor([[error]], dtype=torch.float64)
    assert lines_of(panel_of(units)) == [letter]


@pytest.mark.parametrize(
    ("error", "letter"), [(0.0, HALF), (1e-30, "1"), (1.0, "1"), (4.0, "2"), (255.0, "5")]
)
def test_of_an_exact_output_any_difference_is_wrong(error: float, letter: str) -> None:
    units = torch.tensor([[error]], dtype=torch.float64)
    assert lines_of(panel_of(units, exact=True)) == [letter]


@pytest.mark.parametrize("shape", [(512, 512), (511, 1), (1, 509), (33, 49)])
def test_one_wrong_element_is_seen_and_the_map_stays_small(shape: tuple[int, int]) -> None:
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, shape[1] // 3)):
        units = torch.full(shape, 0.1, dtype=torch.float64)
        units[row, column] = 40.0
        found = made(panel_of(units, tile=(3, 5)))
        (height, width), lines = found["tile"], found["lines"]
        assert lines[3 * row // height][5 * column // width] == "4"
        assert "".join(lines).count(HALF) == sum(map(len, lines)) - 1
        assert len(lines) <= ROWS
        assert len(lines[0]) <= COLUMNS
        assert len(json.dumps(found)) < ROWS * (COLUMNS + 4) + 200


def test_the_record_of_a_failed_comparison_has_the_map(project: Project) -> None:
    project.run(*NUMERIC, BAD, RECORDS, "-k", "float32")
    (record,) = project.read()
    maps: Any = record.figures["error_map"]
    (found,) = maps
    assert found["shape"] == [1, 8]
    assert found["lines"][0][:7] == HALF * 7
    assert found["lines"][0][7] in "123456789"
    assert "in column 7" in found["where"]
    assert "picture" not in record.figures


def test_a_pass_has_none(project: Project) -> None:
    project.run(*NUMERIC, GOOD, RECORDS, "-k", "float32")
    assert [("error_map" in r.figures) for r in project.read()] == [False]
