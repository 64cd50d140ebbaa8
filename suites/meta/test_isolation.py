"""What ends a process is the outcome of the cell that did it, and of no other: cascade length 1."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Final

import pytest

from harness.arch import CPU
from harness.cells import Outcome
from harness.isolate import endings
from harness.isolate.client import LOG_BYTES, Child, Heard, Server, ServerFailed, listen
from harness.isolate.messages import Buried, Progress, Result, Setup
from harness.isolate.server import attend
from harness.judge import ParityFailure
from suites.meta.users_project import ONE_CHECK, RECORDS, ROOT, failure, ran

if TYPE_CHECKING:
    from pathlib import Path

    from harness.record import Record
    from suites.meta.users_project import Project

pytest_plugins = ("pytester",)

# Not imported here: its kernels must be no cells of the run that this test is in.
DECLARE: Final = str(ROOT / "suites" / "meta" / "crashing.py")
ISOLATED: Final = ("-m", CPU, "--isolate=all", "--cell-seconds=2")
PROBES: Final = "suites.boundary.test_boundary"
FIRST: Final = 5  # columns from which the faults there show
OUTCOMES: Final = {
    "aborts": (Outcome.CRASHED, "ended by SIGABRT"),
    "segfaults": (Outcome.CRASHED, "ended by SIGSEGV"),
    "hangs": (Outcome.HUNG, "nothing happened for 2 s (--cell-seconds)"),
    "is_killed": (Outcome.OUT_OF_MEMORY, "killed by SIGKILL"),
    "raises_memory_error": (Outcome.OUT_OF_MEMORY, "raised MemoryError"),
    "eats_memory": (Outcome.OUT_OF_MEMORY, "can't allocate memory"),
    "ends_itself": (Outcome.CRASHED, "ended itself with exit status 3"),
    "exits": (Outcome.REFUSED, "raised SystemExit before launch: bye"),
    "prints": (Outcome.PASSED, ""),
    "leaves_a_thread": (Outcome.PASSED, ""),
}
# A server whose declarations do not load there, though they do in the process of pytest.
FAILS: Final = """
from multiprocessing.connection import Connection
from harness.isolate.messages import Loaded
control = Connection({fd})
control.recv()
control.send(Loaded("RuntimeError: only in the server"))
control.recv()
"""
STACKS: Final = {"aborts", "segfaults", "hangs"}  # of which the place is told


def by_kernel(project: Project) -> dict[str, Record]:
    """The records of a run by the kernel's variant."""
    found = {r.kernel.removeprefix("crash.triton."): r for r in project.read()}
    assert len(found) == len(project.read())
    return found


def test_every_fault_is_its_own_cells_outcome(project: Project) -> None:
    result = project.run(
        *("--pyargs", ONE_CHECK, PROBES, *ISOLATED, "--cases=6", "-n", "1", RECORDS),
        *("-k", "not (probed and numeric) and (numeric or probed)"),
        declare=DECLARE,
    )
    red = [name for name, (outcome, _) in OUTCOMES.items() if outcome is not Outcome.PASSED]
    assert ran(result) == {"passed": 2 * len(OUTCOMES) - len(red), "failed": len(red) + 1}
    records = by_kernel(project)
    for name, (outcome, words) in OUTCOMES.items():
        record, then = records[name], records[f"{name}_then"]
        assert (record.outcome, words in record.message) == (outcome, True), record.message
        assert (then.outcome, then.cases) == (Outcome.PASSED, 6), name
        assert then.launched == ["triton:declared_crashing.crash"]
        assert ('crashing.py", line' in record.message) is (name in STACKS), record.message
    for record in map(records.__getitem__, red):
        assert f"m=1,n={FIRST},dtype=float32,values=normal," in record.case  # the smallest
        assert f"--isolate=all -m cpu --case {record.case}" in record.message
    assert_no_probe_hides_another(records["probed"])


def assert_no_probe_hides_another(record: Record) -> None:
    assert record.outcome == Outcome.CRASHED
    assert record.figures["crashed_probes"] == 2
    for probe, words in {
        "n=0": "the process was ended by SIGABRT",
        "n=65": "the process was ended by SIGSEGV",
        "m=0": "silently accepted",
    }.items():
        assert f"- crash.triton.probed/probe={probe}: {words}" in record.message
    assert record.case.startswith("crash.triton.probed/probe=n=")


