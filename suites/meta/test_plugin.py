"""The plugin as a user's project sees it: options, selection, reports, records, reproduction."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import torch

import harness
from harness import record, registry
from harness.arch import ARCHES, CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.device import present_archs

if TYPE_CHECKING:
    from collections.abc import Sequence

pytest_plugins = ("pytester",)

ROOT: Final = Path(harness.__file__).parents[1]
ABSENT: Final = next(arch for arch in ("sm100", "sm120") if arch not in present_archs())
GOOD: Final = "--kernel=double.triton"
BAD: Final = "--kernel=double.triton.tail"
NUMERIC: Final = ("--pyargs", "suites.numeric", "-m", CPU, "--cases=12")
BOUNDARY: Final = ("--pyargs", "suites.boundary", "-m", CPU)

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


@dataclass(frozen=True)
class Project:
    """A folder with a user's declarations, and pytest in it."""

    pytester: pytest.Pytester

    def run(self, *arguments: str, declare: str = "toys.py") -> pytest.RunResult:
        """Run pytest on what ``declare`` names."""
        return self.command("pytest", *arguments, f"--declare={declare}")

    def command(self, *words: str) -> pytest.RunResult:
        """Run the command line of those words."""
        assert words[0] == "pytest"
        with registry.scratch():
            return self.pytester.runpytest_inprocess(*words[1:])

    def records(self, *arguments: str) -> list[record.Record]:
        """The records of a run."""
        path = self.pytester.path / "build" / "records.jsonl"
        self.run(*arguments, f"--records={path}")
        return list(record.read(path))


