"""Prints what a comparison costs beside `torch.testing.assert_close` and beside a copy, in one run.

``python -m suites.bench.comparison`` measures the CPU; ``--device cuda`` a GPU, where ``--sweep``
tries other tunings and ``--columns``, ``--step``, ``--warps``, ``--stages`` and ``--registers`` set
one.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from harness.budget import Budget
from harness.compare import compare
from harness.device import describe, elapsed, peak_memory
from harness.tally import Operands
from suites.bench.measured import ratio_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.compare_device import Tuning
    from harness.gate.ratios import Ratio

CPU_SIZE: Final = 4096
GPU_SIZE: Final = 8192
MIB: Final = 1 << 20
BUDGET: Final = Budget(dtype=torch.bfloat16, terms_summed=4096)


@dataclass(frozen=True)
class Pair:
    """A bfloat16 result and its reference, of ``size`` by ``size``."""

    name: str
    actual: Tensor
    expected: Tensor
    magnitude: Tensor | None

    @property
    def bytes_read(self) -> int:
        tensors = (self.actual, self.expected, self.magnitude)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def compare(self) -> None:
        verdict = compare(self.actual, self.expected, self.magnitude, BUDGET, random=True)
        if not verdict.passed:
            msg = f"a correct result was rejected: {verdict}"
            raise AssertionError(msg)

    def assert_close(self) -> None:
        torch.testing.assert_close(self.actual, self.expected, check_dtype=False)


def pairs(size: int, device: torch.device) -> Iterator[Pair]:
    """Correct results: a sum in float32 that was rounded, so that some elements round otherwise."""
    generator = torch.Generator(device).manual_seed(0)
    exact = torch.randn(size, size, dtype=torch.float64, generator=generator, device=device)
    noise = torch.randn(size, size, generator=generator, device=device)
    actual = (exact.float() * (1 + noise * 2.0**-22)).to(torch.bfloat16)
    del noise
    narrow = exact.to(torch.bfloat16)
    yield Pair("bfloat16 against bfloat16", actual, narrow, None)
    magnitude = exact.abs() * 50
    yield Pair("bfloat16 against float64 with a magnitude", actual, exact, magnitude)
    del exact, magnitude
    moved = torch.rand(size, size, generator=generator, device=device) < 1 / 3
    off = torch.where(moved, (narrow.view(torch.int16) ^ 1).view(torch.bfloat16), narrow)
    yield Pair("the same, one element in three an ulp off", off, narrow, None)


def on_cpu(size: int = CPU_SIZE) -> Iterator[Ratio]:
    """Print ratios to ``assert_close`` and what memory is needed; yields the ratios."""
    device = torch.device("cpu")
    print(f"comparison on {torch.get_num_threads()} threads of a CPU, {size} x {size}:")
    for pair in pairs(size, device):
        found = _in_turns(pair)
        ours, theirs = map(min, found)
        memory = "unknown" if (extra := _extra(pair)) is None else f"{extra / MIB:.0f} MiB"
        print(
            f"  {pair.name}: {1000 * ours:.1f} ms, {theirs / ours:.1f} x faster than assert_close"
            f" ({1000 * theirs:.1f} ms); extra memory {memory}"
        )
        yield ratio_of(f"comparison/{pair.name}, assert_close", found[1], found[0], device)


def _in_turns(pair: Pair, repeats: int = 5) -> tuple[list[float], list[float]]:
    """Seconds of each, taken in turns: what disturbs one disturbs both."""
    cpu, both = torch.device("cpu"), (pair.compare, pair.assert_close)
    times = [[elapsed(run, cpu, repeats=1)[0] for run in both] for _ in range(repeats + 1)][1:]
    return [ours for ours, _ in times], [theirs for _, theirs in times]


def _extra(pair: Pair) -> int | None:
    """Bytes by which the process grows at most during a comparison; None where Linux is not."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        before = _status("VmRSS")
        pair.compare()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(kilobytes)


def on_cuda(device: torch.device, size: int, tunings: Sequence[Tuning | None]) -> Iterator[Ratio]:
    """Print ratios to a copy's bandwidth and to ``assert_close``, and the memory; yields them."""
    bandwidth = copy_bandwidth(device)
    name = describe(device)["device"]
    print(f"comparison on {name}, {size} x {size}; a copy moves {bandwidth / 1e12:.2f} TB/s")
    for pair in pairs(size, device):
        floor = pair.bytes_read / bandwidth
        print(f"  {pair.name}: {pair.bytes_read / MIB:.0f} MiB read, {_us(floor)} at that rate")
        for tuning in tunings:
            times = _report_pass(pair, tuning, floor)
            if tuning is None:
                of = f"comparison/{pair.name}, a copy's rate"
                yield ratio_of(of, times, [floor] * len(times), device, better="lower")
        found = [elapsed(f, device) for f in (pair.compare, pair.assert_close)]
        whole, theirs = map(statistics.median, found)
        ours, other = (peak_memory(f, device) / MIB for f in (pair.compare, pair.assert_close))
        print(
            f"    compare() with what the host does: {_us(whole)}, {theirs / whole:.1f} x faster"
            f" than assert_close ({_us(theirs)}); extra memory {ours:.2f} MiB against {other:.0f}"
        )
        yield ratio_of(f"comparison/{pair.name}, assert_close", found[1], found[0], device)


def _report_pass(pair: Pair, tuning: Tuning | None, floor: float) -> list[float]:
    from harness import compare_device

    operands = Operands(pair.actual, pair.expected, pair.magnitude, None, BUDGET)
    label = str(tuning or (compare_device.WIDE if operands.wide else compare_device.NARROW))
    times = elapsed(lambda: compare_device.enqueue(operands, tuning), pair.actual.device)
    taken = statistics.median(times)
    print(
        f"    {label}: {_us(taken)} (least {_us(min(times))}), {taken / floor:.2f} x that",
        flush=True,
    )
    return times


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of the fastest large copy."""
    source = torch.ones(256 * MIB, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / min(elapsed(lambda: target.copy_(source), device))


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} us"


def _sweep() -> list[Tuning]:
    from harness.compare_device import Tuning

    return [
        Tuning(columns=columns, step=columns * rows, warps=columns // lanes, stages=stages)
        for columns, rows, lanes, stages in itertools.product(
            (512, 1024, 2048), (1, 2, 4), (128, 256), (1, 3)
        )
        if rows == 1 or lanes == 256
    ]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="rows and columns of the output")
    parser.add_argument("--sweep", action="store_true", help="try many tunings of the GPU's kernel")
    for option in ("columns", "step", "warps", "stages", "registers"):
        parser.add_argument(f"--{option}", type=int, help="of the GPU's kernel")
    asked = parser.parse_args()
    if asked.device == "cpu":
        deque(on_cpu(asked.size or CPU_SIZE), maxlen=0)
        return
    found = on_cuda(torch.device(asked.device), asked.size or GPU_SIZE, _tunings(asked))
    deque(found, maxlen=0)


def _tunings(asked: argparse.Namespace) -> list[Tuning | None]:
    from harness.compare_device import NARROW, Tuning

    if asked.sweep:
        return [None, *_sweep()]
    if asked.columns is asked.step is asked.warps is asked.stages is asked.registers is None:
        return [None]
    return [
        Tuning(
            columns=asked.columns or NARROW.columns,
            step=asked.step or NARROW.step,
            warps=asked.warps or NARROW.warps,
            stages=asked.stages or NARROW.stages,
            registers=asked.registers,
        )
    ]


if __name__ == "__main__":
    main()
