"""The benchmark of several GPUs times green cells, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from suites.bench.scaling import CellsFailed, Outcome

if TYPE_CHECKING:
    from pathlib import Path


def outcome(folder: Path, *spans: tuple[float, float, str]) -> Outcome:
    path = folder / "timeline.json"
    seen = [{"start": start, "stop": stop, "outcome": said} for start, stop, said in spans]
    path.write_text(json.dumps(seen))
    return Outcome.read(2, 4, 20.0, path)


def test_cells_take_from_the_first_start_to_the_last_end(tmp_path: Path) -> None:
    found = outcome(tmp_path, (5.0, 9.0, "passed"), (3.0, 4.0, "passed"))
    assert (found.cells, found.longest, found.work, found.count) == (6.0, 4.0, 5.0, 2)
    beside = Outcome(1, 2, 40.0, 12.0, 4.0, 5.0, 2)
    assert "2 devices, 4 workers: 2 checks in 6.0 s, 2.00 x; the whole run" in found.words(beside)


@pytest.mark.parametrize("said", [[], ["passed", "skipped"]])
def test_skipped_cells_are_no_time(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(CellsFailed, match="cells were skipped"):
        outcome(tmp_path, *((0.0, 1.0, each) for each in said))
