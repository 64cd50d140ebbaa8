"""Across archs: verdicts and errors that differ are named, by cell and case, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.case_errors import key_of
from harness.gate.crossing import CaseApart, across
from harness.gate.samples import Sample
from harness.manifest import Asked

CASES = [f"rms_norm.triton/m={number},seed=1" for number in range(40)]
KEY = Asked("rms_norm.triton", "sm90", "numeric", "test_matches[float16]", "float16")
HERE = Sample(
    key=KEY,
    verdict="passed",
    worst={key_of(case): 0.1 + number / 100 for number, case in enumerate(CASES)},
)


def on(arch: str, **fields: object) -> Sample:
    return replace(HERE, key=KEY._replace(arch=arch), **fields)  # type: ignore[arg-type]


def test_equal_errors_do_not_differ() -> None:
    (found,) = across([HERE, on("sm100")])
    assert (found.archs, found.differs, found.moved) == (("sm90", "sm100"), False, 0)
    assert found.words == "equal in all 40 cases"


def test_another_verdict_is_named_with_its_case() -> None:
    (found,) = across([HERE, on("sm100", verdict="failed", case=CASES[3])])
    assert found.differs
    assert found.words.startswith(f"passed on sm90, failed on sm100, by {CASES[3]}")


@pytest.mark.parametrize("by", [1.3, 1 / 1.3])
def test_other_errors_are_named_whichever_side_errs_more(by: float) -> None:
    (found,) = across([HERE, on("sm100", worst={k: by * e for k, e in HERE.worst.items()})])
    assert found.differs
    assert found.ratio == pytest.approx(by)
    assert f"sm100 errs {by:.3g} x as much as sm90 in the median of 40 of 40 cases" in found.words
    assert "beyond chance" in found.words


def test_single_cases_are_named_by_id_where_a_record_has_it() -> None:
    worst = dict(HERE.worst)
    known, other = key_of(CASES[5]), key_of(CASES[6])
    worst |= {known: 0.9, other: 0.4}
    (found,) = across([HERE, on("sm100", worst=worst, case=CASES[5])])
    assert not found.differs  # two cases of forty may be chance; they are named all the same
    assert found.cases == (
        CaseApart(CASES[5], HERE.worst[known], 0.9),
        CaseApart(other, HERE.worst[other], 0.4),
    )
    assert f"case {CASES[5]}: 0.15 and 0.9 of the budget" in found.words


def test_each_arch_stands_beside_the_first() -> None:
    found = across([on("sm120"), on("sm100"), HERE])
    assert [one.archs for one in found] == [("sm90", "sm100"), ("sm90", "sm120")]


def test_cases_of_another_seed_are_not_compared() -> None:
    assert across([HERE, on("sm100", seed=1)]) == ()
    (found,) = across([HERE, on("sm100", seed=1, verdict="failed")])
    assert "errors are not compared: seed 0 there, 1 here" in found.words


def test_the_cpu_is_compared_by_verdicts() -> None:
    emulated = on("cpu", worst={"0000abcd": 0.5}, verdict="failed")
    (found,) = across([emulated, HERE])
    assert (found.archs, found.pairs, found.verdicts) == (
        ("sm90", "cpu"),
        0,
        ("passed", "failed"),
    )
    assert across([replace(emulated, verdict="passed"), HERE]) == ()


def test_one_arch_alone_has_nothing_to_cross() -> None:
    assert across([HERE]) == across([]) == ()
