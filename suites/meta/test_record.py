"""A record survives its line of JSON, and a line that is no record is refused by file and line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cells import Cell, Evidence, Layer, Outcome, Verdict
from harness.record import SCHEMA, InvalidRecord, Record, from_json, read, versions
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from pathlib import Path

FEWER = settings(LAW, max_examples=40)
RECORD = Record(
    kernel="rms_norm.triton",
    arch="sm90",
    layer="numeric",
    check="test_matches_the_reference[float16]",
    verdict="failed",
    outcome="wrong",
    evidence="device",
    dtype="float16",
    run="5eed",
    worker="gw1",
    started="2026-11-22T06:30:00.125+00:00",
    backend="triton",
    launched=["triton:kernels.norm.triton._rms_norm"],
    cases=160,
    figures={"worst_in_budget": 1.5},
    case="rms_norm.triton/m=1,n=2,dtype=float16,eps=1e-06,values=ties,seed=3",
    message="y: budget: 1 of 2 elements wrong\n  ✗ in row 0",
    versions={"torch": "2.11.0"},
    device={"device": "NVIDIA H200"},
    seconds=1.25,
)
words = st.text(max_size=20)
records = st.builds(
    lambda outcome, **fields: Record(verdict=str(outcome.verdict), outcome=str(outcome), **fields),
    outcome=st.sampled_from(Outcome),
    kernel=words,
    arch=words,
    layer=st.sampled_from([str(layer) for layer in Layer]),
    check=words,
    launched=st.lists(words, max_size=2),
    evidence=st.sampled_from([str(evidence) for evidence in Evidence]),
    cases=st.integers(2, 9),
    unfair=st.integers(0, 2),
    figures=st.dictionaries(
        words, st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    ),
    case=words,
    message=words,
    seed=st.integers(),
    source=words,
    run=words,
    started=words,
    versions=st.dictionaries(words, words),
    device=st.dictionaries(words, words),
    seconds=st.floats(0, 1e6),
)


@given(records)
@FEWER
def test_a_record_survives_its_line(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert line.isascii()
    assert from_json(line) == record


def test_a_file_holds_one_record_a_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    written = [replace(RECORD, seed=seed) for seed in range(3)]
    path.write_text("".join(f"{record.to_json()}\n" for record in written), encoding="utf-8")
    assert list(read(path)) == written


def test_a_record_knows_its_cell() -> None:
    assert RECORD.cell == Cell("rms_norm.triton", "sm90", Layer.NUMERIC)


def test_the_words_of_a_verdict_are_written_as_text() -> None:
    record = replace(
        RECORD,
        layer=Layer.COMPILE,
        verdict=Verdict.PASSED,
        outcome=Outcome.PASSED,
        evidence=Evidence.FAKE,
    )
    fields = json.loads(record.to_json())
    assert (fields["layer"], fields["verdict"], fields["evidence"]) == ("compile", "passed", "fake")
    assert fields["schema"] == SCHEMA


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_lacks_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(RECORD, figures={"worst_in_budget": value}).to_json()


def changed(**fields: object) -> str:
    return json.dumps(asdict(RECORD) | fields)


def without(field: str) -> str:
    return json.dumps({name: value for name, value in asdict(RECORD).items() if name != field})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not JSON"),
        ("\n", "not JSON"),
        ("not json", "not JSON"),
        (RECORD.to_json()[:100], "not JSON .*was cut off while written"),
        ("null", "schema=None, this version reads 3"),
        ("[]", r"schema=\[\], this version reads 3"),
        ("{}", "schema=None, this version reads 3"),
        (without("schema"), "schema=None"),
        (changed(schema=SCHEMA + 1), "schema=4, this version reads 3; make the records again"),
        (changed(schema=1), "schema=1, this version reads 3; make the records again"),
        (changed(schema="2"), "schema='2'"),
        (changed(outcome="broken"), "'broken' is not a valid Outcome"),
        (changed(outcome="unavailable"), "outcome='unavailable' is none of verdict='failed'"),
        (changed(cases="160"), "cases='160' is a str"),
        (changed(cases=2, unfair=3), "unfair=3 is not between 0 and cases=2"),
        (changed(launched="triton:f"), "launched='triton:f' is a str"),
        (changed(verdict="maybe"), "'maybe' is not a valid Verdict"),
        (changed(verdict="uncovered"), "uncovered"),
        (changed(evidence="hearsay"), "'hearsay' is not a valid Evidence"),
        (changed(layer="numerics"), "'numerics' is not a valid Layer"),
        (changed(sm="90"), "unexpected keyword argument 'sm'"),
        (without("kernel"), "missing 1 required keyword-only argument: 'kernel'"),
        (changed(verdict=["passed"]), "is a list"),
        (changed(launched=[3]), r"launched=\[3\] holds what is no string"),
        (changed(versions={"torch": 2}), r"versions=\{'torch': 2\} holds what is no string"),
        (changed(device={"device": None}), "device=.* holds what is no string"),
        (changed(seconds=10**400), r"seconds=1000.*\.\.\.0+ is not between 0 and 1e\+09"),
        (changed(seconds=-1.0), r"seconds=-1\.0 is not between"),
        (changed(seconds=float("nan")), r"not JSON \(NaN is no number\)"),
        (changed(cases=0).replace('"cases": 0', f'"cases": {"9" * 5000}'), "not JSON .*4300"),
        (changed(figures={"a": float("inf")}), r"not JSON \(Infinity is no number\)"),
        ("[" * 100_000, r"not JSON \(maximum recursion depth"),
    ],
)
def test_what_is_no_record_is_refused_by_file_and_line(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{RECORD.to_json()}\n{line.rstrip()}\n", encoding="utf-8")
    lines = read(path)
    assert next(lines) == RECORD
    with pytest.raises(InvalidRecord, match=message) as error:
        next(lines)
    assert str(error.value).startswith(f"{path}:2: ")


def test_bytes_that_are_no_text_are_refused_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(RECORD.to_json().encode() + b"\n\xff\xfe\x00\n")
    with pytest.raises(InvalidRecord) as error:
        list(read(path))
    assert str(error.value).startswith(f"{path}:2: ")


def test_a_line_cut_at_any_place_is_refused() -> None:
    line = RECORD.to_json()
    for length in range(len(line)):
        with pytest.raises(InvalidRecord, match="elsewhere:7: "):
            from_json(line[:length], where="elsewhere:7")


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
        list(read(tmp_path / "absent.jsonl"))


def test_versions_are_of_what_is_installed() -> None:
    import hypothesis
    import torch

    found = versions()
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["hypothesis"] == hypothesis.__version__
    assert all(found.values())
