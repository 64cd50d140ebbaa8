"""What several processes ask for at once is made once; whoever dies or fails blocks nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from harness import cubins, locks

if TYPE_CHECKING:
    from pathlib import Path

MADE = cubins.Binary(b"code", "symbol", "")

# Waits, with all others, for a file to appear; then asks for the entry, and counts what it makes.
ASKS = """
import os, sys, time
from pathlib import Path
from harness import cubins

folder, start = Path(sys.argv[1]), Path(sys.argv[2])

def make():
    Path(f"{start}.made.{os.getpid()}").touch()
    time.sleep(0.3)  # as long as any process may take from the start to its question
    return cubins.Binary(b"code", "symbol", "")

Path(f"{start}.ready.{os.getpid()}").touch()
while not start.exists():
    pass
print(cubins.load_or_make(folder, "key", make).cubin.decode())
"""
HOLDS = """
import sys
from pathlib import Path
from harness import locks

assert locks.acquire(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.read()
"""


def asked_at_once(folder: Path, start: Path, count: int) -> list[str]:
    """What each of some processes gets that ask for one entry at the same time."""
    command = [sys.executable, "-c", ASKS, str(folder), str(start)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    while len(list(start.parent.glob(f"{start.name}.ready.*"))) < count:
        assert all(each.poll() is None for each in asking)
    start.touch()
    return [each.communicate()[0].strip() for each in asking]


def test_processes_that_ask_at_once_make_one(tmp_path: Path) -> None:
    folder, start = tmp_path / "kept", tmp_path / "start"
    assert asked_at_once(folder, start, 2) == ["code", "code"]
    assert len(list(tmp_path.glob("start.made.*"))) == 1
    assert [path.name for path in folder.iterdir()] == ["key.cubin"]


def test_threads_that_ask_at_once_make_one(tmp_path: Path) -> None:
    made, both = [], threading.Barrier(2)

    def make() -> cubins.Binary:
        made.append(threading.get_ident())
        return MADE

    def ask() -> None:
        both.wait()
        cubins.load_or_make(tmp_path, "key", make)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 1


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert locks.acquire(path, patience=0) is None
    holder.kill()
    holder.communicate()
    assert path.exists()
    with locks.alone(path, patience=0) as held:
        assert held
    assert not path.exists()


def test_who_waits_too_long_goes_on_alone(tmp_path: Path) -> None:
    path, started = tmp_path / "lock", time.monotonic()
    with locks.alone(path) as held:
        assert held
        with locks.alone(path, patience=0.05) as again:
            assert not again
    assert time.monotonic() - started < locks.PATIENCE
    assert not path.exists()


def test_a_failure_leaves_no_lock_and_no_entry(tmp_path: Path) -> None:
    def fails() -> cubins.Binary:
        msg = "no such instruction"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no such instruction"):
        cubins.load_or_make(tmp_path, "key", fails)
    assert not list(tmp_path.iterdir())
    assert cubins.load_or_make(tmp_path, "key", lambda: MADE) == MADE


def test_without_a_folder_there_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with locks.alone(below / "lock") as held:
        assert not held
    assert cubins.load_or_make(below, "key", lambda: MADE) == MADE


def test_a_lock_that_was_removed_meanwhile_is_not_held(tmp_path: Path) -> None:
    """Its file was opened before the holder removed it: another may hold the one at its place."""
    path = tmp_path / "lock"
    held = locks.acquire(path)
    assert held is not None
    path.unlink()
    with locks.alone(path, patience=0) as other:
        assert other
        locks.release(tmp_path / "elsewhere", held)
        assert locks.acquire(path, patience=0) is None
