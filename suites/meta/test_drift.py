"""Drift is flagged where errors grew, said where too little is known, and never where none did."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.case_errors import InvalidErrors, errors_of, key_of, rounded
from harness.gate.baseline import Baseline
from harness.gate.drift import ALL, ALPHA, Drift, compare
from harness.gate.reports import drifts
from harness.gate.samples import Sample, sample_of, samples_of
from harness.manifest import Asked
from harness.record import Record
from suites.calibrate.drift import World, rates
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FEWER = settings(LAW, max_examples=30)
KEY = Asked("rms_norm.triton", "sm90", "numeric", "test_matches[float16]", "float16")
BEFORE = Sample(key=KEY, verdict="passed", cases=30, worst={})

errors = st.one_of(st.just(0.0), st.floats(0, 2, width=16))
samples = st.builds(
    Sample,
    key=st.builds(
        Asked,
        st.sampled_from(("a.triton", "b.cuda")),
        st.sampled_from(("cpu", "sm90")),
        st.just("numeric"),
        st.just("test_matches"),
        st.sampled_from(("float32", "float16", "")),
    ),
    verdict=st.sampled_from(("passed", "failed")),
    worst=st.dictionaries(st.integers(0, 9).map(str), errors, max_size=60),
    rms=st.dictionaries(st.integers(0, 9).map(str), errors, max_size=60),
    seed=st.integers(0, 1),
)
releases = st.lists(samples, max_size=6, unique_by=lambda sample: sample.key)


def drawn(count: int, seed: int = 0) -> dict[str, float]:
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    return {f"{number:08x}": rounded(chance.lognormvariate(-2, 1)) for number in range(count)}


def scaled(worst: Mapping[str, float], by: float) -> dict[str, float]:
    return {key: error * by for key, error in worst.items()}


def compared(before: Sample, after: Sample) -> Drift:
    (drift,) = compare(released(before), [after])
    return drift


def released(*found: Sample) -> Baseline:
    return Baseline(name="v1", kept="", samples=found)


def flagged(drifts: Iterable[Drift]) -> list[str]:
    return [drift.words for drift in drifts if drift.flagged]


@given(releases)
@FEWER
def test_identical_records_never_drift(found: list[Sample]) -> None:
    drifts = compare(released(*found), found)
    assert not flagged(drifts)
    assert all(drift.moved == 0 and drift.p == drift.ratio == 1 for drift in drifts)
    assert all(drift.words.startswith("as in v1 in all ") for drift in drifts)


@given(releases, releases)
@FEWER
def test_whatever_moved_there_are_words_for_it(before: list[Sample], after: list[Sample]) -> None:
    for drift in compare(released(*before), after):
        assert drift.words
        assert 0 <= drift.p <= drift.corrected <= 1
        assert drift.moved <= drift.pairs == len(drift.points)
        assert not drift.flagged or (drift.corrected <= ALPHA and drift.ratio >= 1.1)


def test_rows_are_counted_by_what_could_be_compared() -> None:
    def of(arch: str, kernel: str, count: int, by: float = 1.0, seed: int = 0) -> Sample:
        key = KEY._replace(arch=arch, kernel=kernel)
        return replace(BEFORE, key=key, seed=seed, worst=scaled(drawn(count), by))

    before = [of("sm90", "same", 30), of("sm90", "few", 3), of("sm90", "gone", 9)]
    before += [of("sm90", "reseeded", 40), of("sm80", "elsewhere", 9)]
    after = [of("sm90", "same", 30), of("sm90", "few", 3, 2.0), of("sm90", "new", 9)]
    after += [of("sm90", "reseeded", 40, 9.0, seed=1)]
    found = compare(released(*before), after)
    assert drifts.summary(found) == (
        "3 rows compared: 2 paired, 1 unpaired; 1 too few to tell, 1 worse beyond chance; "
        "2 without a counterpart (1 in the baseline alone, 1 in these records)"
    )
    assert {drift.kernel for drift in found if drift.few} == {"few"}


@given(releases, releases)
@FEWER
def test_one_way_or_the_other_at_most_one_is_worse(
    before: list[Sample], after: list[Sample]
) -> None:
    worse = {
        (d.kernel, d.arch, d.check, d.dtype)
        for d in compare(released(*before), after)
        if d.flagged and d.measure == "errors"
    }
    better = {
        (d.kernel, d.arch, d.check, d.dtype)
        for d in compare(released(*after), before)
        if d.flagged and d.measure == "errors"
    }
    assert not worse & better


@pytest.mark.parametrize("count", [18, 96])
def test_a_planted_worsening_within_the_budget_is_flagged(count: int) -> None:
    before = replace(BEFORE, worst=scaled(drawn(count), 0.1), source="one")
    after = replace(before, worst=scaled(before.worst, 1.5), source="other")
    drift = compared(before, after)

    assert max(after.worst.values()) < 1
    assert drift.flagged
    assert drift.ratio == pytest.approx(1.5)
    assert (drift.pairs, drift.moved) == (count, count)
    assert drift.words.startswith(
        f"errors are 1.5 x those of v1 in the median of the {count} of {count} pairs that moved"
        f" ({count} up)"
    )
    assert "worse beyond chance" in drift.words
    assert drift.words.endswith("changed since: the kernel's source")


def test_a_third_of_the_cases_is_enough() -> None:
    before = replace(BEFORE, worst=drawn(60))
    some = dict(list(before.worst.items())[::3])
    after = replace(before, worst={**before.worst, **scaled(some, 1.5)})
    drift = compared(before, after)
    assert drift.flagged
    assert (drift.pairs, drift.moved) == (60, 20)


def test_a_worsening_of_the_rms_alone_is_flagged() -> None:
    # Where the output is rounded to few bits, the worst element is at the budget's end anyway.
    before = replace(BEFORE, worst=dict.fromkeys(drawn(30), 1.0), rms=scaled(drawn(30), 0.3))
    worst, rms = compare(released(before), [replace(before, rms=scaled(before.rms, 1.2))])
    assert (worst.measure, worst.flagged) == ("errors", False)
    assert (rms.measure, rms.flagged) == ("rms_errors", True)
    assert "rms errors are 1.2 x" in rms.words
    assert "ulp" in rms.words


def test_a_significant_but_small_worsening_is_said_and_not_flagged() -> None:
    before = replace(BEFORE, worst=scaled(drawn(96), 10))
    drift = compared(before, replace(before, worst=scaled(before.worst, 1.05)))
    assert drift.corrected <= ALPHA
    assert not drift.flagged
    assert "beyond chance" in drift.words
    assert "but below 1.1 x" in drift.words


def test_an_improvement_is_not_flagged() -> None:
    before = replace(BEFORE, worst=drawn(96))
    drift = compared(before, replace(before, worst=scaled(before.worst, 0.5)))
    assert not drift.flagged
    assert drift.ratio == pytest.approx(0.5)
    assert "(0 up)" in drift.words


def test_errors_that_are_nobodys_concern_do_not_count() -> None:
    before = replace(BEFORE, worst=dict.fromkeys(drawn(96), 1e-5))
    assert compared(before, replace(before, worst=dict.fromkeys(drawn(96), 9e-4))).moved == 0


def test_too_few_pairs_are_said_to_be_too_few() -> None:
    before = replace(BEFORE, worst=drawn(6))
    drift = compared(before, replace(before, worst=scaled(before.worst, 3)))
    assert not drift.flagged
    assert "too few to tell (6; p cannot get below 0.016)" in drift.words
    assert drift.corrected == 1


def test_dtypes_too_few_alone_are_told_together() -> None:
    keys = [
        KEY._replace(check=f"test_matches[{dtype}]", dtype=dtype)
        for dtype in ("float32", "float16", "bfloat16")
    ]
    before = [replace(BEFORE, key=key, worst=drawn(6, seed)) for seed, key in enumerate(keys)]
    after = [replace(sample, worst=scaled(sample.worst, 1.5)) for sample in before]
    *alone, together = compare(released(*before), after)
    assert together.dtypes == ("float32", "float16", "bfloat16")
    assert not flagged(alone)
    assert together.flagged
    assert (together.dtype, together.check, together.pairs) == (ALL, "test_matches", 18)


def test_a_dtype_that_tells_alone_is_not_told_again() -> None:
    before = [replace(BEFORE, worst=drawn(n), key=KEY._replace(dtype=f"f{n}")) for n in (30, 3)]
    after = [replace(sample, worst=scaled(sample.worst, 1.5)) for sample in before]
    drifts = compare(released(*before), after)
    assert [(drift.dtype, drift.flagged) for drift in drifts] == [("f30", True), ("f3", False)]


def test_many_cells_ask_for_more_than_one() -> None:
    # 8 pairs up is 1 in 256; that is told of one check, and happens by chance among a hundred.
    def grown(count: int) -> tuple[Drift, ...]:
        keys = [KEY._replace(kernel=f"k{number}") for number in range(count)]
        before = [replace(BEFORE, key=key, worst=drawn(8)) for key in keys]
        return compare(
            released(*before),
            [replace(sample, worst=scaled(sample.worst, 1.5)) for sample in before],
        )

    assert len(flagged(grown(1))) == 1
    assert not flagged(grown(100))
    assert "too few to tell" in grown(100)[0].words


def test_another_seed_is_unpaired_and_says_so() -> None:
    before = replace(BEFORE, worst=drawn(96, 0))
    other = {f"{number:08x}": error for number, error in enumerate(drawn(96, 1).values(), 1000)}
    same = compared(before, replace(before, worst=other, seed=1))
    assert not same.flagged
    assert same.pairs == 0
    chanced = {**other, "00000000": 9.0}  # a case that both seeds happen to have
    assert compared(before, replace(before, worst=chanced, seed=1)).pairs == 0
    assert same.words.startswith("unpaired, since no case is in both")
    assert "seed 0 -> 1" in same.words
    worse = compared(before, replace(before, worst=scaled(other, 4), seed=1))
    assert worse.flagged


def test_of_another_number_of_cases_those_in_common_pair() -> None:
    before = replace(BEFORE, worst=drawn(30), cases=30)
    drift = compared(before, replace(before, worst=drawn(50), cases=50))
    assert (drift.pairs, drift.moved, drift.flagged) == (30, 0, False)
    assert "30 -> 50 cases" in drift.words


def test_what_changed_is_named() -> None:
    before = replace(BEFORE, worst=drawn(30), versions={"torch": "2.12"}, device={"driver": "1"})
    after = replace(
        before, versions={"torch": "2.13", "triton": "3.7"}, verdict="failed", device={}
    )
    words = compared(before, after).words
    for change in (
        "torch 2.12 -> 2.13",
        "triton none -> 3.7",
        "driver 1 -> none",
        "passed -> failed",
    ):
        assert change in words


def test_what_only_one_side_has_is_said() -> None:
    here, gone = replace(BEFORE, worst=drawn(9)), KEY._replace(kernel="gone.triton")
    elsewhere = replace(here, key=KEY._replace(arch="sm100"))
    drifts = compare(released(replace(here, key=gone), elsewhere), [here])
    words = {drift.kernel: drift.words for drift in drifts}
    assert words == {
        "rms_norm.triton": "the baseline has no errors of it",
        "gone.triton": "these records have no errors of it",
    }


def test_a_check_without_errors_has_no_row() -> None:
    assert compare(released(BEFORE), [BEFORE]) == ()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_noise_alone_is_seldom_flagged(noise: float) -> None:
    # 1 % by design; the rates of docs/drift.md are measured by `python -m suites.calibrate.drift`.
    found = rates(World(kernels=6, cases=24, noise=noise), comparisons=40)
    assert found.false <= 1


def test_growth_amid_noise_is_found() -> None:
    found = rates(World(kernels=6, cases=48, noise=0.1, growth=1.5), comparisons=10)
    assert (found.found, found.false) == (10, 0)


def test_a_record_gives_its_sample() -> None:
    figures = {"errors": {key_of("k/m=1"): 0.5, "00000000": 0}, "rms_errors": {}}
    record = Record(
        kernel="k",
        arch="cpu",
        layer="numeric",
        check="t[float16]",
        dtype="float16",
        case="k/m=1",
        verdict="passed",
        outcome="passed",
        evidence="emulated",
        cases=2,
        figures=figures,
        seed=3,
    )
    sample = sample_of(record)
    assert sample.key == Asked("k", "cpu", "numeric", "t[float16]", "float16")
    assert (sample.seed, sample.cases, sample.errors("rms_errors")) == (3, 2, {})
    assert sample.name_of(key_of("k/m=1")) == "k/m=1"
    assert sample.name_of("00000000") == "00000000"
    skipped = replace(record, verdict="skipped", outcome="unavailable")
    assert list(samples_of([skipped])) == []


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([0.5], r"errors=\[0.5\] is a list, not errors by the key of a case"),
        ({"a": "0.5"}, r"errors\['a'\]='0.5' is no error"),
        ({"a": True}, "is no error"),
        ({"a": -1.0}, "a number of at least 0 is needed"),
        ({"a": float("nan")}, "is no error"),
    ],
)
def test_errors_that_are_none_are_refused_by_name(found: object, message: str) -> None:
    with pytest.raises(InvalidErrors, match=message):
        errors_of({"errors": found})


def test_errors_are_kept_short() -> None:
    assert [rounded(e) for e in (0.123456, 0.0, 1234.5, float("inf"), float("nan"))] == [
        0.123,
        0.0,
        1230.0,
        1e300,
        1e300,
    ]
    assert key_of("rms_norm.triton/m=1") == key_of("rms_norm.triton/m=1") != key_of("x")
    assert len(key_of("")) == 8
