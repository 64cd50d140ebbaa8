"""A folder as a user has it, with kernels of its own, and what pytest says when run there."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import harness
from harness import record, registry
from harness.arch import CPU
from harness.cells import Cell, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(harness.__file__).parents[1]

# Options of a run; a case takes no time, since the launches of these kernels are pretended.
GOOD: Final = "--kernel=double.triton"
BAD: Final = "--kernel=double.triton.tail"
ONE_CHECK: Final = "suites.numeric.test_numeric::test_matches_the_reference"
NUMERIC: Final = ("--pyargs", ONE_CHECK, "-m", CPU, "--cases=12")
BOUNDARY: Final = ("--pyargs", "suites.boundary", "-m", CPU)
RECORDS: Final = "--records=build/records.jsonl"

TOYS: Final = """
import unittest

import torch

from harness import device, kernel, op, size
from harness.launches import Launch, report_launch


@op(
    inputs={"x": "m n"},
    outputs={"y": "m n"},
    domain={"m": size(0, 64), "n": size(1, 64)},
    dtypes=("float32", "float16"),
)
def double(x):
    return 2 * x


def launch(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float16):
        raise TypeError(f"x={x!r} is no tensor of float32 or float16; convert x")
    if x.dim() != 2 or x.shape[0] > 64 or not 1 <= x.shape[1] <= 64:
        raise ValueError(f"x has the shape {tuple(x.shape)}; m is 0..64 and n is 1..64")
    device.require_arch(x.device, ">=sm80")
    if x.numel():
        report_launch(Launch("triton", "double", __name__, None, (1,), {}))


@kernel("double", backend="triton", arch=">=sm80")
def good(x):
    launch(x)
    return x + x


@kernel("double", backend="triton", arch=">=sm80", variant="tail")
def wrong_from_the_eighth_column(x):
    launch(x)
    y = x + x
    y[:, 7:] += 1
    return y


@kernel("double", backend="triton", arch=">=sm80", variant="wide")
def accepts_any_width(x):
    launch(x[:, :64] if isinstance(x, torch.Tensor) and x.dim() == 2 else x)
    return x + x


@kernel("double", backend="triton", arch=">=sm80", variant="raises")
def raises(x):
    raise RuntimeError("out of registers")


@kernel("double", backend="triton", arch=">=sm80", variant="skips")
def skips(x):
    raise unittest.SkipTest("a kernel has no say in this")
"""


_ALONE: Final = (
    "-p",
    "no:benchmark",
)  # pytest-benchmark warns under xdist, and warnings are errors


@dataclass(frozen=True)
class Project:
    """A folder with a user's declarations, and pytest in it."""

    pytester: pytest.Pytester

    def run(self, *arguments: str, declare: str = "toys.py") -> pytest.RunResult:
        """Run pytest on what ``declare`` names."""
        return self.command("pytest", *arguments, f"--declare={declare}")

    def command(self, *words: str) -> pytest.RunResult:
        """Run the command line of those words in this process."""
        assert words[0] == "pytest", words
        with registry.scratch():
            return self.pytester.runpytest_inprocess(*_ALONE, *words[1:])

    def run_apart(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, for what cannot be imported twice."""
        return self.pytester.runpytest_subprocess(*_ALONE, *arguments)

    def forget(self) -> None:
        """Remove the failures that earlier runs found: the next one starts like the first."""
        shutil.rmtree(self.pytester.path / ".hypothesis")

    def write(self, **files: str) -> None:
        """Write files, named without their ``.py``."""
        self.pytester.makepyfile(**files)

    def read(self) -> list[record.Record]:
        """The records that a run with ``RECORDS`` made."""
        return list(record.read(self.pytester.path / "build" / "records.jsonl"))


@pytest.fixture(scope="session")
def imported_late() -> None:
    """What a check imports late is imported for good, before ``pytester`` is there.

    pytester forgets the modules that were imported in its time, and torch survives no second
    import.
    """
    from harness.check import Check, Settings

    with registry.scratch(), tempfile.TemporaryDirectory() as folder:
        toys = Path(folder, "toys.py")
        toys.write_text(TOYS)
        registry.load(str(toys))
        cell = Cell("double.triton", CPU, Layer.NUMERIC)
        check = Check(cell=cell, dtype=None, settings=Settings(cases=2), reproduce=str)
        check.explore(check.judge_against_reference)


@pytest.fixture
def project(
    imported_late: None,  # first, see there
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """A project with ``TOYS`` in toys.py that finds the plugin, whether or not it is installed."""
    del imported_late
    # For workers and child processes.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    pytester.makeconftest('pytest_plugins = ("harness.plugin",)')
    pytester.makeini("[pytest]\nstrict = true")
    pytester.makepyfile(toys=TOYS)
    return Project(pytester)


def ran(result: pytest.RunResult) -> dict[str, int]:
    """Counts of what ran, by outcome."""
    counts = result.parseoutcomes()
    return {k: v for k, v in counts.items() if k not in {"deselected", "warnings"}}


def failure(result: pytest.RunResult) -> list[str]:
    """The lines between the title of the one failure and what follows it."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if line.startswith("____")) + 1
    end = next(i for i, line in enumerate(lines) if line.startswith("====") and i > start)
    return lines[start:end]


def table(result: pytest.RunResult) -> list[str]:
    """The lines of the verdict table, totals included."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if "kernel-parity verdicts" in line) + 1
    end = next(i for i, line in enumerate(lines) if line.startswith("cells: ")) + 1
    return lines[start:end]


def printed_command(lines: Sequence[str]) -> list[str]:
    """The words of the command line that a failure tells to run."""
    command = next(line for line in lines if line.startswith("  reproduce  "))
    _, *words = shlex.split(command)
    assert words[:2] == ["python", "-m"], words  # what puts the project itself on the path
    return words[2:]


def refusal(result: pytest.RunResult) -> str:
    """The words of a usage error: exit status 4, nothing ran, no traceback."""
    said = f"{result.stdout}\n{result.stderr}"
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    for trace in ("Traceback", "INTERNALERROR", "\nE  ", ".py:1", "ERROR collecting"):
        assert trace not in said, said
    return said
