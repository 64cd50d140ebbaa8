"""``harness check`` runs one kernel at given sizes, judges it, and says what it cannot serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness import registry
from harness.__main__ import main
from suites.meta.users_project import ROOT, TOYS

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

UNBOUNDED: Final = """
@op(inputs={"x": "m n"}, outputs={"y": "m n"}, domain={"m": size(), "n": size()}, dtypes=("int8",))
def double_any(x):
    return x + x

@kernel("double_any", backend="triton", arch=">=sm80")
def adds(x):
    return x + x
"""
HEAVY: Final = {"hypothesis", "pytest", "_pytest", "transformers", "xdist", "matplotlib"}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``check`` on the toys in a folder of its own; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    toys = tmp_path / "toys_to_check.py"
    toys.write_text(f"{TOYS}\n{UNBOUNDED}")

    def run(*arguments: str) -> tuple[int, str, str]:
        with registry.scratch():
            status = main(["check", *arguments, f"--declare={toys}"])
        sys.modules.pop("declared_toys_to_check", None)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_right_kernel_passes_at_the_sizes_given(run: Run) -> None:
    status, out, err = run("double.triton", "--m", "8", "--n=16", "--cases", "3")
    assert (status, err) == (0, "")
    first, *groups, last = out.splitlines()
    assert first == "double.triton on cpu (emulated), m=8 n=16"
    assert [line.split()[:4] for line in groups] == [
        ["float32", "default", "passed", "3"],
        ["float16", "default", "passed", "3"],
    ]
    assert last.startswith("passed: 6 cases, worst ")
    assert " of its budget in double.triton/m=8,n=16,dtype=" in last


def test_a_wrong_kernel_fails_saying_where_and_how_to_go_on(run: Run) -> None:
    status, out, err = run("double.triton.tail", "--m=8", "--n=16", "--dtype=float32")
    assert (status, err) == (1, "")
    assert "float32       default      FAILED  1 case," in out
    assert "in columns 7..15 of 16 (the tail): every element there" in out
    assert "reproduce  python -m pytest --pyargs suites.numeric.test_numeric --declare=" in out
    assert "-m cpu --case double.triton.tail/m=8,n=16,dtype=float32,values=normal" in out
    assert out.splitlines()[-1].startswith("FAILED: 1 case, worst ")


def test_a_kernel_that_raises_fails(run: Run) -> None:
    status, out, _ = run("double.triton.raises", "--m=8", "--n=16")
    assert status == 1
    assert "raised RuntimeError before launch: out of registers" in out


def test_sizes_that_are_not_given_are_legal_ones(run: Run) -> None:
    status, out, _ = run("double.triton", "--m", "0", "--dtype=float16", "--cases=1")
    assert status == 0
    assert "m=0 n=64" in out


REFUSED: Final = {
    "unknown kernel": (("dubble.triton",), "kernel 'dubble.triton' is unknown; known: double"),
    "unknown axis": (("double.triton", "--k", "3"), "has no axis 'k'; axes: --m --n"),
    "too large": (("double.triton", "--n", "65"), "n=65 is outside 1..64; give --n 64"),
    "too small": (("double.triton", "--n", "0"), "n=0 is outside 1..64; give --n 1"),
    "no number": (("double.triton", "--m", "many"), "--m 'many' is not a whole number"),
    "no value": (("double.triton", "--m"), "'--m' is not of the form --NAME VALUE"),
    "no option": (("double.triton", "m=3"), "'m=3' is not of the form --NAME VALUE"),
    "dtype": (
        ("double.triton", "--dtype", "int8"),
        "dtype='int8' is unknown here; use one of float32, float16",
    ),
    "config": (
        ("double.triton", "--config", "big"),
        "config='big' is unknown here; use one of default",
    ),
    "arch": (("double.triton", "--arch", "sm75"), "arch='sm75' is unknown; use one of cpu, sm80"),
    "family": (("double.triton", "--values", "odd"), "values='odd' is unknown here; use one of"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_checked_is_refused_in_words(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err


# More than the addresses of a process, and than a count of bytes: no machine has either.
@pytest.mark.parametrize("size", ["9000000000000000", "9000000000000000000"])
def test_sizes_that_memory_does_not_hold_are_refused(run: Run, size: str) -> None:
    status, _, err = run("double_any.triton", "--m=1", "--n", size)
    assert status == 2
    assert err.startswith(f"error: m=1 n={size}: memory does not hold the inputs and their ref")
    assert err.endswith("; give a smaller --n\n")
    assert len(err.splitlines()) == 1


SETTINGS: Final = {
    "a number": ("[tool.pytest]\nparity_declare = 3", "parity_declare=3 is no list of names"),
    "a list of numbers": (
        "[tool.pytest.ini_options]\nparity_declare = [1]",
        "parity_declare=[1] is no list of names; write ['my_kernels']",
    ),
    "options that are none": (
        "[tool.pytest]\nini_options = 3",
        "tool.pytest.ini_options=3 is no table; write its settings below [tool.pytest.ini_options]",
    ),
    "another encoding": (
        "[tool.x]\ny = '\xe9'",
        "pyproject.toml is not in UTF-8, as TOML has to be",
    ),
}


@pytest.mark.parametrize(("text", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_kind_are_refused_in_a_line(run: Run, text: str, words: str) -> None:
    Path("pyproject.toml").write_text(text, encoding="latin-1")
    status, out, err = run("double.triton")
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_interrupt_ends_it_with_a_line(run: Run) -> None:
    Path("stops.py").write_text("raise KeyboardInterrupt")
    assert run("double.triton", "--declare=stops.py") == (130, "", "interrupted\n")


def test_a_check_imports_neither_pytest_nor_hypothesis(tmp_path: Path) -> None:
    toys = tmp_path / "toys.py"
    toys.write_text(TOYS)
    program = (
        "import sys; from harness.__main__ import main; "
        f"status = main(['check', 'double.triton', '--cases=1', '--declare={toys}']); "
        "print(status, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert sorted(HEAVY.intersection(modules)) == []


@pytest.mark.gpu
def test_where_there_is_a_gpu_the_kernel_runs_on_it() -> None:
    command = [sys.executable, "-m", "harness", "check", "rms_norm.triton", "--m=64", "--n=256"]
    done = subprocess.run(
        [*command, "--cases=1", "--dtype=bfloat16"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("rms_norm.triton on sm")
    assert "(device), m=64 n=256" in done.stdout.splitlines()[0]
