"""Ratios of benchmarks: kept as JSON, refused where broken, flagged where worse beyond noise."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate.ratios import InvalidRatios, Ratio, of_rounds, read, to_json
from harness.gate.slowdown import BENCH, compare_ratios
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from pathlib import Path

    from harness.gate.drift import Drift

FEWER = settings(LAW, max_examples=15)
FASTER = Ratio(name="gemm/m=1", ratio=2.5, spread=0.002, device="NVIDIA H200")
COST = replace(FASTER, name="case/overhead", better="lower")
positive = st.floats(1e-3, 1e3)
names = st.text(max_size=9)
ratios = st.builds(
    Ratio,
    name=names,
    ratio=positive,
    unit=names,
    spread=st.floats(0, 1),
    better=st.sampled_from(("higher", "lower")),
    device=names,
)


def compared(before: Ratio, after: Ratio) -> Drift:
    (drift,) = compare_ratios([before], [after])
    return drift


@given(st.lists(ratios, max_size=5, unique_by=lambda ratio: ratio.name))
@FEWER
def test_ratios_survive_their_file(
    tmp_path_factory: pytest.TempPathFactory, found: list[Ratio]
) -> None:
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    path.write_text(to_json(found, {"torch": "2.13"}), encoding="utf-8")
    assert read(path) == tuple(replace(one, environment={"torch": "2.13"}) for one in found)


@given(ratios, positive)
@FEWER
def test_worse_one_way_is_better_the_other(ratio: Ratio, by: float) -> None:
    other = replace(ratio, ratio=ratio.ratio * by)
    there, back = compared(ratio, other), compared(other, ratio)
    assert there.ratio * back.ratio == pytest.approx(1)
    assert not (there.flagged and back.flagged)


@given(ratios)
@FEWER
def test_the_same_ratio_is_never_flagged(ratio: Ratio) -> None:
    drift = compared(ratio, ratio)
    assert (drift.flagged, drift.moved, drift.layer) == (False, 0, BENCH)


@pytest.mark.parametrize(("ratio", "by"), [(FASTER, 0.8), (COST, 1.25)])
def test_what_got_worse_beyond_its_noise_is_flagged(ratio: Ratio, by: float) -> None:
    drift = compared(ratio, replace(ratio, ratio=ratio.ratio * by))
    assert drift.flagged
    assert "1.25 x worse, where 1.05 x may be noise" in drift.words
    assert (drift.kernel, drift.check) == tuple(ratio.name.split("/"))
    better = compared(replace(ratio, ratio=ratio.ratio * by), ratio)
    assert not better.flagged
    assert "1.25 x better" in better.words


def test_what_is_within_its_noise_is_not_flagged() -> None:
    unsure = replace(FASTER, spread=0.05)
    drift = compared(unsure, replace(unsure, ratio=2.0))
    assert not drift.flagged
    assert "1.25 x worse, where 1.33 x may be noise" in drift.words


def test_ratios_of_unlike_devices_are_shown_only() -> None:
    drift = compared(FASTER, replace(FASTER, ratio=1.0, device="NVIDIA H100"))
    assert not drift.flagged
    assert "not held against it: 'NVIDIA H200' then, 'NVIDIA H100' now" in drift.words


def test_what_only_one_side_has_is_said() -> None:
    words = [drift.words for drift in compare_ratios([FASTER], [COST])]
    assert words == ["the baseline has no such ratio", "this run has no such ratio"]
    assert compare_ratios([FASTER], []) == ()


def test_the_median_of_rounds_is_surer_the_more_there_are() -> None:
    chance = random.Random(0)  # noqa: S311 - a sample, no secret
    rounds = [chance.gauss(2.0, 0.1) for _ in range(400)]
    few, many = of_rounds("a/b", rounds[:25]), of_rounds("a/b", rounds)
    assert many.ratio == pytest.approx(2.0, rel=0.02)
    assert few.spread == pytest.approx(1.2533 * 0.05 / 5, rel=0.5)
    assert many.spread == pytest.approx(1.2533 * 0.05 / 20, rel=0.3)


def test_noise_of_two_runs_is_seldom_flagged() -> None:
    chance = random.Random(0)  # noqa: S311 - a sample, no secret

    def run() -> Ratio:
        return of_rounds("a/b", [chance.gauss(2.0, 0.2) for _ in range(15)])

    assert sum(compared(run(), run()).flagged for _ in range(400)) <= 4


def changed(**fields: object) -> str:
    found = json.loads(to_json([FASTER], {}))
    found["ratios"][0] |= fields
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        (to_json([FASTER], {})[:60], "bench.json: "),
        ("[]", r"schema=\[\], this version reads ratios of schema 1"),
        ('{"schema": 2}', "schema=2"),
        ('{"schema": 1}', "'ratios'"),
        ('{"schema": 1, "ratios": [1], "environment": {}}', "1 is no ratio"),
        (changed(ratio="fast"), "ratio='fast' of a ratio is not what docs/drift.md says"),
        (changed(ratio=0), "ratio=0 is no ratio; a number above 0"),
        (changed(ratio=float("nan")), "ratio=nan"),
        (changed(ratio=10**400), r"ratio=1000.*\.\.\.0+ is no ratio; .* up to 1e\+100"),
        (changed(ratio=1e-300), "ratio=1e-300 is no ratio"),
        (changed(spread=-1), "spread=-1 is none"),
        (changed(spread=float("inf")), "spread=inf is none; a relative one, from 0 to 100"),
        (changed(spread=10**400), "spread=1000.* is none"),
        ("[" * 100_000, "maximum recursion depth"),
        (changed(better="more"), "better='more'; 'higher' and 'lower' are known"),
        (changed(extra=1), "extra"),
        (to_json([FASTER, FASTER], {}), "name='gemm/m=1' stands there twice"),
    ],
)
def test_a_file_that_holds_no_ratios_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRatios, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "python -m suites.bench --json" in str(error.value)
