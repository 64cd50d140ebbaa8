"""A row says what became of a mutant, and a matrix survives the way through its file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness.power.correct import Judged
from harness.power.isolation import Ending
from harness.power.matrix import InvalidMatrix, Status, look, read, rejections, row
from harness.power.session import LOADS, Began, Uncompiled
from harness.power.trace import Key
from harness.power.witness import Difference
from suites.meta.power_rows import KILL, MUTATION, ROW, finished, matrix, seen, step

if TYPE_CHECKING:
    from pathlib import Path

FAILING = step(oracles=("budget",), words="y: wrong", foreign=("allclose 0.1",), position=2)


@pytest.mark.parametrize(
    ("difference", "kills", "status"),
    [
        (Difference.WITNESSED, True, Status.KILLED),
        (Difference.WITNESSED, False, Status.MISSED),
        (Difference.BITS, True, Status.ACCUSED),
        (Difference.BITS, False, Status.BENIGN),
        (Difference.NONE, True, Status.ACCUSED),
        (Difference.NONE, False, Status.EQUIVALENT),
    ],
)
def test_what_became_of_it(difference: Difference, kills: bool, status: Status) -> None:  # noqa: FBT001
    took = FAILING if kills else step()
    found = row(MUTATION, finished(took, difference=difference), seen(took))
    assert found.status is status
    assert found.witnessed == (difference is Difference.WITNESSED)


def test_what_does_not_compile_is_no_kill_and_counts_nowhere() -> None:
    told = (FAILING, Uncompiled("f does not compile for sm90: oops"))
    for ending in (Ending.DONE, Ending.CRASHED):
        found = row(MUTATION, finished(*told, ending=ending), seen(FAILING))
        assert found.status is Status.INAPPLICABLE
        assert (found.kills, found.witnessed) == ((), False)
        assert found.witness == "f does not compile for sm90: oops"


def test_a_kill_keeps_its_layer_family_oracle_and_first_case() -> None:
    steps = [FAILING, replace(FAILING, key=FAILING.key._replace(name="case 2"), position=1)]
    found = row(MUTATION, finished(*steps), seen(*steps))
    assert found.kills == (replace(KILL, count=2),)
    assert found.curve == {"float16/default": 1}


def test_a_step_that_fails_on_the_original_too_kills_nothing() -> None:
    before = replace(seen(FAILING), steps={FAILING.key: FAILING})
    found = row(MUTATION, finished(FAILING, difference=Difference.NONE), before)
    assert found.status is Status.EQUIVALENT
    assert not any(found.foreign.values())


def test_steps_of_the_search_and_of_habits_kill_nothing_in_the_default_run() -> None:
    steps = [
        replace(FAILING, key=FAILING.key._replace(check="witness")),
        replace(FAILING, key=FAILING.key._replace(check="few shapes")),
    ]
    found = row(MUTATION, finished(*steps), seen(*steps))
    assert found.status is Status.MISSED
    assert found.by_habit == ("few shapes",)
    assert found.foreign == {"few shapes": ("allclose 0.1",)}


@pytest.mark.parametrize("ending", [Ending.CRASHED, Ending.HUNG, Ending.OUT_OF_MEMORY])
def test_a_violent_end_is_a_kill_of_the_step_that_had_begun(ending: Ending) -> None:
    began = Began(Key("numeric", "matches_the_reference", "float16", "op/m=1,values=tiny,seed=1"))
    found = row(MUTATION, finished(Began(LOADS), began, difference=None, ending=ending), seen())
    (kill,) = found.kills
    assert (found.status, kill.oracle, kill.family) == (Status.KILLED, str(ending), "tiny")


def test_a_violent_end_in_the_search_is_a_witness_and_no_kill() -> None:
    began = Began(Key("witness", "answers", "", "m=0"))
    found = row(MUTATION, finished(began, difference=None, ending=Ending.HUNG), seen())
    assert found.status is Status.MISSED


def test_what_the_harness_stumbled_over_is_unknown() -> None:
    found = row(MUTATION, finished(difference=None, ending=Ending.FAILED), seen())
    assert (found.status, found.words) == (Status.UNKNOWN, "printed")


def test_a_mutant_that_does_not_import_passes_no_test_of_any_kind() -> None:
    broken = step("*", layer=LOADS.layer, check=LOADS.check, oracles=("import",), words="raised")
    found = row(MUTATION, finished(replace(broken, key=LOADS)), seen())
    assert found.status is Status.KILLED
    assert all("cosine > 0.97" in rules for rules in found.foreign.values())


def test_a_matrix_comes_back_from_its_file(tmp_path: Path) -> None:
    place = tmp_path / "matrix.json"
    made = matrix(ROW, replace(ROW, id="other", status=Status.MISSED, kills=()))
    place.write_text(made.to_json(), encoding="utf-8")
    assert read(place) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", r"schema=\[\]"),
        ('{"schema": 0}', "schema=0, this version reads 1"),
        ('{"schema": 1}', "'originals'"),
        ('{"schema": 1, "originals": [], "rows": [{"id": "x"}]}', "row="),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str, says: str) -> None:
    place = tmp_path / "matrix.json"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidMatrix, match=says):
        read(place)


def test_an_unfair_case_is_no_result_and_a_rejected_one_is_named() -> None:
    right = Judged("op", "eager", "case", "normal", "all families", (), "", (), unfair=False)
    wrong = replace(right, oracles=("budget",), words="y: wrong", foreign=("SQNR > 40 dB",))
    found = rejections([right, right, replace(right, unfair=True), wrong])
    assert (found.results, found.unfair, len(found.rejected)) == (3, 1, 1)
    assert found.rejected[0]["variant"] == "op: eager"
    assert found.foreign == {"all families": {"SQNR > 40 dB": 1}}
    assert found.asked == {"all families": 4}


def test_the_cost_of_an_original_goes_by_check_and_position() -> None:
    steps = [
        step("a", seconds=1.0),
        step("b", seconds=2.0, position=1),
        step("c", seconds=4.0, check="witness"),
        step("d", seconds=8.0, layer="boundary", check="refuses"),
    ]
    found = look("op.triton", 24, 6, seen(*steps))
    assert found.by_position == {0: 1.0, 1: 2.0}
    assert found.seconds == {"numeric/matches_the_reference": 3.0, "boundary/refuses": 8.0}
    assert (found.cases, found.searched) == (3, 1)
