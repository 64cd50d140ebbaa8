"""What a run leaves behind: failures that can be repeated, a table, and records of every check."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import pytest

from harness import manifest
from harness.arch import CPU
from suites.meta.absent import ABSENT, HERE_AND_AWAY
from suites.meta.users_project import (
    BAD,
    BOUNDARY,
    GOOD,
    NUMERIC,
    RECORDS,
    Project,
    failure,
    printed_command,
    ran,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.manifest import Manifest

pytest_plugins = ("pytester",)


EVERYTHING: Final = (*HERE_AND_AWAY, "--cases=8", GOOD, BAD, RECORDS)


def test_the_header_shows_the_seed_and_the_versions(project: Project) -> None:
    result = project.run(*NUMERIC, GOOD, "--parity-seed=7")
    result.stdout.fnmatch_lines([f"kernel-parity: seed 7, *torch {version('torch')}*"])


def test_a_failure_shows_cell_case_command_element_and_place(project: Project) -> None:
    result = project.run(*NUMERIC, BAD, "-k", "float32")
    assert ran(result) == {"failed": 1}
    head, case_line, command, problem, *_ = failure(result)
    case = case_line.removeprefix("  case       ")
    assert head == "double.triton.tail on cpu, numeric (emulated): 1 problem"
    assert case.startswith("double.triton.tail/m=1,n=8,dtype=float32,values=normal,")
    suite = "--pyargs suites.numeric.test_numeric"
    assert (
        command == f"  reproduce  python -m pytest {suite} --declare=toys.py -m cpu --case {case}"
    )
    assert problem.startswith("  - y: budget: 1 of 8 elements wrong; worst at [0, 7]: actual ")
    assert re.search(r", expected \S+, \S+ x its budget; in column 7 of 8 \(the last\)", problem)


@pytest.mark.parametrize("suite", [NUMERIC, BOUNDARY], ids=["case", "probe"])
def test_the_printed_command_reproduces_the_failure(project: Project, suite: Sequence[str]) -> None:
    kernel = BAD if suite is NUMERIC else "--kernel=double.triton.wide"
    first = failure(project.run(*suite, kernel, "-x"))
    again = project.command(*printed_command(first))
    assert ran(again) == {"failed": 1}
    assert failure(again)[1:4] == first[1:4]  # case, command, the first problem


def test_colour_is_for_terminals(project: Project) -> None:
    plain = project.run(*HERE_AND_AWAY, "--cases=2")
    coloured = project.run(*HERE_AND_AWAY, "--cases=2", "--color=yes")
    assert "\x1b" not in str(plain.stdout)
    for colour, glyph in ((32, "✓"), (31, "✗"), (33, "-"), (35, r"\?")):
        assert re.search(rf"\x1b\[{colour}m{glyph} ", str(coloured.stdout)), glyph
    assert re.sub(r"\x1b\[\d*m", "", "\n".join(table(coloured))) == "\n".join(table(plain))


def test_records_are_the_run(project: Project) -> None:
    result = project.run(*EVERYTHING)
    made = {(r.kernel, r.arch, r.check): r for r in project.read()}
    assert len(made) == len(project.read()) == 12

    good = made["double.triton", CPU, "test_matches_the_reference[float16]"]
    assert (good.verdict, good.evidence, good.layer) == ("passed", "emulated", "numeric")
    assert (good.cases, good.message) == (8, "")
    assert good.case.startswith("double.triton/m=")
    assert (len(good.source), good.versions["torch"]) == (16, version("torch"))

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


def test_workers_make_the_same_records(project: Project) -> None:
    def said(*options: str) -> tuple[set[tuple[str, ...]], list[str], dict[str, int], Manifest]:
        result = project.run(*EVERYTHING, *options)
        facts = ("kernel", "arch", "layer", "check", "verdict", "evidence", "case", "message")
        made = {tuple(str(getattr(r, fact)) for fact in facts) for r in project.read()}
        kept = manifest.read(project.pytester.path / "build" / "records.manifest.json")
        assert {(r.run, r.worker[:2]) for r in project.read()} == {
            (kept.run, "gw" if options else "")
        }
        assert kept.finished > kept.started
        records = project.pytester.path / "build" / "records.jsonl"
        assert kept.digest == manifest.digest_of(records.read_bytes())
        kept = replace(kept, run="", started="", finished="", digest="")
        return made, table(result), ran(result), kept

    alone = said()
    project.forget()
    assert alone == said("-n", "2")


def test_an_interrupted_run_counts_what_is_claimed(project: Project) -> None:
    project.pytester.makeconftest(
        """
        import pytest

        pytest_plugins = ("harness.plugin",)

        class Stops:
            def pytest_runtest_logreport(self, report):
                if report.when == "call":
                    pytest.exit("interrupted")

        def pytest_configure(config):
            if not hasattr(config, "workerinput"):
                config.pluginmanager.register(Stops())
        """
    )
    result = project.run(*NUMERIC, GOOD, "-n", "1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert table(result)[-1].endswith(" uncovered of 120 claimed")


def test_the_seed_decides_the_cases(project: Project) -> None:
    def cases(seed: int) -> list[tuple[str, object]]:
        project.run(*NUMERIC, GOOD, RECORDS, f"--parity-seed={seed}")
        made = project.read()
        assert {r.seed for r in made} == {seed}
        return [(r.case, r.figures) for r in made]

    assert cases(3) == cases(3)
    assert cases(3) != cases(4)


@pytest.mark.parametrize("variant", ["raises", "skips"])
def test_a_kernel_that_raises_has_failed(project: Project, variant: str) -> None:
    project.run(*NUMERIC, RECORDS, f"--kernel=double.triton.{variant}")
    made = project.read()
    assert [r.verdict for r in made] == ["failed", "failed"]
    error = {"raises": "RuntimeError", "skips": "SkipTest"}[variant]
    assert all(f"- raised {error} before launch: " in r.message for r in made)


def test_an_error_in_setup_is_recorded(project: Project) -> None:
    project.write(
        broken_setup="""
        import pytest

        @pytest.fixture(autouse=True)
        def device_lock():
            raise OSError("the lock is held")
        """
    )
    project.pytester.syspathinsert()
    project.run(*NUMERIC, GOOD, RECORDS, "-p", "broken_setup")
    made = project.read()
    assert [(r.verdict, r.evidence) for r in made] == [("failed", "none")] * 2
    assert all("the lock is held" in r.message for r in made)
