"""The figures that a benchmark keeps: ratios of one run, with what they were measured on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from harness import atomic, record
from harness import device as devices
from harness.gate.ratios import Ratio, of_rounds, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

REPEATS: Final = 11


def rounds(*runs: Callable[[], object], repeats: int = REPEATS) -> list[list[float]]:
    """Seconds of each in each repeat, taken in turns: what disturbs one disturbs all."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [found[1:] for found in times]


def ratio_of(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    device: torch.device,
    *,
    better: str = "higher",
) -> Ratio:
    """The ratio of two figures that were measured in turns, round by round."""
    rounds = [one / other for one, other in zip(above, below, strict=True)]
    return of_rounds(name, rounds, better=better, device=name_of(device))


def name_of(device: torch.device) -> str:
    """A GPU's name; a CPU's, with the cores and threads that are used of it."""
    if device.type == "cuda":
        return devices.describe(device)["device"]
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{_processor()}, {cores} cores, {threads} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def require_writable(path: Path) -> None:
    """Raise OSError unless `write` could write there: asked before minutes of measuring."""
    if path.is_dir():
        msg = f"{path} is a folder; name a file in it, e.g. {path / 'bench.json'}"
        raise IsADirectoryError(msg)
    there = next(each for each in path.absolute().parents if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        msg = f"{path}: {there} is no folder that this user may write to; name another"
        raise PermissionError(msg)


def write(path: Path, ratios: Iterable[Ratio]) -> None:
    """Write ratios as JSON, which a gate holds against a baseline's."""
    atomic.write_text(path, to_json(ratios, record.versions()))
