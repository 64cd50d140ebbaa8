"""The report of a power run says what the matrix holds, and doubts where it must."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness.power import report
from harness.power.matrix import Rejections, Status
from suites.meta.power_rows import LOOKED, ROW, RUN, matrix

if TYPE_CHECKING:
    from pathlib import Path

MISSED = replace(ROW, id="op.triton/missed@1", status=Status.MISSED, kills=(), held_out=True)


def test_the_last_line_is_the_promised_one() -> None:
    wrong = {"variant": "op: eager", "case": "c", "words": "w"}
    found = matrix(ROW, MISSED, rejections=Rejections(results=310, rejected=(wrong,)))
    assert report.last_line(found) == (
        "killed 1 of 2 witnessed mutants; false rejections 1 of 310 correct results"
    )


def test_the_report_shows_halves_misses_and_the_bound() -> None:
    text = report.markdown(matrix(ROW, MISSED))
    assert "held out (unseen while tuning)" in text
    assert "op.triton/missed@1" in text
    assert "0 of 300 results" in text
    assert "at most 0.99 %" in text
    assert "this harness, numeric cases" in text


def test_a_quick_run_has_neither_curve_nor_rules() -> None:
    text = report.markdown(matrix(ROW, run={**RUN, "quick": True, "mutants": 1}))
    assert "allclose" not in text
    assert "cases per configuration" not in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rejections": Rejections()}, "no correct variant"),
        ({"originals": (replace(LOOKED, fails=("case 1: wrong",)),)}, "fails on itself: case 1"),
        ({"rows": (replace(ROW, status=Status.UNKNOWN, words="Traceback"),)}, "Traceback"),
    ],
)
def test_what_leaves_a_run_in_doubt_is_said(changes: dict[str, object], says: str) -> None:
    assert not report.doubts(matrix(ROW))
    doubtful = replace(matrix(ROW), **changes)  # type: ignore[arg-type]
    (words,) = report.doubts(doubtful)
    assert says in words
    assert says in report.markdown(doubtful)


def test_figures_replace_those_of_the_same_arch() -> None:
    document = "a\n<!-- power cpu -->\nold\n<!-- end of power cpu -->\nb\n<!-- power sm90 -->\n"
    text = report.insert(document, matrix(ROW))
    assert text.startswith("a\n<!-- power cpu -->\n")
    assert text.endswith("<!-- end of power cpu -->\nb\n<!-- power sm90 -->\n")
    assert "old" not in text
    assert report.last_line(matrix(ROW)) in text
    assert report.insert(text, matrix(ROW)) == text
    with pytest.raises(report.NoPlace, match="power cpu"):
        report.insert("nothing", matrix(ROW))


def test_a_part_of_a_document_is_replaced_alone() -> None:
    one = "<!-- power cpu -->\nold\n<!-- end of power cpu -->\n"
    document = f"{one}<!-- power cpu fp4 -->\nold\n<!-- end of power cpu fp4 -->\n"
    text = report.insert(document, matrix(ROW), "fp4")
    assert text.startswith(f"{one}<!-- power cpu fp4 -->\n")
    assert text.count("old") == 1
    with pytest.raises(report.NoPlace, match="power cpu fp8"):
        report.insert(document, matrix(ROW), "fp8")


def test_one_mutant_in_words() -> None:
    text = report.of_row(ROW)
    assert "killed by  numeric matches_the_reference, normal: budget" in text
    assert "all families: allclose 0.1" in text


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    report.plot(matrix(ROW, MISSED), tmp_path / "power.svg")
    assert "<svg" in (tmp_path / "power.svg").read_text(encoding="utf-8")


def test_mutants_that_were_not_tried_leave_a_doubt() -> None:
    whole = matrix(ROW)
    assert not report.doubts(whole)
    cut = replace(whole, run={**whole.run, "mutants": 3})
    assert report.doubts(cut) == ["1 of 3 mutants were tried"]
