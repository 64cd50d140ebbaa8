"""A baseline gives back what was kept, whole; what is none, or broken, is refused with words."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import manifest
from harness.gate import baseline, ratios
from harness.gate.baseline import Baseline, keep, load, releases
from harness.gate.baseline_file import InvalidBaseline, reading, write
from harness.gate.export import CannotExport, export, to_parquet
from harness.gate.ratios import Ratio
from harness.gate.samples import Sample
from harness.manifest import Asked, Manifest
from harness.record import Record
from suites.meta.gate_runs import FACTS
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

FEWER = settings(LAW, max_examples=20)
SAMPLE = Sample(
    key=Asked("rms_norm.triton", "sm90", "numeric", "test_matches[float16]", "float16"),
    verdict="passed",
    evidence="device",
    seed=1,
    cases=2,
    case="rms_norm.triton/m=1",
    source="abc",
    versions={"torch": "2.13.0"},
    device={"device": "NVIDIA H200"},
    worst={"0123abcd": 0.5, "deadbeef": 0.0},
    rms={"0123abcd": 0.29},
)
RATIO = Ratio(
    name="gemm/m=1", ratio=2.5, spread=0.01, device="NVIDIA H200", environment={"torch": "2.13.0"}
)
RELEASE = Baseline(name="v1.2", kept="2026-01-02T03:04:05.678+00:00", samples=(SAMPLE,))
FULL = replace(RELEASE, ratios=(RATIO,))
DAY = "2026-11-22T06:00:00.000+00:00"
RECORD = Record(
    run="r",
    started=DAY,
    kernel="rms_norm.triton",
    arch="sm90",
    layer="numeric",
    check="test_matches[float16]",
    dtype="float16",
    verdict="passed",
    outcome="passed",
    evidence="device",
    cases=2,
    figures={"errors": {"0123abcd": 0.5}},
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
errors = st.dictionaries(words, st.floats(0, 1e300), max_size=4)
samples = st.builds(
    Sample,
    key=st.builds(Asked, words, words, words, words, words),
    verdict=words,
    seed=st.integers(-(2**63), 2**63 - 1),
    cases=st.integers(0, 10**6),
    case=words,
    versions=st.dictionaries(words, words, max_size=2),
    worst=errors,
    rms=errors,
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.sqlite"
    keep(path, FULL)
    return path


def rows_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM records").fetchone()
    return int(found)


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@given(found=st.lists(samples, min_size=1, max_size=4, unique_by=lambda sample: sample.key))
@FEWER
def test_what_was_kept_comes_back(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "baseline.sqlite"
    release = replace(FULL, samples=tuple(found))
    keep(path, release)
    assert load(path) == release


def test_releases_stand_side_by_side(kept: Path) -> None:
    later = replace(RELEASE, name="v1.3", kept="2026-02-02T00:00:00.000+00:00")
    keep(kept, later)
    assert [one.name for one in releases(kept)] == ["v1.2", "v1.3"]
    assert load(kept) == later
    assert load(kept, "v1.2") == FULL


def test_a_taken_name_is_refused_and_nothing_changes(kept: Path) -> None:
    before = kept.read_bytes()
    with pytest.raises(InvalidBaseline, match=r"'v1\.2' is kept there already; .*--replace"):
        keep(kept, RELEASE)
    assert kept.read_bytes() == before
    keep(kept, RELEASE, replace=True)
    assert load(kept) == RELEASE


def test_an_unknown_name_lists_the_known(kept: Path) -> None:
    with pytest.raises(InvalidBaseline, match=r"no release 'v9' is kept there; .*\['v1\.2'\]"):
        load(kept, "v9")


def test_two_records_of_one_check_are_refused(tmp_path: Path) -> None:
    twice = replace(RELEASE, samples=(SAMPLE, SAMPLE))
    with pytest.raises(InvalidBaseline, match=r"rms_norm\.triton-sm90-numeric, .*two records"):
        keep(tmp_path / "baseline.sqlite", twice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " "])
def test_a_release_that_none_could_choose_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidBaseline, match=f"name='{name}' is none that --baseline-name"):
        keep(tmp_path / "baseline.sqlite", replace(RELEASE, name=name))
    assert list(tmp_path.iterdir()) == []


def test_a_release_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBaseline, match=r"'v1\.2' would be empty"):
        keep(tmp_path / "baseline.sqlite", replace(RELEASE, samples=()))


class Stop(Exception):
    """What ends a write in its midst."""


@pytest.mark.parametrize("there", [False, True])
def test_a_write_that_stops_midway_leaves_what_was_there(tmp_path: Path, *, there: bool) -> None:
    path = tmp_path / "baseline.sqlite"
    if there:
        keep(path, FULL)

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM records")
        connection.execute("INSERT INTO releases VALUES ('half', '')")
        raise Stop

    with pytest.raises(Stop):
        write(path, half)
    assert list(tmp_path.iterdir()) == ([path] if there else [])
    assert not there or load(path) == FULL


def test_of_two_that_make_the_file_at_once_both_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "baseline.sqlite"

    def add(connection: sqlite3.Connection) -> None:
        if not path.exists():
            keep(path, FULL)  # as another process, which is done first
        connection.execute("INSERT INTO releases VALUES ('v0', '')")

    write(path, add)
    assert [one.name for one in releases(path)] == ["v0", "v1.2"]
    assert load(path, "v1.2") == FULL
    assert list(tmp_path.iterdir()) == [path]


def killed(path: Path, into: Path) -> Path:
    """The file as a process leaves it that is killed while it writes: pages, and a journal."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # pages go to the file before the end
        connection.execute("BEGIN IMMEDIATE")
        many = ((f"v{number}", "x" * 999) for number in range(99))
        connection.executemany("INSERT INTO releases VALUES (?, ?)", many)
        shutil.copytree(path.parent, into)
        connection.rollback()
    assert sorted(each.name for each in into.iterdir()) == [path.name, f"{path.name}-journal"]
    return into / path.name


