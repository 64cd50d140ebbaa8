"""Prints what the harness costs: start-up, collection, cases beside bare calls, comparisons."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices
from harness import registry
from harness.case import Case
from harness.emulation import emulate
from harness.execute import build, execute
from harness.judge import judge
from harness.reference import evaluate
from suites.bench import comparison, gemm, isolation, nvfp4, scaling

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.declare import Kernel, Op

REPEATS: Final = 11
CPU: Final = torch.device("cpu")
SIZES: Final = {
    "rms_norm.triton": {"m": 64, "n": 1024},
    "silu_and_mul.triton": {"m": 64, "n": 1024},
    "svdq_quantize_w4a4_act_fuse_lora.triton": {"m": 64, "k": 256, "r": 32},
    "svdq_gemm_w4a4.triton": {"m": 64, "n": 64, "k": 256, "r": 32},
}


def seconds(*runs: Callable[[], object]) -> list[float]:
    """Least seconds of each over the repeats, taken in turns: what disturbs one disturbs all."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [min(found[1:]) for found in times]


def overhead(kernel: Kernel, op: Op) -> list[float]:
    """Seconds of a whole case, of the bare emulated call, and of the reference."""
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

    return seconds(whole, bare, lambda: evaluate(op, kernel, case, call.tensors))


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


def main() -> None:
    """Print one line a figure."""
    added = min(_import_milliseconds() for _ in range(REPEATS))
    print(f"start-up: the plugin adds {added:.0f} ms to pytest's import")
    torch_alone, collected = seconds(
        process("-c", "import torch, triton, hypothesis"),
        process("-m", "pytest", "-q", "--collect-only", "suites"),
    )
    print(
        f"collection of everything: {collected:.2f} s, of which importing torch, triton and "
        f"hypothesis {torch_alone:.2f} s"
    )
    registry.load_all(("references", "kernels"))
    for kernel in filter(lambda each: each.emulated, registry.kernels()):
        whole, call, reference = overhead(kernel, registry.op(kernel.op))
        print(
            f"{kernel.name}: an emulated case {1000 * whole:.1f} ms ="
            f" {whole / (call + reference):.2f} x (bare call {1000 * call:.1f} ms +"
            f" reference {1000 * reference:.1f} ms)"
        )
    isolation.overhead("rms_norm.triton", "cpu")
    comparison.on_cpu()
    if archs := devices.present_archs():
        isolation.overhead("rms_norm.triton", archs[0])
        device = devices.first_device(archs[0])
        comparison.on_cuda(device, comparison.GPU_SIZE, [None])
        gemm.on_cuda(device)
        nvfp4.on_cuda(device)
        if devices.twins(device):
            scaling.on_devices(scaling.DEVICES, control=False)


if __name__ == "__main__":
    main()