@pytest.fixture(scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import now what a check imports late.

    pytester forgets the modules that a run has imported, and torch survives no second import.
    """
    toys = tmp_path_factory.mktemp("toys") / "toys.py"
    toys.write_text(TOYS)
    with registry.scratch():
        registry.load(str(toys))
        cell = Cell("double.triton", CPU, Layer.NUMERIC)
        check = Check(cell=cell, dtype=None, settings=Settings(cases=2), reproduce=str)
        check.explore(check.judge_against_reference)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, _imported: None) -> Project:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for workers and child processes
    pytester.makeconftest('pytest_plugins = ("harness.plugin",)')
    pytester.makeini("[pytest]\nstrict = true")
    pytester.makepyfile(toys=TOYS)
    return Project(pytester)


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


def refusal(result: pytest.RunResult) -> str:
    """The words of a usage error: exit status 4, nothing ran, no traceback."""
    said = f"{result.stdout}\n{result.stderr}"
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    for trace in ("Traceback", "INTERNALERROR", "\nE  ", ".py:1", "ERROR collecting"):
        assert trace not in said, said
    return said


# Markers and options


def test_every_marker_is_registered(project: Project) -> None:
    lines = project.run("--markers").outlines
    for name in (*Layer, CPU, *ARCHES):
        assert any(line.startswith(f"@pytest.mark.{name}: ") for line in lines), name


def test_an_arch_selects_its_cells_and_skips_what_needs_the_device(project: Project) -> None:
    result = project.run("--pyargs", "suites.numeric", "suites.boundary", "-m", ABSENT, "-rs", GOOD)
    assert {**result.parseoutcomes(), "deselected": 0} == {"skipped": 3, "deselected": 0}
    machine = ", ".join(present_archs()) or "no GPU"
    reason = f"{ABSENT} is not on this machine, which has {machine}"
    result.stdout.fnmatch_lines(
        ["cells: 0 passed, 0 failed, 2 skipped, *", f"SKIPPED [[]3] *{reason}"]
    )


@pytest.mark.parametrize("expression", ["sm101", "cpu and sm101", "not (numerics or cpu)"])
def test_an_unknown_marker_is_named(project: Project, expression: str) -> None:
    unknown = next(word for word in ("sm101", "numerics") if word in expression)
    said = refusal(project.run(*NUMERIC, "-m", expression))
    assert f"-m {expression!r}: no marker {unknown!r} is registered" in said
    for known in (*Layer, CPU, *ARCHES):
        assert known in said


SELECTIONS = {
    "kernel": (
        ["--kernel=double.triton"],
        {"double.triton-cpu-float32", "double.triton-cpu-float16"},
    ),
    "op": (["--op=double", BAD], {f"double.triton.tail-cpu-{t}" for t in ("float32", "float16")}),
    "layer": (["--layer=boundary", GOOD], {"double.triton-cpu"}),
}


@pytest.mark.parametrize(("options", "ids"), SELECTIONS.values(), ids=SELECTIONS)
def test_filters_select_cells(project: Project, options: Sequence[str], ids: set[str]) -> None:
    layers = ("suites.boundary", "suites.numeric")
    where = layers if "--layer=boundary" in options else layers[1:]
    result = project.run("--pyargs", *where, "-m", CPU, "--collect-only", "-q", *options)
    assert {line.partition("[")[2][:-1] for line in result.outlines if "[" in line} == ids


UNKNOWN = {
    "kernel": (
        ["--kernel=dubble.triton"],
        "kernel 'dubble.triton' is unknown; known: double.triton, ",
    ),
    "op": (["--op=dubble"], "op 'dubble' is unknown; known: double"),
    "layer": (["--layer=numerics"], "argument --layer: invalid choice: 'numerics' (choose from "),
    "cases": (["--cases=0"], "--cases='0' is not a whole number of at least 1"),
    "seed": (["--parity-seed=x"], "argument --parity-seed: invalid int value: 'x'"),
    "kernel of a case": (
        ["--case=dubble.triton/m=1"],
        "kernel 'dubble.triton' is unknown; known: ",
    ),
    "case without fields": (["--case=double.triton"], "--case='double.triton'"),
    "case with too few fields": (
        ["--case=double.triton/m=1,dtype=float32,values=normal"],
        "missing or unknown fields ['config', 'layout', 'n', 'seed']",
    ),
    "case outside the domain": (
        [
            "--case=double.triton/m=1,n=65,dtype=float32,values=normal,layout=contiguous,config=default,seed=0"
        ],
        "n=65 is outside 1..64",
    ),
    "case of unknown values": (
        [
            "--case=double.triton/m=1,n=6,dtype=float32,values=odd,layout=contiguous,config=default,seed=0"
        ],
        "'odd'",
    ),
    "case of unknown layout": (
        [
            "--case=double.triton/m=1,n=6,dtype=float32,values=normal,layout=odd,config=default,seed=0"
        ],
        "'odd'",
    ),
    "case of another layer": (
        ["--case=double.triton/probe=m=65"],
        "--case='double.triton/probe=m=65' belongs to none of the selected tests",
    ),
    "case of another kernel": (
        [
            "--case=double.triton/m=1,n=6,dtype=float32,values=normal,layout=contiguous,config=default,seed=0",
            BAD,
        ],
        "belongs to none of the selected tests",
    ),
}


@pytest.mark.parametrize(("options", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_wrong_option_is_refused(project: Project, options: Sequence[str], words: str) -> None:
    assert words in refusal(project.run(*NUMERIC, *options))


# Declarations

DECLARATIONS = {
    "missing file": (
        "nothing.py",
        "",
        "nothing.py' is no file; give a package, module or existing",
    ),
    "missing package": (
        "nothing",
        "",
        "declare='nothing' is no importable package; give a package",
    ),
    "unknown op": (
        "mine.py",
        "from harness import kernel\n\n\n@kernel('dubble', backend='triton', arch='sm90')\ndef f(x): ...",
        "mine.py:4 implements op='dubble', which nobody declared; known ops: none; declare it with @op",
    ),
    "kernel registered twice": (
        "mine.py",
        f"{TOYS}\n\n@kernel('double', backend='triton', arch='sm90')\ndef again(x): ...",
        "kernel 'double.triton' is declared twice: at ",
    ),
    "unknown backend": (
        "mine.py",
        "from harness import kernel\n\nkernel('double', backend='trition', arch='sm90')",
        "backend='trition' of a kernel of 'double' is unknown; use triton, cuda, cutedsl",
    ),
    "unknown arch": (
        "mine.py",
        "from harness import kernel\n\nkernel('double', backend='triton', arch='sm91')",
        "arch='sm91' covers none of",
    ),
    "missing language": (
        "mine.py",
        "import no_such_language",
        "No module named 'no_such_language'",
    ),
}


@pytest.mark.parametrize("xdist", [(), ("-n", "1")], ids=["", "xdist"])
@pytest.mark.parametrize(("target", "source", "words"), DECLARATIONS.values(), ids=DECLARATIONS)
def test_a_wrong_declaration_is_refused(
    project: Project, target: str, source: str, words: str, xdist: Sequence[str]
) -> None:
    if source:
        project.pytester.makepyfile(mine=source)
    said = refusal(project.run(*NUMERIC, *xdist, declare=target))
    assert words in said
    if "twice" in words:
        assert len(re.findall(r"mine\.py:\d+", said)) == 2


def test_the_ini_file_declares_too(project: Project) -> None:
    project.pytester.makeini("[pytest]\nparity_declare = toys.py")
    project.command("pytest", *NUMERIC, GOOD).assert_outcomes(passed=2, deselected=118)
    project.pytester.makeini("[pytest]\nparity_declare = toes.py")
    assert "toes.py' is no file" in refusal(project.command("pytest", *NUMERIC))


BROKEN_IMPORTS = {
    "a missing package": "import no_such_language",
    "a crash": "raise RuntimeError('driver too old')",
    "a typo": "def f(:",
}


@pytest.mark.parametrize("source", BROKEN_IMPORTS.values(), ids=BROKEN_IMPORTS)
@pytest.mark.parametrize("as_package", [False, True], ids=["module", "package"])
def test_a_module_that_does_not_import_fails_by_its_name(
    project: Project,
    source: str,
    as_package: bool,  # noqa: FBT001 - a test's parameter
) -> None:
    broken = "broken/__init__.py" if as_package else "broken.py"
    package = project.pytester.mkpydir("mine")
    (package / broken).parent.mkdir(exist_ok=True)
    (package / broken).write_text(source)
    (package / "toys.py").write_text(TOYS)
    project.pytester.syspathinsert()
    result = project.run("--pyargs", "suites.import_safety", "-m", "not sm80", declare="mine")
    result.stdout.fnmatch_lines(["FAILED *::test_every_declared_module_loaded*"])
    assert any("mine.broken" in line for line in failure(result))


def test_a_kernel_without_an_operator_has_no_fake(project: Project) -> None:
    result = project.run("--pyargs", "suites.fake_shape", "--collect-only")
    assert "double" not in str(result.stdout)
    with_one = TOYS.replace('variant="tail"', 'variant="tail", torch_op="mine::double"')
    project.pytester.makepyfile(toys=with_one)
    result = project.run("--pyargs", "suites.fake_shape", "--collect-only", "-m", CPU)
    assert {"double.triton.tail-cpu", "double.triton.tail-cpu-float16"} <= set(
        re.findall(r"\[(.*)\]", str(result.stdout))
    )


# Reports


def test_the_header_shows_the_seed_and_the_versions(project: Project) -> None:
    result = project.run(*NUMERIC, GOOD, "--parity-seed=7")
    result.stdout.fnmatch_lines([f"kernel-parity: seed 7, *torch {torch.__version__}*"])


def test_a_failure_shows_cell_case_command_element_and_place(project: Project) -> None:
    result = project.run(*NUMERIC, BAD, "-k", "float32")
    result.assert_outcomes(failed=1, deselected=119)
    case = "double.triton.tail/m=1,n=8,dtype=float32,values=normal,layout=contiguous,config=default,seed=0"
    where = "--pyargs suites.numeric.test_numeric"
    head, case_line, command, problem = failure(result)
    assert head == "double.triton.tail on cpu, numeric (emulated): 1 problem"
    assert case_line == f"  case       {case}"
    assert command == f"  reproduce  pytest {where} --declare=toys.py -m cpu --case {case}"
    assert problem.startswith("  - y: budget: 1 of 8 elements wrong; worst at [0, 7]: actual ")
    assert re.search(r", expected \S+, \S+ x its budget; in column 7 of 8 \(the last\)", problem)


@pytest.mark.parametrize("suite", [NUMERIC, BOUNDARY], ids=["case", "probe"])
def test_the_printed_command_reproduces_the_failure(project: Project, suite: Sequence[str]) -> None:
    kernel = BAD if suite is NUMERIC else "--kernel=double.triton.wide"
    first = failure(project.run(*suite, kernel, "-x"))
    command = next(line for line in first if line.startswith("  reproduce  ")).split(maxsplit=1)[1]
    again = project.command(*shlex.split(command))
    again.assert_outcomes(failed=1, deselected=again.parseoutcomes()["deselected"])
    assert case_of(failure(again)) == case_of(first)
    assert [line for line in first if line.startswith("  - ")][0] in failure(again)


def case_of(lines: Sequence[str]) -> str:
    return next(line for line in lines if line.startswith("  case  "))


def test_colour_is_for_terminals(project: Project) -> None:
    options = ("--pyargs", "suites.numeric", "-m", f"{CPU} or {ABSENT}", "--cases=2")
    plain, coloured = project.run(*options), project.run(*options, "--color=yes")
    assert "\x1b" not in str(plain.stdout)
    for colour, glyph in ((32, "✓"), (31, "✗"), (33, "-"), (35, r"\?")):
        assert re.search(rf"\x1b\[{colour}m{glyph} ", str(coloured.stdout)), glyph
    assert re.sub(r"\x1b\[\d*m", "", "\n".join(table(coloured))) == "\n".join(table(plain))


# Records


@pytest.mark.parametrize("xdist", [(), ("-n", "2")], ids=["", "xdist"])
def test_records_are_the_run(project: Project, xdist: Sequence[str]) -> None:
    path = project.pytester.path / "build" / "records.jsonl"
    options = ("--pyargs", "suites.numeric", "suites.boundary", "-m", f"{CPU} or {ABSENT}")
    result = project.run(*options, "--cases=8", GOOD, BAD, f"--records={path}", *xdist)
    made = {(r.kernel, r.arch, r.check): r for r in record.read(path)}
    assert len(made) == len(path.read_text().splitlines()) == 12

    good = made["double.triton", CPU, "test_matches_the_reference[float16]"]
    assert (good.verdict, good.evidence, good.layer) == ("passed", "emulated", "numeric")
    assert (good.figures["cases"], good.message) == (8, "")
    assert good.case.startswith("double.triton/m=")
    assert (len(good.source), good.versions["torch"]) == (16, torch.__version__)

    bad = made["double.triton.tail", CPU, "test_matches_the_reference[float32]"]
    assert (bad.verdict, bad.evidence) == ("failed", "emulated")
    assert bad.case.startswith("double.triton.tail/m=1,n=8,dtype=float32,")
    assert f"--case {bad.case}" in bad.message

    away = made["double.triton", ABSENT, "test_matches_the_reference[float16]"]
    assert (away.verdict, away.evidence, away.case) == ("skipped", "none", "")
    assert away.message.startswith(f"{ABSENT} is not on this machine")

    rows = [line.split() for line in table(result)]
    assert [CPU, "?", "✓", "emu", "✓", "emu"] in rows
    assert [CPU, "?", "✗", "emu", "✓", "emu"] in rows
    assert rows[-1][:7] == ["cells:", "3", "passed,", "1", "failed,", "4", "skipped,"]
    assert rows[-1][-4:] == ["uncovered", "of", "120", "claimed"]


def test_workers_give_the_same_verdicts(project: Project) -> None:
    options = (*NUMERIC, GOOD, BAD)
    alone, spread = project.run(*options), project.run(*options, "-n", "2")
    assert table(alone) == table(spread)
    assert alone.parseoutcomes()["failed"] == spread.parseoutcomes()["failed"] == 2


def test_the_seed_decides_the_cases(project: Project) -> None:
    def cases(seed: int) -> list[tuple[str, object]]:
        made = project.records(*NUMERIC, GOOD, f"--parity-seed={seed}")
        assert {r.seed for r in made} == {seed}
        return [(r.case, r.figures) for r in made]

    assert cases(3) == cases(3)
    assert cases(3) != cases(4)


@pytest.mark.parametrize("variant", ["raises", "skips"])
def test_a_kernel_that_raises_has_failed(project: Project, variant: str) -> None:
    made = project.records(*NUMERIC, f"--kernel=double.triton.{variant}")
    assert [r.verdict for r in made] == ["failed", "failed"]
    error = {"raises": "RuntimeError", "skips": "SkipTest"}[variant]
    assert all(f"- raised {error} before launch: " in r.message for r in made)


def test_an_error_in_setup_is_recorded(project: Project) -> None:
    project.pytester.makepyfile(
        broken_setup="""
        import pytest

        @pytest.fixture(autouse=True)
        def device_lock():
            raise OSError("the lock is held")
        """
    )
    project.pytester.syspathinsert()
    made = project.records(*NUMERIC, GOOD, "-p", "broken_setup")
    assert [(r.verdict, r.evidence) for r in made] == [("failed", "none")] * 2
    assert all("the lock is held" in r.message for r in made)
