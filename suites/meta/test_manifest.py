"""A run leaves a manifest of what it claimed, collected and dropped, however it ends."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

import pytest

from harness import manifest
from harness.arch import CPU
from harness.cells import Outcome
from harness.gate import evidence
from harness.judge import ParityFailure
from harness.manifest import Asked, from_json
from harness.reporting import outcome_of
from suites.meta.gate_runs import ALL, KERNEL, good, run_of
from suites.meta.users_project import BAD, GOOD, RECORDS, Project, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from harness.gate.evidence import Run

pytest_plugins = ("pytester",)

ONE_TEST: Final = ("--pyargs", "suites.numeric.test_numeric", "-k", "matches_the_reference")
MATCHES: Final = "test_matches_the_reference"
KILLED: Final = """
import os
import signal


def pytest_runtest_logfinish():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by(project: Project) -> Run:
    (run,) = evidence.read(project.pytester.path / "build").runs
    return run


def test_it_survives_its_json() -> None:
    made = replace(
        run_of(map(good, ALL)).manifest,
        archs=("sm90",),
        device={"device": "NVIDIA H200"},
        deselected=ALL[:2],
        uncovered=ALL[2:3],
        not_loaded={"kernels.moe": "no module"},
    )
    assert from_json(made.to_json()) == made


def test_a_run_leaves_what_it_was_to_run(project: Project) -> None:
    project.run(*ONE_TEST, "-m", CPU, "--cases=2", GOOD, BAD, RECORDS)
    run = left_by(project)
    kept = [(each.kernel, each.arch, each.layer, each.check, each.dtype) for each in run.records]
    assert sorted(run.manifest.collected) == sorted(kept)
    assert {each.check for each in run.manifest.collected} == {
        f"{MATCHES}[float32]",
        f"{MATCHES}[float16]",
    }
    dropped = set(run.manifest.deselected)
    assert Asked("double.triton.wide", CPU, "numeric", f"{MATCHES}[float16]", "float16") in dropped
    assert Asked(KERNEL, "sm90", "numeric", f"{MATCHES}[float16]", "float16") in dropped
    rest = Asked(KERNEL, CPU, "boundary", "test_refuses_the_neighbours_of_its_domain", "")
    assert rest in run.manifest.uncovered
    assert not dropped & {*run.manifest.collected, *run.manifest.uncovered}
    assert (KERNEL, CPU, "import_safety") in run.manifest.cells


def test_a_run_says_how_it_ended_and_of_what_it_was(project: Project) -> None:
    project.run(*ONE_TEST, "-m", CPU, "--cases=8", "--parity-seed=7", GOOD, BAD, RECORDS)
    run = left_by(project)
    found = run.manifest
    assert (run.finished, found.status, found.seed) == (True, 1, 7)
    assert found.started < found.finished
    assert found.kernels[KERNEL].backend == "triton"
    assert found.kernels[KERNEL].dtypes == ("float32", "float16")
    assert found.versions == run.records[0].versions
    for made in run.records:
        wrong = made.kernel == "double.triton.tail"
        assert (made.outcome, made.run) == ("wrong" if wrong else "passed", found.run)
        assert (made.backend, made.launched) == ("triton", ["triton:declared_toys.double"])
        assert found.started <= made.started <= found.finished
        assert made.worker == ""


def test_a_run_that_is_killed_leaves_what_it_had(project: Project) -> None:
    project.write(killer=KILLED)
    options = ("--declare=toys.py", "-m", CPU, "--cases=2", GOOD, RECORDS)
    project.run_apart("-p", "killer", *ONE_TEST, *options)
    run = left_by(project)
    assert (run.manifest.finished, run.manifest.status, run.finished) == ("", None, False)
    assert len(run.manifest.collected) == 2
    assert [each.check for each in run.records] == [f"{MATCHES}[float32]"]


def test_a_folder_that_cannot_be_written_to_is_refused(project: Project) -> None:
    (project.pytester.path / "taken").touch()
    said = refusal(project.run(*ONE_TEST, GOOD, "--records=taken/x.jsonl"))
    assert "x.jsonl cannot be written to the folder" in said
    assert "name a folder that this user may write to" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("x.txt", "--records='x.txt' does not end in .jsonl, which is what the gate reads"),
        ("there", "--records='there' is a folder; name a file in it: 'there/records.jsonl'"),
        ("full.jsonl", "--records='full.jsonl' is a folder; name a file in it: 'full.jsonl/rec"),
    ],
)
def test_what_is_no_file_of_records_is_refused_and_nothing_written(
    project: Project, given: str, words: str
) -> None:
    for folder in ("there", "full.jsonl"):
        project.pytester.mkdir(folder)
    before = sorted(project.pytester.path.rglob("*"))
    assert words in refusal(project.run(*ONE_TEST, GOOD, f"--records={given}"))
    assert sorted(project.pytester.path.rglob("*")) == before


def test_a_refused_run_is_no_finished_one(project: Project) -> None:
    project.run(*ONE_TEST, "--kernel=triple", RECORDS)
    run = left_by(project)
    assert (run.manifest.status, run.finished) == (pytest.ExitCode.USAGE_ERROR, False)


def outcome(error: BaseException | None, **report: bool) -> Outcome:
    kinds = {"passed": False, "skipped": False} | report
    return outcome_of(cast("pytest.TestReport", SimpleNamespace(**kinds)), error)


def test_the_outcome_is_of_the_exception() -> None:
    import torch

    assert outcome(None, passed=True) is Outcome.PASSED
    assert outcome(None, skipped=True) is Outcome.UNAVAILABLE
    assert outcome(ParityFailure("title", ["problem"])) is Outcome.WRONG
    assert outcome(RuntimeError("out of registers")) is Outcome.REFUSED
    assert outcome(torch.OutOfMemoryError("40 GiB")) is Outcome.OUT_OF_MEMORY


def test_the_manifest_lies_beside_its_records(tmp_path: Path) -> None:
    assert manifest.beside(tmp_path / "sm90.jsonl") == tmp_path / "sm90.manifest.json"
