"""What a child of a power run does to itself stays its own, and is named rightly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from harness.power.isolation import Ending, Finished, Limits, run

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(step_seconds=60, memory=2**34)
Send = Callable[[object], None]
Work = Callable[[str, int, Send], None]


def alone(work: Work, folder: Path, limits: Limits = LIMITS) -> Finished[str]:
    """One task called "task", done."""
    (finished,) = run(["task"], work, jobs=1, limits=limits, folder=folder)
    return finished


def test_what_a_child_sends_comes_back_with_its_task(tmp_path: Path) -> None:
    def work(task: str, slot: int, send: Send) -> None:
        send((task, slot))
        send("more")

    finished = alone(work, tmp_path)
    assert finished.ending is Ending.DONE
    assert finished.messages == [("task", 0), "more"]


def test_an_exception_is_the_harnesss_own_failure_with_its_place(tmp_path: Path) -> None:
    def work(task: str, slot: int, send: Send) -> None:
        send(1)
        msg = f"no {task} in slot {slot}"
        raise LookupError(msg)

    finished = alone(work, tmp_path)
    assert finished.ending is Ending.FAILED
    assert finished.messages == [1]
    assert "LookupError: no task in slot 0" in finished.words
    assert "test_power_isolation.py" in finished.words


def test_a_crash_keeps_what_was_sent_and_what_was_printed(tmp_path: Path) -> None:
    def work(task: str, slot: int, send: Send) -> None:
        del task, slot
        send("before")
        os.write(2, b"stack smashed")
        os.kill(os.getpid(), signal.SIGSEGV)

    finished = alone(work, tmp_path)
    assert finished.ending is Ending.CRASHED
    assert finished.messages == ["before"]
    assert "status -11" in finished.words
    assert "test_power_isolation.py" in finished.words  # where it was
    assert "stack smashed" in (tmp_path / "child-0.log").read_text(encoding="utf-8")


def test_silence_beyond_the_limit_is_a_hang(tmp_path: Path) -> None:
    def work(task: str, slot: int, send: Send) -> None:
        del task, slot
        for _ in range(4):
            time.sleep(0.5)
            send("alive")  # each message starts the clock again
        time.sleep(60)

    finished = alone(work, tmp_path, Limits(step_seconds=1.8, memory=2**34))
    assert finished.ending is Ending.HUNG
    assert len(finished.messages) == 4  # after 2 s
    assert finished.seconds < 30


def test_a_flood_of_memory_is_ended(tmp_path: Path) -> None:
    def work(task: str, slot: int, send: Send) -> None:
        del task, slot, send
        held = [bytearray(b"x" * 2**20) for _ in range(600)]
        time.sleep(60)
        del held

    finished = alone(work, tmp_path, Limits(step_seconds=60, memory=2**29))
    assert finished.ending is Ending.OUT_OF_MEMORY
    assert finished.seconds < 30


def test_one_ends_badly_and_the_others_are_done(tmp_path: Path) -> None:
    def work(task: int, slot: int, send: Send) -> None:
        if task == 2:
            os.abort()
        send(slot)

    found = {f.task: f for f in run(range(6), work, jobs=3, limits=LIMITS, folder=tmp_path)}
    assert sorted(found) == list(range(6))
    assert [task for task, f in found.items() if f.ending is not Ending.DONE] == [2]
    assert {slot for f in found.values() for slot in f.messages} <= {0, 1, 2}


def test_no_two_living_children_share_a_slot(tmp_path: Path) -> None:
    def work(task: int, slot: int, send: Send) -> None:
        mark = tmp_path / f"slot-{slot}"
        mark.touch(exist_ok=False)
        time.sleep(0.05 * (task % 3))
        mark.unlink()
        send(slot)

    endings = [f.ending for f in run(range(12), work, jobs=4, limits=LIMITS, folder=tmp_path)]
    assert endings == [Ending.DONE] * 12


def test_children_die_with_the_iteration(tmp_path: Path) -> None:
    def work(task: int, slot: int, send: Send) -> None:
        del slot
        send(os.getpid())
        if task:
            (tmp_path / "pid").write_text(str(os.getpid()), encoding="ascii")
            time.sleep(60)
        while not (tmp_path / "pid").exists():
            time.sleep(0.05)

    iteration = run(range(2), work, jobs=2, limits=LIMITS, folder=tmp_path)
    next(iteration)
    iteration.close()  # type: ignore[attr-defined]
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_takes_at_least_one_child(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs=0 is below 1"):
        list(run([1], lambda *_: None, jobs=0, limits=LIMITS, folder=tmp_path))