@pytest.mark.parametrize("use", [load, lambda path: keep(path, replace(RELEASE, name="v0"))])
def test_what_a_killed_process_began_is_taken_back(
    kept: Path, tmp_path_factory: pytest.TempPathFactory, use: Callable[[Path], object]
) -> None:
    left = killed(kept, tmp_path_factory.mktemp("left") / "here")
    use(left)
    assert load(left, "v1.2") == FULL
    assert list(left.parent.iterdir()) == [left]


def test_what_cannot_be_taken_back_is_said(
    kept: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left = killed(kept, tmp_path_factory.mktemp("left") / "here")
    journal = left.with_name(f"{left.name}-journal")
    journal.unlink()
    journal.mkdir()  # unreadable, to root too
    with pytest.raises(InvalidBaseline, match=r"was killed while it wrote .* list /.*sqlite` does"):
        load(left)


def test_a_reader_sees_what_was_there_before_a_writer_began(kept: Path) -> None:
    with closing(sqlite3.connect(kept, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM releases")
        assert kept.with_name(f"{kept.name}-journal").exists()
        assert load(kept) == FULL


def test_what_is_no_sqlite_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("{}\n" * 100, encoding="utf-8")
    for use in (load, releases, lambda path: keep(path, RELEASE)):
        with pytest.raises(InvalidBaseline, match=r"records\.jsonl is no SQLite file; .* keep"):
            use(path)
    assert path.read_text(encoding="utf-8") == "{}\n" * 100


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    changed(path, "CREATE TABLE cookies (name TEXT)")
    with pytest.raises(InvalidBaseline, match="is an SQLite file, but no baseline"):
        load(path)
    with pytest.raises(InvalidBaseline, match="is an SQLite file, but no baseline"):
        keep(path, RELEASE)


def test_another_schema_is_refused(kept: Path) -> None:
    changed(kept, "PRAGMA user_version = 7")
    with pytest.raises(InvalidBaseline, match="baseline of schema 7, this version reads 1; keep"):
        load(kept)


def test_a_file_cut_at_any_place_is_refused(kept: Path) -> None:
    whole = kept.read_bytes()
    for length in range(0, len(whole), 499):
        kept.write_bytes(whole[:length])
        with pytest.raises(InvalidBaseline, match=r"is no SQLite file|it was cut off"):
            load(kept)
        with pytest.raises(InvalidBaseline, match=r"is no SQLite file|it was cut off"):
            keep(kept, replace(RELEASE, name="more"))


def test_pages_overwritten_are_refused(kept: Path) -> None:
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))
    with pytest.raises(InvalidBaseline, match=r"the baseline is broken .*; keep it again"):
        load(kept)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET errors = '{\"a\": 0.'",
        "UPDATE records SET errors = '[1]'",
        'UPDATE records SET rms_errors = \'{"a": "b"}\'',
        "UPDATE records SET versions = '[]'",
        "UPDATE records SET device = '{\"device\": 1}'",
        "UPDATE records SET source = x'00'",
        "UPDATE records SET seed = 'many'",
        "UPDATE records SET cases = 1.5",
        "UPDATE ratios SET ratio = -1",
        "UPDATE ratios SET environment = 'x'",
        "UPDATE ratios SET environment = '[]'",
        "DROP TABLE ratios",
        "ALTER TABLE records DROP COLUMN rms_errors",
    ],
)
def test_a_row_that_was_damaged_is_refused(kept: Path, statement: str) -> None:
    changed(kept, statement)
    with pytest.raises(InvalidBaseline, match=r"the baseline is broken .*; keep it again"):
        load(kept)


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load(tmp_path / "absent.sqlite")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(InvalidBaseline, match=r"cannot be written to the folder '.*file'"):
        keep(blocked / "baseline.sqlite", RELEASE)
    with pytest.raises(InvalidBaseline, match="cannot be written to the folder '/proc/self'"):
        keep(Path("/proc/self/baseline.sqlite"), RELEASE)  # closed to root, too


