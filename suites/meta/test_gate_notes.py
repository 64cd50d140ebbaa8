"""What is odd and no verdict is noted: duplicates, clocks, versions; not without bound."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.gate.evidence import Merged
from suites.meta.gate_runs import (
    ALL,
    FINISHED,
    HALF,
    STARTED,
    failed,
    good,
    judged,
    only,
    run_of,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.manifest import Asked
    from harness.record import Record


def test_records_that_one_run_has_twice_are_noted() -> None:
    (run,) = whole().runs
    judgement = judged(Merged((replace(run, records=(*run.records, run.records[-1])),)))
    name = "duplicate: test_matches_the_reference[float16] of double.triton on sm100, numeric: "
    assert judgement.green
    assert judgement.notes == (
        f"{name}2 records in run a1; a plugin reran it, or the file has its records again",
    )


@pytest.mark.parametrize("second", [good, failed])
def test_notes_of_duplicates_are_bounded(second: Callable[[Asked], Record]) -> None:
    many = [HALF._replace(check=f"test_{n}[float16]") for n in range(25)]
    runs = (run_of([*map(good, many), *map(second, many)], many),)
    notes = judged(Merged(runs)).notes
    assert notes[20] == "duplicate: 5 more such checks"
    assert len(notes) == (21 if second is good else 42)


CLOCKS: Final = {
    "backwards": ({"started": FINISHED, "finished": STARTED}, "before it started"),
    "future": ({"started": "2027-01-01T00:00:00+00:00"}, "which is in the future"),
    "future end": ({"finished": "2027-01-01T00:00:00+00:00"}, "finished at 2027"),
    "no time": ({"started": "yesterday"}, "started='yesterday', which is no time"),
    "no zone": ({"started": "2026-03-01T10:00:00"}, "which is no time"),
    "year 1": ({"started": "0001-01-01T00:00:00+14:00", "finished": STARTED}, "outside of its run"),
    "outside": ({"started": "2026-03-01T10:50:00+00:00"}, "outside of its run"),
}


@pytest.mark.parametrize(("changes", "words"), CLOCKS.values(), ids=CLOCKS)
def test_clocks_that_disagree_are_noted(changes: dict[str, Any], words: str) -> None:
    judgement = judged(whole(**changes))
    assert judgement.green
    assert any(note.startswith("clock: ") and words in note for note in judgement.notes)


def test_a_run_may_end_with_time_itself() -> None:
    assert judged(whole(finished="9999-12-31T23:59:59+00:00")).green


def test_a_record_whose_time_is_none_is_noted() -> None:
    judgement = judged(whole(only(HALF, good(HALF, started="?"))))
    assert judgement.green
    assert any("started='?', which is no time" in note for note in judgement.notes)


def test_versions_of_other_packages_may_differ_and_are_noted() -> None:
    second = run_of(map(good, ALL), name="b2", versions={"kernel-parity": "0.1.0", "torch": "2.11"})
    judgement = judged(Merged((*whole().runs, second)))
    assert judgement.green
    assert judgement.notes == ("versions: runs used torch 2.11, 2.13.0",)
