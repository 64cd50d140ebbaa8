"""``python -m harness.power`` on a user's package, end to end, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import harness
from harness.check import Settings
from harness.power import matrix
from harness.power.__main__ import main
from harness.power.campaign import Campaign, NoMutants, Wanted
from harness.power.matrix import Status
from harness.power.session import Described, Inventory, Options

ROOT: Final = Path(harness.__file__).parents[1]
OPS: Final = """
from harness import op, size
from harness.variants import variant


@op(
    inputs={"x": "m n"},
    outputs={"y": "m n"},
    domain={"m": size(0, 64), "n": size(1, 64)},
    dtypes=("float32", "float16"),
)
def double(x):
    return 2 * x


@variant(op="double", name="a sum")
def in_two(x):
    return x + x


@variant(op="double", name="wide")
def wide(x):
    return (2 * x.double()).to(x.dtype)
"""
KERNEL: Final = """
import torch

from harness import device, kernel
from harness.launches import Launch, report_launch

ARCH = ">=sm80"


def _check(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float16):
        raise TypeError(f"x={x!r} is no tensor of float32 or float16; convert x")
    if x.device.type == "meta" or x.dim() != 2 or x.shape[0] > 64 or not 1 <= x.shape[1] <= 64:
        raise ValueError(f"x has the shape {tuple(x.shape)}; m is 0..64 and n is 1..64; no meta")


@kernel("double", backend="triton", arch=ARCH)
def double(x):
    _check(x)
    device.require_arch(x.device, ARCH)
    rows = x.contiguous()
    y = torch.empty_like(rows)
    if x.numel():
        report_launch(Launch("triton", "double", __name__, None, (1,), {}))
        torch.add(rows, rows, out=y)
    return y
"""
DECLARE: Final = ("--declare", "user_ops", "--declare", "user_kernels")


REFUSED: Final[dict[str, str]] = {
    "--mutant=double.triton/none@0": "mutant='double.triton/none@0' is unknown",
    "--kernel=treble.triton": "kernel='treble.triton' is unknown; known: double.triton",
    "--declare=no_such_package": "declare='no_such_package' is no importable package",
    "--arch=sm100": "arch='sm100' is not on this machine",
    "--read=nothing.json": "No such file",
    "--seconds=-1": "'-1' is not a number of seconds above 0",
    "--limit=soon": "'soon' is not a number of seconds above 0",
}
ONE_AFTER_ANOTHER: Final = """
import contextlib, io, json, sys

from harness.power.__main__ import main