def test_a_baseline_in_use_is_said_to_be_locked(kept: Path) -> None:
    with closing(sqlite3.connect(kept, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InvalidBaseline, match="locked"):
            keep(kept, replace(RELEASE, name="more"), patience=0.0)
        with pytest.raises(InvalidBaseline, match="locked"), reading(kept, patience=0.0) as found:
            found.execute("SELECT * FROM releases")
    assert rows_of(kept) == 1


def test_a_baseline_that_lacks_a_table_is_not_the_disk_s_fault(kept: Path) -> None:
    changed(kept, "DROP TABLE ratios")
    with pytest.raises(InvalidBaseline, match=r"is broken \(no such table: ratios\); keep"):
        keep(kept, replace(FULL, name="more"))


def records_in(folder: Path, *records: Record) -> Path:
    folder.mkdir()
    cells = tuple({(record.kernel, record.arch, record.layer) for record in records})
    facts = {r.kernel: replace(FACTS, source=r.source) for r in records}
    found = Manifest(run="r", started=DAY, kernels=facts, cells=cells)
    manifest.write(folder / "sm90.jsonl", found)
    lines = [f"{record.to_json()}\n" for record in records]
    (folder / "sm90.jsonl").write_text("".join(lines), encoding="utf-8")
    manifest.end(folder / "sm90.jsonl", finished=DAY, status=0)
    return folder


def test_the_command_keeps_lists_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, into = records_in(tmp_path / "records", RECORD), tmp_path / "baseline.sqlite"
    bench = tmp_path / "bench.json"
    bench.write_text(ratios.to_json([RATIO], {"torch": "2.13.0"}), encoding="utf-8")
    command = ["keep", "--records", str(folder), "--into", str(into), "--name", "v2"]
    assert baseline.main([*command, "--bench", str(bench)]) == 0
    assert "kept v2 with 1 records and 1 ratios" in capsys.readouterr().out
    assert baseline.main(["list", str(into)]) == 0
    assert capsys.readouterr().out.startswith("v2  kept 20")
    assert baseline.main(["export", str(into), "--into", str(tmp_path / "v2.json")]) == 0
    fields = json.loads((tmp_path / "v2.json").read_text(encoding="utf-8"))
    assert fields["records"][0]["errors"] == {"0123abcd": 0.5}
    assert fields["ratios"][0]["ratio"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keep", "--records", "{0}/none", "--into", "{0}/b", "--name", "v"], "none"),
        (["keep", "--records", "{0}/broken", "--into", "{0}/b", "--name", "v"], "jsonl:1: "),
        (["list", "{0}/absent"], "absent"),
        (["export", "{0}/absent", "--into", "{0}/b.json"], "absent"),
    ],
)
def test_bad_input_of_the_command_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    broken = records_in(tmp_path / "broken", RECORD) / "sm90.jsonl"
    broken.write_text(f"{RECORD.to_json()[:100]}\n{RECORD.to_json()}\n", encoding="utf-8")
    assert baseline.main([argument.format(tmp_path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "b").exists()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotExport, match=r"'x\.csv' ends in none of \['\.json', '\.parquet'\]"):
        export(RELEASE, tmp_path / "x.csv")


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    def absent() -> None:
        raise ModuleNotFoundError(name="pyarrow")

    with pytest.raises(CannotExport, match=r"pip install 'kernel-parity\[parquet\]'"):
        to_parquet(RELEASE, tmp_path / "x.parquet", load=absent)
    assert list(tmp_path.iterdir()) == []


def test_parquet_has_what_was_kept(tmp_path: Path) -> None:
    import pyarrow.parquet

    more = replace(SAMPLE, key=SAMPLE.key._replace(arch="sm100"), worst={}, rms={})
    export(replace(FULL, samples=(SAMPLE, more)), tmp_path / "x.parquet")
    first, second = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert dict(first["errors"]) == SAMPLE.worst
    assert (first["kernel"], first["seed"], dict(first["versions"])) == (
        "rms_norm.triton",
        1,
        {"torch": "2.13.0"},
    )
    assert (second["arch"], second["errors"]) == ("sm100", [])
    (ratio,) = pyarrow.parquet.read_table(tmp_path / "x.ratios.parquet").to_pylist()
    assert (ratio["name"], ratio["ratio"]) == ("gemm/m=1", 2.5)
