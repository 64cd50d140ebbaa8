"""Records of several machines are merged, and what is not of one piece is refused by name."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from harness import manifest
from harness.gate.evidence import CannotJudge, read
from suites.meta.gate_runs import ALL, CPU, FACTS, FINISHED, KERNEL, SM90, good, run_of, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.gate.evidence import Run

ONE: Final = run_of(map(good, ALL))
TWO: Final = run_of(map(good, ALL), name="b2")
KILLED: Final = run_of(map(good, ALL), finished="", status=None)  # every line of it is checked


def test_runs_of_a_folder_and_its_folders_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    first, second = write(tmp_path, ONE), write(tmp_path / "gpu", TWO)
    merged = read(tmp_path)
    runs = {run.path: run for run in merged.runs}
    assert runs == {path: ended(run, path) for path, run in ((first, ONE), (second, TWO))}
    assert list(merged.records) == [each for run in merged.runs for each in run.records]
    assert merged.kernels == {KERNEL: FACTS}
    assert merged.cells == ONE.manifest.cells
    assert all(run.finished for run in merged.runs)


def test_links_are_followed_and_a_folder_is_read_once(tmp_path: Path) -> None:
    records, elsewhere = tmp_path / "records", tmp_path / "elsewhere"
    for folder in (records, elsewhere):
        folder.mkdir()
    write(records, ONE), write(elsewhere, TWO)
    (records / "gpu").symlink_to(elsewhere)
    (records / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(records)
    assert [run.manifest.run for run in read(records).runs] == ["a1", "b2"]


UNREAD: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "dangling": (lambda p: p.symlink_to("gone"), r"b2\.jsonl is a link that leads nowhere"),
    "loop": (lambda p: p.symlink_to(p), r"b2\.jsonl is a link that leads nowhere"),
    "pipe": (os.mkfifo, r"b2\.jsonl is no file and no folder"),
}


@pytest.mark.parametrize(("make", "message"), UNREAD.values(), ids=UNREAD)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    write(tmp_path, ONE)
    make(tmp_path / "b2.jsonl"), make(tmp_path / "b2.manifest.json")
    with pytest.raises(CannotJudge, match=message):
        read(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all folders, so the refusal is made."""
    listed = os.scandir

    def scandir(place: str) -> object:
        if str(place).endswith("gpu"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    write(tmp_path, ONE)
    (tmp_path / "gpu").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CannotJudge, match=r"the folder '\S+/gpu' cannot be read: Permission den"):
        read(tmp_path)


def ended(run: Run, path: Path) -> Run:
    """The run as it is read back from its file."""
    digest = manifest.digest_of(path.read_bytes())
    return replace(run, path=path, manifest=replace(run.manifest, digest=digest))


@pytest.mark.parametrize("run", [ONE, KILLED], ids=["vouched for", "checked"])
def test_figures_are_those_that_were_written(tmp_path: Path, run: Run) -> None:
    figures = {
        "errors": {"0123abcd": 0.25},
        "figures": {"in": "figures"},
        'a \\ ", "figures": {': ["}"],
        "ü\n": None,
    }
    records = (replace(run.records[0], figures=figures, case='", "figures": {'), *run.records[1:])
    write(tmp_path, replace(run, records=records))
    found = read(tmp_path).runs[0].records
    assert found == records
    assert dict(found[0].figures) == figures
    assert (len(found[0].figures), found[0].figures.get("absent")) == (4, None)


def test_no_figure_is_parsed_that_nobody_asks_for(tmp_path: Path) -> None:
    path = write(tmp_path, ONE)
    path.write_text(path.read_text().replace('"figures": {}', '"figures": {"a": 1'))
    manifest.end(path, finished=FINISHED, status=0)  # no writer of ours leaves that
    (run,) = read(tmp_path).runs
    assert [r.check for r in run.records] == [r.check for r in ONE.records]
    with pytest.raises(json.JSONDecodeError):
        len(run.records[0].figures)


@pytest.mark.parametrize("left", [0, 1, -1])
def test_records_that_changed_after_their_run_are_refused(tmp_path: Path, left: int) -> None:
    path = write(tmp_path, ONE)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"cases": 20', '"cases": 99')
    path.write_text("".join(lines[:left] if left else lines))
    with pytest.raises(CannotJudge, match=r"a1\.jsonl: these are not the records that run 'a1'"):
        read(tmp_path)