said = []
for arguments in json.loads(sys.argv[1]):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    said.append((status, out.getvalue(), error.getvalue()))
print(json.dumps(said))
"""


def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's ops, variants and one kernel, which computes with torch alone."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    (folder / "user_ops.py").write_text(OPS, encoding="utf-8")
    (folder / "user_kernels").mkdir()
    (folder / "user_kernels" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "user_kernels" / "double.py").write_text(KERNEL, encoding="utf-8")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for one test."""
    return written(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Status, output and errors for each of ``REFUSED``, of one process that imports torch once."""
    commands = [[*DECLARE, "--jobs=2", argument] for argument in REFUSED]
    with pytest.MonkeyPatch.context() as monkeypatch:
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)],
            cwd=written(tmp_path_factory.mktemp("refused"), monkeypatch),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return dict(zip(REFUSED, map(tuple, json.loads(done.stdout)), strict=True))


def power(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as it must be."""
    command = [sys.executable, "-m", "harness.power", *DECLARE, "--jobs=2", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_run_from_end_to_end_and_what_comes_of_running_it_again(package: Path) -> None:
    done = power(package, "--cases=8")
    assert done.returncode == 0, done.stderr
    found = matrix.read(package / "build" / "power" / "matrix.json")
    by_rule = {row.rule: row.status for row in found.rows}
    assert by_rule["drop_check"] is Status.KILLED
    assert by_rule["drop_arch_guard"] is Status.KILLED
    assert by_rule["contiguous_dropped"] in {Status.MISSED, Status.KILLED}  # its strides differ
    assert Status.UNKNOWN not in by_rule.values()
    assert found.rejections.results > 20
    killed, counted = (sum(r.status in s for r in found.rows) for s in (
        {Status.KILLED}, {Status.KILLED, Status.MISSED}
    ))  # fmt: skip
    last = done.stdout.splitlines()[-1]
    assert last == (
        f"killed {killed} of {counted} witnessed mutants; "
        f"false rejections 0 of {found.rejections.results} correct results"
    )
    assert "this harness, numeric cases" in (package / "build" / "power" / "report.md").read_text()

    place = package / "build" / "power" / "rows.jsonl"
    place.write_text(place.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    again = power(package, "--cases=8")
    assert again.stdout.splitlines()[-1] == last
    assert "original examined" not in again.stderr
    assert again.stderr.count(" killed ") == killed
    written = [line for line in place.read_text(encoding="utf-8").splitlines() if line]
    assert len(written) == len(found.rows) + 1  # with the one that was cut off

    read = power(package, "--read", "build/power/matrix.json")
    assert read.stdout.splitlines()[-1] == last


def test_one_mutant_shows_its_edit_and_what_caught_it(package: Path) -> None:
    listed = power(package, "--list").stdout.splitlines()
    (mutant,) = (name for name in listed if "/drop_check@" in name)
    done = power(package, "--quick", "--cases=8", "--mutant", mutant)
    assert done.returncode == 0, done.stderr
    assert "-    _check(x)\n+    pass\n" in done.stdout
    assert f"killed: {mutant}, wrapper" in done.stdout
    assert "killed by  boundary refuses_the_neighbours_of_its_domain, probe: probe" in done.stdout


@pytest.mark.parametrize("argument", REFUSED)
def test_what_it_cannot_do_is_an_error_and_no_score(
    refused: dict[str, tuple[int, str, str]], argument: str
) -> None:
    status, output, errors = refused[argument]
    assert status == 2
    assert REFUSED[argument] in errors
    assert "Traceback" not in errors
    assert "killed" not in output


def test_settings_of_another_kind_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kernel-parity]\nvariants = 3\n")
    monkeypatch.chdir(tmp_path)
    assert main(["--list"]) == 2
    assert "variants=3 is no list of names" in capsys.readouterr().err


def test_a_mutant_gets_no_step_once_its_seconds_are_over(package: Path) -> None:
    done = power(package, "--cases=8", "--count=3", "--seconds=1e-6")
    assert done.returncode == 0, done.stderr
    found = matrix.read(package / "build" / "power" / "matrix.json")
    assert [row.steps for row in found.rows] == [1, 1, 1]
    assert "1e-06 s at most" in done.stdout


def test_a_kernel_that_does_not_import_is_an_error(package: Path) -> None:
    (package / "user_kernels" / "double.py").write_text("import nothing_of_the_kind\n")
    done = power(package)
    assert done.returncode == 2
    assert "user_kernels.double does not import: ModuleNotFoundError" in done.stderr


def test_an_original_that_fails_on_itself_leaves_the_run_in_doubt(package: Path) -> None:
    wrong = KERNEL.replace("out=y)", "out=y)\n        y *= 1.5")
    (package / "user_kernels" / "double.py").write_text(wrong, encoding="utf-8")
    done = power(package, "--quick", "--cases=8", "--count=1")
    assert done.returncode == 1
    assert "double.triton fails on itself" in done.stdout


def campaign(folder: Path, source: str, **wanted: object) -> Campaign:
    """A campaign over one kernel whose module has ``source``, without a process for it."""
    place = folder / "double.py"
    place.write_text(source, encoding="utf-8")
    options = Options(
        targets=(), arch="cpu", settings=Settings(), quick=True, folder=folder / "out"
    )
    made = Campaign(options, Wanted(jobs=1, step_seconds=1, **wanted))  # type: ignore[arg-type]
    described = Described("double.triton", "double", "double", 24, 1)
    made.inventory = Inventory((described,), {"double": str(place)}, (), {})
    return made


def test_a_kernel_without_mutants_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoMutants, match=r"kernel='double.triton' has no mutant"):
        _ = campaign(tmp_path, "X = 1\n").mutants


def test_a_choice_that_leaves_no_mutant_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoMutants, match="count=0, only='tuning' leave no mutant; ask for more"):
        _ = campaign(tmp_path, KERNEL, count=0, only="tuning").mutants


def test_the_unseen_third_and_a_sample(tmp_path: Path) -> None:
    tuning = campaign(tmp_path, KERNEL, only="tuning").mutants
    held_out = campaign(tmp_path, KERNEL, only="held-out").mutants
    assert not any(mutation.held_out for mutation in tuning)
    assert all(mutation.held_out for mutation in held_out)
    assert len(campaign(tmp_path, KERNEL).mutants) == len(tuning) + len(held_out)
    assert len(campaign(tmp_path, KERNEL, count=2).mutants) == 2
