"""A file is written whole or left as it was, and a folder that cannot be written to is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.atomic import write_text

if TYPE_CHECKING:
    from pathlib import Path


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "made" / "as" / "needed.txt"
    for text in ("first", "zweiter µ"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half\ud800")
    assert path.read_text() == "whole"


def test_a_write_that_the_disk_refuses_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.mkdir()  # which no file can take the place of
    with pytest.raises(OSError, match="kept cannot be written to the folder"):
        write_text(path, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_is_none_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="name a folder that this user may write to") as error:
        write_text(tmp_path / "file" / "x.json", "text")
    assert f"x.json cannot be written to the folder {str(tmp_path / 'file')!r}" in str(error.value)