def test_a_record_in_another_order_of_its_keys_is_read_too(tmp_path: Path) -> None:
    path = write(tmp_path, KILLED)
    line = ONE.records[0].to_json()
    turned = '{"seed": 0, ' + line[1:].replace(', "seed": 0', "")
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, turned))
    assert read(tmp_path).runs[0].records == ONE.records


def test_a_last_line_that_is_half_written_leaves_the_others_usable(tmp_path: Path) -> None:
    path = write(tmp_path, KILLED)
    path.write_bytes(path.read_bytes()[:-40])
    (run,) = read(tmp_path).runs
    assert (run.finished, run.records) == (False, ONE.records[:-1])


def test_a_last_line_without_its_end_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, KILLED)
    path.write_bytes(path.read_bytes()[:-1])
    (run,) = read(tmp_path).runs
    assert run.records == ONE.records


def test_a_run_that_died_before_its_first_record(tmp_path: Path) -> None:
    write(tmp_path, run_of((), (), finished="", status=None, kernels={}, cells=()))
    (run,) = read(tmp_path).runs
    assert (run.finished, run.records) == (False, ())


def test_what_is_left_of_an_interrupted_write_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    (tmp_path / "a1.manifest.json.part").write_text("{")
    assert len(read(tmp_path).runs) == 1


def append(path: Path, text: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], text, *lines[1:]]) + "\n")


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def beside(path: Path) -> Path:
    return manifest.beside(path)


