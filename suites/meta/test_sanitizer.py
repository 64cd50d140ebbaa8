"""The sanitize layer's verdict is red for all but a run that ended, was complete and is clean."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import torch

from harness import registry, sanitizer
from harness.arch import CPU
from harness.buffers import LAYOUTS, guard_input
from harness.case import Case, parse
from harness.cells import Cell, Layer, cells_of, inventory
from harness.check import Check, Settings
from harness.judge import ParityFailure
from harness.record import Record
from harness.sanitized import alone, main
from harness.sanitizer import TOOLS, Sanitizer, cases_of, find, judge, run
from harness.subjects import Unavailable
from harness.table import lines, verdicts
from suites.meta.fake_sanitizer import FAULTY, NAP, script
from suites.meta.users_project import RECORDS, TOYS, Project, ran, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ("pytester",)

GOOD: Final = "double.triton"
ID: Final = "double.triton/m=3,n=6,dtype=float32,values=normal,layout=rows,config=default,seed={}"


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[str]:
    """The path of the toys, which are declared for the time of the test."""
    path = tmp_path / "toys.py"
    path.write_text(TOYS)
    with registry.scratch():
        registry.load(str(path))
        yield str(path)
    sys.modules.pop(f"{registry.FILE_PREFIX}toys", None)


@pytest.fixture
def fake(tmp_path: Path, toys: str) -> Callable[..., Sanitizer]:
    """Makes a tool that reports what it is told to, over a process that it is told to pretend."""

    def make(mode: str = "", *, seconds: float = 60, **reports: str) -> Sanitizer:
        path = tmp_path / "compute-sanitizer"
        at = reports.pop("at", ",")
        path.write_text(script(sys.executable, mode, faulty=reports, at=at))
        path.chmod(0o755)
        return Sanitizer(path=str(path), arch=CPU, declare=(toys,), seconds=seconds)

    return make


def several(count: int = 4) -> list[Case]:
    return [parse(ID.format(seed)) for seed in range(count)]


def words_of(tool: Sanitizer, name: str = "memcheck", count: int = 4) -> list[str]:
    """What is said of a run of some cases under a tool, and of which case."""
    _, found = judge(tool, name, several(count))
    return [f"{each.case} {each.words}" for each in found]


def test_a_clean_run_counts_its_launches(fake: Callable[..., Sanitizer]) -> None:
    for name in TOOLS:
        outcome, found = judge(fake(), name, several())
        assert found == ()
        assert (outcome.ended, outcome.launches, outcome.code) == (4, 8, 0)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("memcheck", "Invalid __global__ write of size 4 bytes in scale(const float *, float *, "),
        ("racecheck", "Race reported between Write access and Read access at sums.cu:55 in sums(f"),
        ("initcheck", "Uninitialized __global__ memory read of size 2 bytes in sums(const __half "),
        ("synccheck", "Barrier error detected. Divergent thread(s) in block in sums_kernel, by th"),
    ],
)
def test_a_fault_is_said_with_its_tool_case_and_kernel(
    fake: Callable[..., Sanitizer], tool: str, said: str
) -> None:
    words = words_of(fake(**{tool: FAULTY[tool], "at": "seed=2"}), tool)
    case = ID.format(2)
    assert words[0].startswith(f"{case} {tool} on {case}: {said}")
    assert "(line 2 of the report)" in words[0]
    assert len(words) == (2 if tool == "initcheck" else 1)
    for other in {*TOOLS} - {tool}:
        assert words_of(fake(**{tool: FAULTY[tool]}), other) == []


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_the_case_is_found_by_halves(fake: Callable[..., Sanitizer], seed: int) -> None:
    tool = fake(synccheck=FAULTY["synccheck"], at=f"seed={seed}")
    (found,) = judge(tool, "synccheck", several(5))[1]
    assert found.case == ID.format(seed)


def test_what_was_seen_is_not_run_again(fake: Callable[..., Sanitizer]) -> None:
    tool = fake(memcheck=FAULTY["memcheck"], at="seed=0")
    missing = replace(tool, path="/no/such/tool")
    assert sanitizer.narrow(missing, "memcheck", several(1)) == ID.format(0)
    assert sanitizer.narrow(missing, "memcheck", several(2)) == ""
    assert sanitizer.narrow(tool, "memcheck", several(2)) == ID.format(0)


def test_a_fault_that_shows_in_company_alone_is_red_too(fake: Callable[..., Sanitizer]) -> None:
    (words,) = words_of(fake("shows together", synccheck=FAULTY["synccheck"]), "synccheck")
    assert words.startswith(" synccheck on 4 cases together, on none of them alone: Barrier error")


def test_an_error_of_the_tool_itself_is_red(fake: Callable[..., Sanitizer]) -> None:
    (words,) = words_of(fake(memcheck="========= Error: The tool is out of memory\n"))
    assert "Error: The tool is out of memory" in words


@pytest.mark.parametrize(
    ("mode", "case", "said"),
    [
        ("exits", "", "on none of them alone: found nothing, but exited 7, having ended 4 of 4"),
        ("silent", "", "left no summary; exited 0, having ended 4 of 4 cases"),
        ("stops", ID.format(1), "found nothing in less than it was given: it exited 0, having end"),
        ("falls back", "", "found nothing, but saw no launch"),
        ("crashes", ID.format(1), "exited 1, having ended 1 of 4 cases; RuntimeError: CUDA error"),
    ],
)
def test_a_clean_report_of_a_run_that_was_none_is_red(
    fake: Callable[..., Sanitizer], mode: str, case: str, said: str
) -> None:
    (words,) = words_of(fake(mode))
    assert words.startswith(f"{case} memcheck on")
    assert said in words


def test_a_crash_that_a_fault_caused_is_the_fault_of_its_case(
    fake: Callable[..., Sanitizer],
) -> None:
    (words,) = words_of(fake("crashes", memcheck=FAULTY["memcheck"]))
    assert words.startswith(f"{ID.format(1)} memcheck on {ID.format(1)}: Invalid __global__ write")


def test_an_unknown_form_of_error_is_red(fake: Callable[..., Sanitizer]) -> None:
    new = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 2 errors\n"
    (words,) = words_of(fake(memcheck=new))
    assert "counts 2 errors of a form not known" in words


def test_a_run_that_hangs_is_ended_with_all_that_it_started(
    fake: Callable[..., Sanitizer],
) -> None:
    begin = time.monotonic()
    (words,) = words_of(fake("hangs", seconds=4))
    assert time.monotonic() - begin < 30
    assert words.startswith(f"{ID.format(0)} memcheck on {ID.format(0)}: did not end within ")
    assert words.endswith("; waiting for a barrier")
    while any(_sleeps(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() - begin < 30  # a signal takes its time


def _sleeps(path: Path) -> bool:
    try:
        return path.read_bytes() == f"sleep\0{NAP}\0".encode()
    except OSError:
        return False


def test_the_program_really_runs_its_cases(fake: Callable[..., Sanitizer]) -> None:
    outcome = run(fake("runs"), "initcheck", several(2))
    assert outcome.begun == (ID.format(0), ID.format(1))
    assert (outcome.code, outcome.ended, outcome.launches, outcome.report.errors) == (0, 2, 2, 0)


def test_what_a_kernel_raises_ends_the_program(fake: Callable[..., Sanitizer]) -> None:
    case = parse(ID.format(0).replace("double.triton", "double.triton.raises"))
    _, (found,) = judge(fake("runs"), "memcheck", [case])
    assert found.case == case.id
    assert "exited 1, having ended 0 of 1 cases" in found.words
    assert "RuntimeError: out of registers" in found.words


def test_the_command_gives_each_tensor_an_allocation_of_its_own(toys: str) -> None:
    tool = Sanitizer(path="/opt/cs", arch="sm90", declare=(toys,))
    words = tool.command("memcheck", several(1), Path("log"))
    assert words[:2] == ["/usr/bin/env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"]
    start = words.index("/opt/cs")
    assert words[start + 1 : start + 7] == [
        *("--tool", "memcheck", "--error-exitcode", "86", "--log-file", "log")
    ]
    assert "--padding" in words
    assert words[-2:] == [f"--declare={toys}", ID.format(0)]
    assert "--padding" not in tool.command("racecheck", several(1), Path("log"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_ends_with_its_last_element(layout: str) -> None:
    values = torch.arange(15.0).view(3, 5)
    guarded = guard_input("x", values, layout, torch.device("cpu")).tensor
    copy = alone(guarded, torch.device("cpu"))
    assert copy.stride() == guarded.stride()
    assert torch.equal(copy, guarded)
    last = copy.storage_offset() + sum(
        (size - 1) * stride for size, stride in zip(copy.shape, copy.stride(), strict=True)
    )
    assert copy.untyped_storage().nbytes() == (last + 1) * 4
    assert copy.storage_offset() == (layout == "offset")


def test_a_copy_of_nothing_is_nothing() -> None:
    guarded = guard_input("x", torch.ones(0, 5), "rows", torch.device("cpu")).tensor
    copy = alone(guarded, torch.device("cpu"))
    assert copy.shape == (0, 5)
    assert copy.untyped_storage().nbytes() == 0


def test_the_program_says_when_a_case_begins_and_ends(
    toys: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--arch=cpu", f"--declare={toys}", ID.format(0), ID.format(1)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"sanitized-begins {ID.format(0)}", "sanitized-ends 1"]
    assert len(said) == 4


def test_every_configuration_has_its_cases_and_all_write() -> None:
    registry.load_all(("references", "kernels"))
    for kernel in registry.kernels():
        op = registry.op(kernel.op)
        cases = cases_of(op, kernel)
        assert {case.config for case in cases} == {"default", *kernel.configs}
        assert {case.dtype for case in cases} == set(op.dtypes)
        assert len(cases) == 2 * (1 + len(kernel.configs))
        assert all(0 not in case.size_of.values() for case in cases)


def test_the_seed_alone_decides_the_cases(toys: str) -> None:
    del toys
    op, kernel = registry.op("double"), registry.kernel(GOOD)
    assert cases_of(op, kernel) == cases_of(op, kernel)
    assert cases_of(op, kernel) != cases_of(op, kernel, seed=1)


def checked(tool: Sanitizer, *, only: str | None = None, cases: int | None = None) -> Check:
    """The check of a cell, having run with that tool; raises ParityFailure."""
    check = Check(
        cell=Cell(GOOD, CPU, Layer.SANITIZE),
        dtype=None,
        settings=Settings(sanitizer=Path(tool.path), declare=tool.declare, only=only, cases=cases),
        reproduce=lambda case: f"pytest --case {case}",
    )
    try:
        sanitizer.check_cell(check)
    finally:
        json.dumps(check.figures, allow_nan=False)
        assert isinstance(check.figures["tools"], dict)
        assert list(check.figures["tools"]) == list(TOOLS)
    return check


def test_a_cell_passes_under_all_tools(fake: Callable[..., Sanitizer]) -> None:
    check = checked(fake("runs"))
    assert check.figures["cases"] == 2
    tools = check.figures["tools"]
    assert isinstance(tools, dict)
    found = {name: (it["errors"], it["launches"]) for name, it in tools.items()}
    assert found == dict.fromkeys(TOOLS, (0, 2))


def test_fewer_cases_can_be_asked_for(fake: Callable[..., Sanitizer]) -> None:
    assert checked(fake(), cases=1).figures["cases"] == 1
    assert checked(fake(), cases=3).figures["cases"] == 2


def test_a_cell_is_red_with_what_each_tool_says(fake: Callable[..., Sanitizer]) -> None:
    with pytest.raises(ParityFailure) as caught:
        checked(fake(racecheck=FAULTY["racecheck"], synccheck=FAULTY["synccheck"]))
    problems = caught.value.problems
    assert [words.split(" on ")[0] for words in problems] == ["racecheck", "synccheck"]
    assert caught.value.case.endswith("/sanitize")


def test_a_case_by_its_id_is_the_only_one(fake: Callable[..., Sanitizer]) -> None:
    only = f"{ID.format(77)}/sanitize"
    assert checked(fake(), only=only).figures["cases"] == 1
    with pytest.raises(ParityFailure, match="racecheck on ") as caught:
        checked(fake(racecheck=FAULTY["racecheck"]), only=only)
    assert caught.value.case == only


def test_a_tool_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no-such is not on this machine.*--compute-sanitizer"):
        find(tmp_path / "no-such")


def test_the_layer_is_claimed_for_gpus_and_only_when_asked_for(toys: str) -> None:
    del toys
    kernel = registry.kernel(GOOD)
    assert Layer.SANITIZE not in {cell.layer for cell in cells_of(kernel, ())}
    claimed = [c for c in inventory([kernel], (), sanitize=True) if c.layer is Layer.SANITIZE]
    assert [cell.arch for cell in claimed] == list(kernel.archs)
    assert all(cell.needs_device for cell in claimed)


def test_the_table_has_the_column_only_where_it_was_asked_for() -> None:
    def heads(*layers: str) -> list[str]:
        records = [
            Record(
                kernel="k.cuda",
                arch="sm90",
                layer=layer,
                check="c",
                verdict="passed",
                outcome="passed",
                evidence="device",
            )
            for layer in layers
        ]
        return next(lines(verdicts([], records)))[0].text.split()

    assert heads("numeric")[-1] == "boundary"
    assert heads("numeric", "sanitize")[-1] == "sanitize"


SANITIZE: Final = ("--pyargs", "suites.sanitize", f"--kernel={GOOD}")


@pytest.mark.parametrize(
    "asked",
    [
        ("-m", "sm100 and sanitize"),
        ("-m", "sm100", "--sanitize"),
        ("-m", "sm100", "--layer=sanitize"),
        ("-m", "sm100", f"--case={ID.format(0)}/sanitize"),
    ],
)
def test_a_run_that_asks_for_it_skips_and_counts_what_has_no_gpu(
    project: Project, asked: tuple[str, ...]
) -> None:
    result = project.run(*SANITIZE, *asked, RECORDS)
    assert ran(result) == {"skipped": 1}
    (record,) = project.read()
    assert (record.layer, record.arch, record.verdict) == ("sanitize", "sm100", "skipped")
    assert record.message.startswith("sm100 is not on this machine")
    assert "sanitize" in table(result)[0]


@pytest.mark.parametrize("asked", [("-m", "sm100"), ("-m", "sm100 and not sanitize")])
def test_a_run_that_does_not_ask_has_none_of_it(project: Project, asked: tuple[str, ...]) -> None:
    result = project.run(
        "--pyargs", "suites.sanitize", "suites.compile", f"--kernel={GOOD}", *asked
    )
    assert "passed" in ran(result) or "failed" in ran(result)
    assert not any("sanitize" in line for line in table(result))
