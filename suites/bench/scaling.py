"""Prints what several GPUs gain: the same numeric cells with 1, 2 and 4 of them, in one run.

``python -m suites.bench.scaling --devices 1 2 4`` runs the numeric layer of all Triton kernels once
on all devices, which compiles them, and then on each number of devices, with as many workers on
each (``--per-device``); ``--kernel`` asks for some of them. What took longest comes first, as in a
run with ``--seconds-from``. Two times are printed: of the cells, from the start of the first to the
end of the last, and of the whole run, of which some ten seconds are every worker's imports.
``--control`` adds the largest number of workers on one device alone: what they gain there, devices
do not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import harness
from harness import machine, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(harness.__file__).parents[1]
CASES: Final = 24
PER_DEVICE: Final = 2
DEVICES: Final = (1, 2, 4)


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    gpus: tuple[machine.Gpu, ...]
    cases: int
    per_device: int
    kernels: Sequence[str]
    folder: Path

    def run(self, devices: int, workers: int) -> Outcome:
        """Run the cells on the first ``devices``. Raises CellsFailed."""
        timeline, records = self.folder / "timeline.json", self.folder / f"{workers}.jsonl"
        former = self.folder / "records.jsonl"
        start = time.perf_counter()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("-p", "suites.bench.timeline", f"--timeline={timeline}"),
                *("--pyargs", "suites.numeric.test_numeric", "-m", f"{self.gpus[0].arch}"),
                *(f"--numprocesses={workers}", "--dist=worksteal", f"--cases={self.cases}"),
                *(f"--kernel={name}" for name in self.kernels),
                *([f"--seconds-from={former}"] if former.exists() else []),
                f"--records={records}",
            ],
            cwd=ROOT,
            env=self._environment(devices),
            check=False,
            capture_output=True,
            text=True,
        )
        taken = time.perf_counter() - start
        if done.returncode:
            raise CellsFailed(done.stdout[-4000:] + done.stderr[-2000:])
        records.replace(former)
        return Outcome.read(devices, workers, taken, timeline)

    def _environment(self, devices: int) -> dict[str, str]:
        seen = ",".join(gpu.name for gpu in self.gpus[:devices])
        return {**os.environ, machine.VISIBLE: seen, "OMP_NUM_THREADS": "1"}  # noqa: TID251


class CellsFailed(RuntimeError):
    """A cell is not green: its time says nothing. The message is the end of pytest's output."""


@dataclass(frozen=True)
class Outcome:
    """Seconds of a run and of its cells."""

    devices: int
    workers: int
    whole: float
    cells: float
    longest: float
    work: float  # of all cells together
    count: int

    @classmethod
    def read(cls, devices: int, workers: int, whole: float, path: Path) -> Outcome:
        """Of a timeline; its cells must have run."""
        seen = json.loads(path.read_text(encoding="utf-8"))
        took = [each["stop"] - each["start"] for each in seen if each["outcome"] == "passed"]
        if not took or len(took) < len(seen):
            msg = f"{len(seen) - len(took)} of {len(seen)} cells were skipped; run them by pytest"
            raise CellsFailed(msg)
        span = max(each["stop"] for each in seen) - min(each["start"] for each in seen)
        return cls(devices, workers, whole, span, max(took), sum(took), len(took))

    def words(self, beside: Outcome) -> str:
        """This run's times and what it gains over another."""
        return (
            f"  {self.devices} devices, {self.workers} workers: {self.count} checks in "
            f"{self.cells:.1f} s, {beside.cells / self.cells:.2f} x; the whole run "
            f"{self.whole:.1f} s, {beside.whole / self.whole:.2f} x; the longest check "
            f"{self.longest:.1f} s of {self.work:.0f} s together"
        )


def _triton_kernels() -> list[str]:
    registry.load_all(("references", "kernels"))
    return [kernel.name for kernel in registry.kernels() if kernel.backend == "triton"]


def on_devices(
    numbers: Sequence[int],
    *,
    cases: int = CASES,
    per_device: int = PER_DEVICE,
    kernels: Sequence[str] = (),
    control: bool,
) -> None:
    """Print the figures of each number of devices that this machine has of one arch."""
    found = machine.here().gpus
    gpus = tuple(gpu for gpu in found if gpu.arch == found[0].arch) if found else ()
    able = [number for number in numbers if number <= len(gpus)]
    print(f"several GPUs, of {len(gpus)} of one arch here:", flush=True)
    if len(able) <= 1:
        print("  fewer than two: nothing to compare")
        return
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(gpus, cases, per_device, kernels or _triton_kernels(), Path(folder))
        most = max(able)
        first = setup.run(most, most * per_device)
        print(f"  compiled and run once: {first.whole:.1f} s", flush=True)
        outcomes: list[Outcome] = []
        for number in able:
            outcomes.append(setup.run(number, number * per_device))
            print(outcomes[-1].words(outcomes[0]), flush=True)
        if control:
            beside = setup.run(1, most * per_device)
            print(f"{beside.words(outcomes[0])} (control)", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--per-device", type=int, default=PER_DEVICE)
    parser.add_argument("--kernel", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--control", action="store_true", help="all workers on one device too")
    asked = parser.parse_args()
    on_devices(
        asked.devices,
        cases=asked.cases,
        per_device=asked.per_device,
        kernels=asked.kernel,
        control=asked.control,
    )


if __name__ == "__main__":
    main()
