"""Prints what the harness costs: start-up, collection, cases beside bare calls, comparisons.

``--json PATH`` keeps the ratios, for `harness.gate.baseline` and the gate.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices
from harness import registry
from harness.case import Case
from harness.emulation import emulate
from harness.execute import build, execute
from harness.judge import judge
from harness.reference import evaluate
from suites.bench import comparison, gemm, isolation, measured, nvfp4, scaling
from suites.bench.measured import REPEATS, ratio_of, rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.declare import Kernel, Op
    from harness.gate.ratios import Ratio

CPU: Final = torch.device("cpu")
SIZES: Final = {
    "rms_norm.triton": {"m": 64, "n": 1024},
    "silu_and_mul.triton": {"m": 64, "n": 1024},
    "svdq_quantize_w4a4_act_fuse_lora.triton": {"m": 64, "k": 256, "r": 32},
    "svdq_gemm_w4a4.triton": {"m": 64, "n": 64, "k": 256, "r": 32},
}


def overhead(kernel: Kernel, op: Op) -> list[list[float]]:
    """Seconds of a whole case, of the bare emulated call, and of the reference, by rounds."""
    case = Case(
        kernel=kernel.name,
        sizes=tuple(SIZES[kernel.name].items()),
        dtype="bfloat16",
        params=tuple((name, next(iter(labels))) for name, labels in op.params.items()),
    )
    call = build(op, case, CPU)

    def whole() -> None:
        made, seen = execute(op, kernel, case, CPU)
        judge(op, seen, evaluate(op, kernel, case, made.tensors))

    def bare() -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(emulate())
            kernel.function(**call.arguments)

    return rounds(whole, bare, lambda: evaluate(op, kernel, case, call.tensors))


def process(*arguments: str) -> Callable[[], object]:
    """A Python process with these arguments, to be timed."""
    return lambda: subprocess.run([sys.executable, *arguments], check=False, capture_output=True)


def _import_milliseconds() -> float:
    """What importing the plugin takes in a fresh process that has imported pytest."""
    timed = (
        "import time, pytest; start = time.perf_counter(); import harness.plugin; "
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, text=True)
    return 1000 * float(done.stdout)


def measure() -> Iterator[Ratio]:
    """Print one line a figure; yields those that are ratios."""
    added = min(_import_milliseconds() for _ in range(REPEATS))
    print(f"start-up: the plugin adds {added:.0f} ms to pytest's import")
    torch_alone, collected = rounds(
        process("-c", "import torch, triton, hypothesis"),
        process("-m", "pytest", "-q", "--collect-only", "suites"),
    )
    print(
        f"collection of everything: {min(collected):.2f} s, of which importing torch, triton and "
        f"hypothesis {min(torch_alone):.2f} s"
    )
    yield ratio_of("collection/imports alone", collected, torch_alone, CPU, better="lower")
    registry.load_all(("references", "kernels"))
    for kernel in map(registry.kernel, SIZES):
        yield of_case(kernel)
    isolation.overhead("rms_norm.triton", "cpu")
    yield from comparison.on_cpu()
    if archs := devices.present_archs():
        isolation.overhead("rms_norm.triton", archs[0])
        device = devices.first_device(archs[0])
        yield from comparison.on_cuda(device, comparison.GPU_SIZE, [None])
        yield from gemm.on_cuda(device)
        yield from nvfp4.on_cuda(device)
        if devices.twins(device):
            scaling.on_devices(scaling.DEVICES, control=False)


def of_case(kernel: Kernel) -> Ratio:
    """Print what an emulated case costs beside a bare call and the reference; returns the ratio."""
    found = overhead(kernel, registry.op(kernel.op))
    whole, call, reference = map(min, found)
    print(
        f"{kernel.name}: an emulated case {1000 * whole:.1f} ms ="
        f" {whole / (call + reference):.2f} x (bare call {1000 * call:.1f} ms +"
        f" reference {1000 * reference:.1f} ms)"
    )
    parts = [sum(both) for both in zip(*found[1:], strict=True)]
    return ratio_of(f"{kernel.name}/case, call + reference", found[0], parts, CPU, better="lower")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; with ``--json`` the ratios are kept. Ends with status 2 where they could not be."""
    parser = argparse.ArgumentParser(prog="python -m suites.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the ratios to this file")
    asked = parser.parse_args(arguments)
    if asked.json:
        try:
            measured.require_writable(asked.json)
        except OSError as error:
            parser.error(f"--json: {error}")
    ratios = list(measure())
    if asked.json:
        measured.write(asked.json, ratios)


if __name__ == "__main__":
    main()