def test_a_crash_is_repeated_by_its_command(project: Project) -> None:
    case = "m=1,n=5,dtype=float32,values=normal,layout=contiguous,config=default,seed=0"
    wanted = ("--case", f"crash.triton.aborts/{case}")
    result = project.run("--pyargs", ONE_CHECK, *ISOLATED, *wanted, declare=DECLARE)
    assert ran(result) == {"failed": 1}
    title, at, command, *_ = failure(result)
    assert title == "crash.triton.aborts on cpu, numeric (emulated), crashed: 1 problem"
    assert at == f"  case       crash.triton.aborts/{case}"
    assert command.endswith(f"--isolate=all -m cpu --case crash.triton.aborts/{case}")


def test_a_worker_that_dies_leaves_a_record(project: Project) -> None:
    options = ("-m", CPU, "--isolate=none", "-n", "1", "--kernel=crash.triton.aborts", RECORDS)
    project.run("--pyargs", ONE_CHECK, *options, declare=DECLARE)
    (record,) = project.read()
    assert (record.kernel, record.outcome) == ("crash.triton.aborts", Outcome.CRASHED)
    assert "--isolate=all makes such a crash the outcome" in record.message


@pytest.mark.parametrize(
    ("code", "outcome", "words"),
    [
        (-9, Outcome.OUT_OF_MEMORY, "killed by SIGKILL, by the kernel's OOM killer; at most 2 MiB"),
        (-11, Outcome.CRASHED, "the process was ended by SIGSEGV"),
        (-64, Outcome.CRASHED, "the process was ended by SIGRTMAX"),
        (0, Outcome.CRASHED, "the process ended itself with exit status 0, and no exception"),
    ],
)
def test_an_end_has_an_outcome(code: int, outcome: Outcome, words: str) -> None:
    ending = endings.of_death(Buried(code, 2 << 20), "", killed=True)
    assert ending.outcome is outcome
    assert ending.words.startswith(words)


def test_a_stack_is_told_from_its_top_without_our_own_frames() -> None:
    said = "\n".join(
        [
            *(f"before {number}" for number in range(20)),
            "Fatal Python error: Aborted",
            "Stack (most recent call first):",
            '  File "theirs.py", line 3 in launch',
            '  File "/x/harness/execute.py", line 9 in observe',
            "Extension modules: numpy",
        ]
    )
    told = endings.of_hang(3.0, said).words
    assert told.startswith("nothing happened for 3 s (--cell-seconds); it said:\n      before 12\n")
    assert told.endswith("line 3 in launch")


def test_a_failure_travels_between_processes() -> None:
    import pickle

    failure = ParityFailure("it", ["a", "b"], case="c", reproduce="d", outcome=Outcome.HUNG)
    failure.first = ParityFailure("it", ["z"], case="y")
    copied = pickle.loads(pickle.dumps(failure))  # noqa: S301 - our own bytes
    assert str(copied) == str(failure)
    assert copied.outcome is Outcome.HUNG


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf"])
def test_a_limit_is_a_number_of_seconds(project: Project, seconds: str) -> None:
    result = project.run("--pyargs", ONE_CHECK, f"--cell-seconds={seconds}")
    assert f"--cell-seconds={seconds!r} is not a number of seconds above 0" in str(result.stderr)


def test_no_test_runs_in_a_server_that_could_not_load() -> None:
    def command(_: str, fd: int) -> list[str]:
        return [sys.executable, "-c", FAILS.format(fd=fd)]

    server = Server(Setup(()), {"PYTHONPATH": str(ROOT)}, command=command)
    try:
        for _ in range(2):
            with pytest.raises(ServerFailed, match="cannot load what is declared: Runtime"):
                _ = server.devices
    finally:
        server.close()


def test_a_server_whose_run_was_killed_removes_the_folder_of_logs(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "child-1.log").touch()
    theirs, ours = Pipe()
    theirs.send(Setup((), logs=logs))
    theirs.close()
    attend(ours)
    assert not logs.exists()


def test_the_log_of_a_child_that_keeps_talking_has_a_bound(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    log.touch()
    os.truncate(log, LOG_BYTES + 1)
    ours, theirs = Pipe()
    theirs.send(Progress("still there"))
    theirs.send(Result(outcome=Outcome.PASSED))
    said: list[str] = []
    result = listen(Child(0, ours, log), Heard(), 60.0, said.append)
    assert (result, said) == (Result(outcome=Outcome.PASSED), ["still there"])
    assert not log.stat().st_size
