"""The table shows the worst verdict of every claimed cell, and counts every one of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cells import Cell, Evidence, Layer, Verdict
from harness.record import Record
from harness.table import COLOURS, GLYPHS, lines, skips, totals, unfair, verdicts
from suites.meta.laws import LAW

CHECKED = ("passed", "failed", "skipped")
NUMERIC, COMPILE = Layer.NUMERIC, Layer.COMPILE


def record(cell: Cell, verdict: str, evidence: str = "device") -> Record:
    return Record(
        kernel=cell.kernel,
        arch=cell.arch,
        layer=cell.layer,
        check="test",
        verdict=verdict,
        outcome={"passed": "passed", "failed": "wrong", "skipped": "unavailable"}[verdict],
        evidence=evidence,
    )


def cell(arch: str = "sm90", layer: Layer = NUMERIC, kernel: str = "norm.triton") -> Cell:
    return Cell(kernel, arch, layer)


def text(results: dict[Cell, tuple[Verdict, Evidence]], *, unicode: bool = True) -> list[str]:
    return ["".join(segment.text for segment in line) for line in lines(results, unicode=unicode)]


def row(results: dict[Cell, tuple[Verdict, Evidence]], arch: str = "sm90") -> str:
    (found,) = [line for line in text(results) if line.startswith(f"  {arch} ")]
    return found


@given(st.lists(st.sampled_from(CHECKED), min_size=1, max_size=6))
@LAW
def test_failed_beats_skipped_beats_passed_in_any_order(found: list[str]) -> None:
    results = verdicts([cell()], [record(cell(), verdict) for verdict in found])
    (verdict, _) = results[cell()]
    order = ("failed", "skipped", "passed")
    assert verdict == min(found, key=order.index)


@given(st.permutations([("passed", "device"), ("skipped", "none"), ("failed", "emulated")]))
@LAW
def test_the_evidence_is_that_of_the_verdict(found: list[tuple[str, str]]) -> None:
    results = verdicts([cell()], [record(cell(), *each) for each in found])
    assert results[cell()] == (Verdict.FAILED, Evidence.EMULATED)


def test_a_claimed_cell_without_a_check_is_uncovered() -> None:
    results = verdicts([cell("sm90"), cell("sm100")], [record(cell("sm90"), "passed")])
    assert results[cell("sm100")] == (Verdict.UNCOVERED, Evidence.NONE)


def test_a_check_of_a_cell_that_nobody_claims_is_shown() -> None:
    results = verdicts([], [record(cell(), "failed")])
    assert results == {cell(): (Verdict.FAILED, Evidence.DEVICE)}


def test_cells_stand_in_the_order_of_the_inventory() -> None:
    inventory = [cell("sm90"), cell("sm80"), cell("sm120")]
    results = verdicts(inventory, [record(each, "passed") for each in reversed(inventory)])
    assert list(results) == inventory


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(CHECKED)), max_size=20))
@LAW
def test_totals_count_every_claimed_cell_once(checks: list[tuple[int, str]]) -> None:
    inventory = [cell(layer=layer) for layer in list(Layer)[:6]]
    results = verdicts(inventory, [record(inventory[i], verdict) for i, verdict in checks])
    words = totals(results)
    counts = [int(word) for word in words.replace(",", "").split() if word.isdecimal()]
    assert sum(counts[:4]) == counts[4] == 6
    assert counts[3] == 6 - len({i for i, _ in checks})


def test_totals_say_every_word() -> None:
    results = {
        cell("sm80"): (Verdict.PASSED, Evidence.DEVICE),
        cell("sm86"): (Verdict.PASSED, Evidence.DEVICE),
        cell("sm90"): (Verdict.FAILED, Evidence.DEVICE),
        cell("sm100"): (Verdict.UNCOVERED, Evidence.NONE),
    }
    assert totals(results) == "cells: 2 passed, 1 failed, 0 skipped, 1 uncovered of 4 claimed"
    assert totals({}) == "cells: 0 passed, 0 failed, 0 skipped, 0 uncovered of 0 claimed"


@pytest.mark.parametrize(
    ("verdict", "evidence", "shown"),
    [
        (Verdict.PASSED, Evidence.DEVICE, "✓ dev"),
        (Verdict.PASSED, Evidence.EMULATED, "✓ emu"),
        (Verdict.PASSED, Evidence.COMPILED, "✓ cmp"),
        (Verdict.PASSED, Evidence.FAKE, "✓ fake"),
        (Verdict.FAILED, Evidence.DEVICE, "✗ dev"),
        (Verdict.FAILED, Evidence.NONE, "✗"),
        (Verdict.SKIPPED, Evidence.NONE, "-"),
    ],
)
def test_a_cell_shows_its_verdict_and_evidence(
    verdict: Verdict, evidence: Evidence, shown: str
) -> None:
    assert row({cell(): (verdict, evidence)}).split(maxsplit=1)[1].strip() == shown


def test_an_uncovered_cell_beside_checked_ones_is_shown() -> None:
    results = {
        cell(layer=NUMERIC): (Verdict.PASSED, Evidence.DEVICE),
        cell(layer=COMPILE): (Verdict.UNCOVERED, Evidence.NONE),
    }
    assert row(results).split() == ["sm90", "?", "✓", "dev"]


def test_an_arch_without_any_check_is_left_to_the_totals() -> None:
    results = {
        cell("sm90"): (Verdict.PASSED, Evidence.DEVICE),
        cell("sm100"): (Verdict.UNCOVERED, Evidence.NONE),
        cell("sm80", kernel="gemm.triton"): (Verdict.UNCOVERED, Evidence.NONE),
    }
    shown = "\n".join(text(results))
    assert "sm90" in shown
    assert "sm100" not in shown
    assert "gemm.triton" not in shown
    assert "2 uncovered of 3 claimed" in totals(results)


def test_a_skipped_cell_is_shown() -> None:
    results = {cell(): (Verdict.SKIPPED, Evidence.NONE)}
    assert "-" in row(results)


def test_every_layer_has_its_column() -> None:
    for layer, other in itertools.permutations(Layer, 2):
        results = {
            cell("sm80", layer): (Verdict.PASSED, Evidence.NONE),
            cell("sm90", other): (Verdict.PASSED, Evidence.NONE),
        }
        one, two = row(results, "sm80").index("✓"), row(results, "sm90").index("✓")
        assert (one < two) == (list(Layer).index(layer) < list(Layer).index(other))


def test_heads_stand_over_their_columns() -> None:
    names = ["import", "fake", "compile", "numeric", "module", "e2e", "boundary", "sanitize"]
    for layer, name in zip(Layer, names, strict=True):
        shown = text({cell(layer=layer): (Verdict.PASSED, Evidence.NONE)})
        assert shown[0].split() == (names if name == "sanitize" else names[:-1])
        assert shown[0].index(name) == row(
            {cell(layer=layer): (Verdict.PASSED, Evidence.NONE)}
        ).index("✓")


def test_rows_stand_under_the_name_of_their_kernel() -> None:
    results = {
        cell("sm80"): (Verdict.PASSED, Evidence.DEVICE),
        cell("sm80", kernel="gemm.triton"): (Verdict.FAILED, Evidence.DEVICE),
        cell("sm90"): (Verdict.PASSED, Evidence.DEVICE),
    }
    heads = [line.split()[0] for line in text(results)[1:-2]]
    assert heads == ["norm.triton", "sm80", "sm90", "gemm.triton", "sm80"]


def test_without_unicode_the_table_is_ascii_and_as_wide() -> None:
    results = {
        cell(arch): (verdict, Evidence.DEVICE)
        for arch, verdict in zip(("sm80", "sm86", "sm89", "cpu"), Verdict, strict=True)
    }
    results[cell("cpu", COMPILE)] = (Verdict.PASSED, Evidence.DEVICE)
    plain, rich = text(results, unicode=False), text(results)
    assert all(line.isascii() for line in plain)
    assert [len(line) for line in plain] == [len(line) for line in rich]
    body = "".join(plain[:-2])
    assert all(glyph in body for glyph in ("+ dev", "X dev", "- dev", "? dev"))


def test_the_legend_explains_every_glyph() -> None:
    for unicode, glyphs in ((True, "✓✗-?"), (False, "+X-?")):
        legend = " ".join(text({}, unicode=unicode)[-2:])
        for verdict, glyph in zip(Verdict, glyphs, strict=True):
            assert f"{glyph} {verdict}" in legend
        for evidence in ("dev ", "emu ", "cmp ", "fake "):
            assert evidence in legend


def test_colours_tell_the_verdicts_apart() -> None:
    assert len(set(COLOURS.values())) == len(set(GLYPHS.values())) == len(Verdict)
    for verdict in Verdict:
        results = {
            cell(): (verdict, Evidence.NONE),
            cell(layer=COMPILE): (Verdict.PASSED, Evidence.NONE),
        }
        segments = [segment for line in lines(results) for segment in line]
        shown = [s.colour for s in segments if s.colour and s.text.startswith(GLYPHS[verdict])]
        assert COLOURS[verdict] in shown


def test_skips_are_counted_by_reason() -> None:
    skipped = [record(cell(), "skipped"), record(cell("sm100"), "skipped")]
    absent = [replace(each, message="sm90 is not on this machine") for each in skipped]
    other = replace(skipped[0], message="the model is not installed")
    assert skips([*absent, other, record(cell(), "passed")]) == [
        "2 checks skipped: sm90 is not on this machine",
        "1 checks skipped: the model is not installed",
    ]


def test_families_beyond_float32_are_named_with_their_check() -> None:
    said = {"mostly_unfair": ["huge: 3 of 4 cases are beyond float32"], "unfair": 3}
    found = unfair([record(cell(), "passed"), replace(record(cell(), "passed"), figures=said)])
    assert found == [
        "little said, norm.triton on sm90, test: huge: 3 of 4 cases are beyond float32"
    ]
