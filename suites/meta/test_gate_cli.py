"""The gate's command: its words, its exit status, and that it needs nothing but Python."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import harness
from harness import manifest
from harness.gate.__main__ import main
from harness.gate.evidence import Merged
from suites.meta.gate_runs import ALL, FINISHED, HALF, failed, good, only, run_of, whole, write

ROOT: Final = Path(harness.__file__).parents[1]
CONTRACT: Final = '[[tool.kernel-parity.gate.rules]]\npolicy = "gating"\n'
GATE: Final = """
import sys
from harness.gate.__main__ import main
status = main(sys.argv[1:])
heavy = {"torch", "triton", "numpy", "pytest", "hypothesis", "xdist"} & set(sys.modules)
assert not heavy, heavy
raise SystemExit(status)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a contract that asks for everything, and one for records."""
    (tmp_path / "contract.toml").write_text(CONTRACT)
    (tmp_path / "records").mkdir()
    return tmp_path


def gate(folder: Path, merged: Merged, *arguments: str) -> int:
    for run in merged.runs:
        write(folder / "records", run)
    where = (f"--records={folder / 'records'}", f"--contract={folder / 'contract.toml'}")
    return main([*where, *arguments])


def test_green(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(folder, whole()) == 0
    said = capsys.readouterr().out
    assert said.startswith("GREEN")
    assert "0 red" in said


def test_red_names_the_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(folder, whole(only(HALF, failed(HALF)))) == 1
    said = capsys.readouterr().out
    assert "RED" in said
    assert "1 red" in said
    assert "double.triton" in said
    assert "y: budget: 3 of 8 elements wrong" in said


def test_an_arch_is_judged_alone(folder: Path) -> None:
    merged = whole(only(HALF, failed(HALF)))
    assert gate(folder, merged, "--arch=sm100") == 0
    assert gate(folder, merged, "--arch=sm100", "--arch=sm90") == 1
    assert gate(folder, merged, "--arch=sm91") == 2


def test_what_was_not_asked_for_is_counted_and_is_not_what_a_contract_retains(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(folder, whole(only(HALF, failed(HALF))), "--arch=cpu") == 0
    said = capsys.readouterr().out
    assert "3 cells: ✗ 0 red, ! 0 excused, ✓ 3 green, ○ 0 retained" in said
    assert "· not asked for: 8 records of 6 cells, 1 of them failed" in said


def test_all_that_is_asked_for_leaves_nothing_to_count(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(folder, whole()) == 0
    assert "not asked for" not in capsys.readouterr().out


def recipe() -> tuple[str, list[str]]:
    """The contract that docs/ci-templates.md has for a project without a GPU, and its gate."""
    text = (ROOT / "docs" / "ci-templates.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## In your own project")
    (contract,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(
        r"^python -m harness\.gate (.*)$", section.partition("\n## ")[0], re.MULTILINE
    )
    return contract, shlex.split(command)


@pytest.mark.parametrize("spoils", [False, True])
def test_the_recipe_for_a_project_without_a_gpu_judges_machine_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, spoils: bool
) -> None:
    contract, arguments = recipe()
    (folder / "pyproject.toml").write_text(contract)
    lane = [each for each in ALL if each.arch == "cpu" or each.layer == "compile"]
    records = [failed(a) if spoils and a == lane[-1] else good(a) for a in lane]
    dropped = tuple(each for each in ALL if each not in lane)
    (folder / "build" / "records").mkdir(parents=True)
    write(folder / "build" / "records", run_of(records, lane, deselected=dropped))
    monkeypatch.chdir(folder)
    assert main(arguments) == int(spoils)


@pytest.mark.parametrize("spoiled", ["records", "contract", "no contract"])
def test_what_cannot_be_judged_says_why_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], spoiled: str
) -> None:
    if spoiled == "records":
        (folder / "records" / "notes.txt").touch()
    elif spoiled == "contract":
        (folder / "contract.toml").write_text(CONTRACT.replace("gating", "gatting"))
    else:
        (folder / "contract.toml").unlink()
    assert gate(folder, whole()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("cannot judge: ")
    assert len(said.err.splitlines()) == 1


DAMAGED: Final = {
    "no JSON": ('"seed": 0', '"seed": ?', r"a1\.jsonl: these are no records, .*: JSONDecodeError"),
    "NaN": ('"seed": 0', '"seed": NaN', r"a1\.jsonl: .*ValueError: NaN is no number"),
    "no field": ('"outcome": "passed", ', "", r"a1\.jsonl: .*a record has not the \d+ fields of"),
    "nested": ('"seed": 0', f'"seed": {"[" * 100_000}', r"a1\.jsonl: .*RecursionError"),
    "kind": ('["triton:toys.double"]', "[3]", r"AttributeError: .* \(in \w+\.py:\d+\); a file is"),
    "digits": ('"seconds": 0.0', f'"seconds": {"9" * 400}', r"OverflowError: .* a defect of the"),
}


@pytest.mark.parametrize(("before", "after", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_with_its_digest_is_not_red(
    folder: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, message: str
) -> None:
    path = write(folder / "records", run_of(map(good, ALL)))
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    manifest.end(path, finished=FINISHED, status=0)
    assert gate(folder, Merged(())) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(f"cannot judge: .*{message}.*\n", said.err)


def test_a_verdict_that_cannot_be_written_is_none(folder: Path) -> None:
    write(folder / "records", run_of(map(good, ALL)))
    where = (f"--records={folder / 'records'}", f"--contract={folder / 'contract.toml'}")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness.gate", *where],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr[:13]) == (2, "cannot judge:")
    assert "No space left on device" in done.stderr


def test_nothing_but_python_is_imported(folder: Path) -> None:
    """With records of all kinds; an isolated interpreter would not even find torch."""
    write(folder / "records", run_of(map(good, ALL)))
    write(folder / "records", run_of((failed(each) for each in ALL), name="b2"))
    arguments = (f"--records={folder / 'records'}", f"--contract={folder / 'contract.toml'}")
    done = subprocess.run(
        [sys.executable, "-c", GATE, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "duplicate: " in done.stdout