BROKEN: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "no JSON": (lambda p: append(p, "FAILED test_x"), r"a1\.jsonl:2: not JSON"),
    "cut in the middle": (lambda p: append(p, '{"arch": "cpu"'), r"a1\.jsonl:2: not JSON"),
    "another JSON": (lambda p: append(p, '{"loss": 0.3}'), r"a1\.jsonl:2: schema=None"),
    "two on a line": (lambda p: append(p, "{}, {}"), r"a1\.jsonl:2: not JSON"),
    "empty line": (lambda p: append(p, ""), r"a1\.jsonl:2: not JSON"),
    "empty first line": (
        lambda p: p.write_text("\n" + p.read_text()[:-1]),
        r"a1\.jsonl:1: not JSON",
    ),
    "no text": (lambda p: p.write_bytes(b"\xff\xfe\n" + p.read_bytes()), r"a1\.jsonl:1: not JSON"),
    "older schema": (
        lambda p: edit(p, '"schema": 3', '"schema": 1'),
        r"a1\.jsonl:1: schema=1, this version reads 3; make the records again",
    ),
    "outcome": (
        lambda p: edit(p, '"outcome": "passed"', '"outcome": "fine"'),
        r"a1\.jsonl:1: 'fine' is not a valid Outcome",
    ),
    "type": (lambda p: edit(p, '"seed": 0', '"seed": "0"'), r"a1\.jsonl:1: seed='0' is a str"),
    "cell": (
        lambda p: edit(p, '"arch": "sm100"', '"arch": "sm101"'),
        r"double\.triton-sm101-\w+ is no cell of the manifest beside it",
    ),
    "other run": (
        lambda p: edit(p, '"run": "a1"', '"run": "c3"'),
        "run='c3' in a record, run='a1' in the manifest beside it",
    ),
    "no manifest": (lambda p: beside(p).unlink(), r"a1\.manifest\.json is not beside it; copy bot"),
    "no records": (lambda p: p.unlink(), r"a1\.manifest\.json: the records that it belongs to"),
    "foreign file": (
        lambda p: (p.parent / "junit.xml").write_text("<x/>"),
        r"holds 1 files that are neither \*\.jsonl nor \*\.manifest\.json: junit\.xml; move",
    ),
    "cut manifest": (
        lambda p: beside(p).write_text(beside(p).read_text()[:-30]),
        r"a1\.manifest\.json: not JSON .*cut off while written",
    ),
    "older manifest": (
        lambda p: edit(beside(p), '"schema": 3', '"schema": 1'),
        r"a1\.manifest\.json: schema=1, this version reads 3",
    ),
    "manifest without a field": (
        lambda p: edit(beside(p), '"uncovered"', '"covered"'),
        r"a1\.manifest\.json: 'uncovered' is missing; see docs/records\.md",
    ),
    "manifest with another field": (
        lambda p: edit(beside(p), '"seed": 0', '"seed": 0, "sede": 1'),
        r"a1\.manifest\.json: .*'sede'",
    ),
    "manifest of another kind": (
        lambda p: beside(p).write_text("[1]"),
        r"a1\.manifest\.json: schema=\[1\]",
    ),
    "kinds of a manifest": (
        lambda p: edit(beside(p), '"archs": []', '"archs": "sm90"'),
        r"a1\.manifest\.json: archs='sm90' is a str",
    ),
    "kernel without facts": (
        lambda p: edit(beside(p), f'"{KERNEL}": {{', '"triple.cuda": {'),
        r"a1\.manifest\.json: cells has 'double\.triton', which is not among the kernels",
    ),
    "check of a kernel without facts": (
        lambda p: edit(
            beside(p), f'"{KERNEL}", "sm90", "compile", "t', '"x", "sm90", "compile", "t'
        ),
        r"a1\.manifest\.json: collected has 'x', which is not among the kernels",
    ),
    "check of no cell": (
        lambda p: edit(beside(p), f'["{KERNEL}", "sm90", "compile"], ', ""),
        r"collected has 'double\.triton-sm90-compile', which is not among the cells",
    ),
    "layer of a cell": (
        lambda p: edit(beside(p), '"numeric"', '"numerics"'),
        r"a1\.manifest\.json: cells has 'numerics', which is not among the layers",
    ),
    "kernel that is a list": (
        lambda p: edit(beside(p), f'["{KERNEL}", "sm90", "compile"]', '[["a"], "sm90", "compile"]'),
        r"a1\.manifest\.json: a cell has not the words kernel, arch, layer;",
    ),
    "dtype that is a number": (
        lambda p: edit(beside(p), '"float16"]]', "16]]"),
        r"a1\.manifest\.json: a check has not the words kernel, arch, layer, check, dtype;",
    ),
    "facts of a kernel": (
        lambda p: edit(beside(p), '"source": "5eed"', '"source": 5'),
        r"a1\.manifest\.json: the facts of kernel 'double\.triton' hold what is no string",
    ),
    "version of a manifest": (
        lambda p: edit(beside(p), '"0.1.0"', "0.1"),
        r"a1\.manifest\.json: archs, versions, device or not_loaded hold what is no string",
    ),
    "nested manifest": (
        lambda p: beside(p).write_text("[" * 100_000),
        r"a1\.manifest\.json: not JSON \(maximum recursion depth",
    ),
    "nested record": (
        lambda p: append(p, "[" * 100_000),
        r"a1\.jsonl:2: not JSON \(maximum recursion depth",
    ),
    "short row": (
        lambda p: edit(beside(p), f'["{KERNEL}", "cpu", "boundary", "test_refuses", ""]', '["a"]'),
        r"a1\.manifest\.json: a check has not the words kernel, arch, layer, check, dtype",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(write(tmp_path, ONE))
    with pytest.raises(CannotJudge, match=message):
        read(tmp_path)


def hashed(source: str) -> Run:
    records = (good(each, source=source) for each in SM90)
    return run_of(records, SM90, name="b2", kernels={KERNEL: replace(FACTS, source=source)})


MIXED: Final = {
    "sources": (
        hashed("0dd"),
        r"kernel 'double\.triton' has several source hashes: 5eed in .*a1\.jsonl, 0dd in .*b2",
    ),
    "sources within a run": (
        run_of((good(each, source="0dd") for each in SM90), SM90, name="b2"),
        "kernel 'double.triton' has several source hashes",
    ),
    "versions": (
        run_of(map(good, CPU), CPU, name="b2", versions={"kernel-parity": "0.2.0"}),
        r"records of several versions of kernel-parity: .*'0\.2\.0' in .*b2\.jsonl",
    ),
    "the same run": (
        replace(ONE, path=ONE.path.with_name("copy.jsonl")),
        r"a1\.jsonl and .*copy\.jsonl are the same run 'a1'; keep one",
    ),
}


@pytest.mark.parametrize(("second", "message"), MIXED.values(), ids=MIXED)
def test_runs_that_do_not_belong_together_are_refused(
    tmp_path: Path, second: Run, message: str
) -> None:
    write(tmp_path, ONE)
    write(tmp_path, second)
    with pytest.raises(CannotJudge, match=message):
        read(tmp_path)


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotJudge, match=r"holds no \*\.jsonl; make them with pytest --records"):
        read(tmp_path)
    with pytest.raises(CannotJudge, match="is no folder; name the one that holds"):
        read(tmp_path / "absent")
