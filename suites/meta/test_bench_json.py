"""The benchmark refuses a file that it could not write before it measures anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from suites.bench.__main__ import main
from suites.bench.measured import require_writable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("there", "there is a folder; name a file in it, e.g. "),
        ("taken/new/bench.json", "taken is no folder that this user may write to; name another"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_up_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit, match="2"):
        main([f"--json={tmp_path / name}"])
    said = capsys.readouterr()
    assert (said.out, words in said.err) == ("", True), said.err


def test_a_folder_may_be_made_for_it(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "bench.json")
    assert not (tmp_path / "new").exists()
