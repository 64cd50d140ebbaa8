"""What running a check in a process of its own costs: in turns with the same check in this one."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Final

from harness import registry
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.isolate.client import Server
from harness.isolate.conduct import Conduct
from harness.isolate.messages import Job, Setup
from harness.reproduction import Reproduction
from suites.bench.measured import rounds
from suites.numeric import test_numeric

REPEATS: Final = 30
REPLACED: Final = 8
TARGETS: Final = ("references", "kernels")
TEST: Final = test_numeric.test_matches_the_reference


def overhead(kernel: str, arch: str) -> None:
    """Print what a check of few cases takes here and there, and what a new process does."""
    registry.load_all(TARGETS)
    server = Server(Setup(TARGETS, ("pytest",)), dict(os.environ))  # noqa: TID251 - handed on
    try:
        began = time.perf_counter()
        server.start()
        _ = server.devices
        cold = time.perf_counter() - began
        times = rounds(
            lambda: _isolated(server, kernel, arch), lambda: _here(kernel, arch), repeats=REPEATS
        )
        there, here = map(statistics.median, times)
        born = [_replace(server) for _ in range(REPLACED)]
    finally:
        server.close()
    added = 1000 * (there - here)
    print(
        f"isolation, {kernel} on {arch}: a check {1000 * there:.1f} ms in a warm child = "
        f"{there / here:.2f} x here ({1000 * here:.1f} ms), {added:+.1f} ms; a new child "
        f"{1000 * statistics.median(born):.0f} ms, the server {cold:.1f} s, once"
    )


def _check(kernel: str, arch: str) -> Check:
    return Check(
        cell=Cell(kernel, arch, Layer.NUMERIC),
        dtype="float32",
        settings=Settings(cases=4, declare=TARGETS),
        reproduce=Reproduction(""),
    )


def _here(kernel: str, arch: str) -> None:
    TEST(_check(kernel, arch))


def _isolated(server: Server, kernel: str, arch: str) -> None:
    check = _check(kernel, arch)
    job = Job(
        module=TEST.__module__,
        path=Path(test_numeric.__file__),
        function=TEST.__name__,
        cell=check.cell,
        dtype=check.dtype,
        kind="",
        settings=check.settings,
        reproduce=Reproduction(""),
    )
    Conduct(server=server, job=job, check=check, limit=600, show=lambda _: None).run()


def _replace(server: Server) -> float:
    """Seconds until a new child answers, with its device where there is one."""
    server.retire()
    start = time.perf_counter()
    _ = server.devices
    return time.perf_counter() - start


def main() -> None:
    """Print the figures of the CPU."""
    overhead("rms_norm.triton", CPU)


if __name__ == "__main__":
    main()
