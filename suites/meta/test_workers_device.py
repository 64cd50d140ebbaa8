"""On a GPU: workers see devices of their own and hold no more of them than they were given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import torch

import harness
from harness import device as devices
from harness import machine, record, registry, strategies, workers
from harness.arch import CPU
from harness.case import Case
from harness.execute import execute
from harness.judge import judge
from harness.reference import evaluate
from harness.workers import GIB, Place

if TYPE_CHECKING:
    from harness.declare import Kernel

pytestmark = pytest.mark.gpu
ROOT: Final = Path(harness.__file__).parents[1]
# What a process is: its own device, and another that it may use, by their UUIDs.
SEES: Final = """
import torch
from harness import device

own = device.first_device(device.present_archs()[0])
print(*(torch.cuda.get_device_properties(d).uuid for d in (own, *device.twins(own))))
"""
HOLDS: Final = """
import torch
from harness import device

own = device.first_device(device.present_archs()[0])
kept = torch.empty(2**30, dtype=torch.uint8, device=own)
try:
    torch.empty(2 * 2**30, dtype=torch.uint8, device=own)
except torch.OutOfMemoryError:
    print("bounded", device.room(), device.held() // 2**30)
"""


def said(script: str, place: Place) -> str:
    """What a script prints in a process at a place."""
    environment = {**os.environ, **workers.environment(place)}  # noqa: TID251
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_the_driver_tells_what_torch_tells() -> None:
    told = [(gpu.arch, gpu.memory) for gpu in machine.here().gpus]
    seen = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]  # noqa: TID251
    memory = [torch.cuda.get_device_properties(each).total_memory for each in seen]  # noqa: TID251
    assert [arch for arch, _ in told] == [devices.arch_of(each) for each in seen]
    # A driver's figure, and what it leaves for use.
    assert all(0 <= of - is_ <= GIB for (_, of), is_ in zip(told, memory, strict=True))


def test_each_worker_has_another_device_and_a_twin() -> None:
    found = machine.here()
    count = len(found.gpus)
    uuids = [str(torch.cuda.get_device_properties(n).uuid) for n in range(count)]  # noqa: TID251
    for number, place in enumerate(workers.places(found, count)):
        seen = said(SEES, place).split()
        assert seen[0] == uuids[number]
        same = [gpu.name for gpu in found.gpus if gpu.arch == found.gpus[number].arch]
        assert len(seen) == min(2, len(same))
        assert len(set(seen)) == len(seen)


def test_no_process_holds_more_than_its_room() -> None:
    name = machine.here().gpus[0].name
    room = 3 * GIB // 2
    assert said(HOLDS, Place((name,), (room,))) == f"bounded {room} 1"


def test_workers_run_on_their_devices(tmp_path: Path) -> None:
    """The check that takes a second device has one, where the machine has two of an arch."""
    arch, count = devices.present_archs()[0], len(devices.visible(devices.present_archs()[0]))
    path = tmp_path / "records.jsonl"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cases=3"),
        *(f"--numprocesses={min(count, 4)}", "--dist=worksteal", f"--records={path}"),
        *("--pyargs", "suites.numeric.test_numeric::test_repeats_its_results"),
        *("-m", arch, "--kernel=rms_norm.triton"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout
    made = list(record.read(path))
    figure = "second_device" if count > 1 else "second_device_skipped"
    assert [r.figures[figure] for r in made] == [r.cases for r in made]
    assert len(made) == 3


LARGEST: Final = {
    "rms_norm.triton": ("float32", {"m": 2**12, "n": 2**10}),
    "svdq_gemm_w4a4.triton": ("bfloat16", {"m": 2**11, "n": 2**11, "k": 2**11, "r": 32}),
    "nvfp4_gemm.triton": ("bfloat16", {"m": 2**11, "n": 2**11, "k": 2**11}),
}


def _loaded(name: str) -> Kernel:
    registry.load_all(("references", "kernels"))
    return registry.kernel(name)


@pytest.mark.parametrize("name", LARGEST)
def test_a_case_holds_no_more_than_is_counted_on(name: str) -> None:
    kernel = _loaded(name)
    dtype, sizes = LARGEST[name]
    op, device = registry.op(kernel.op), devices.first_device(devices.present_archs()[0])
    assert device.type != CPU
    case = Case(
        kernel=name,
        sizes=tuple(sizes.items()),
        dtype=dtype,
        params=tuple((param, next(iter(labels))) for param, labels in op.params.items()),
    )

    def run() -> None:
        call, seen = execute(op, kernel, case, device)
        assert not judge(op, seen, evaluate(op, kernel, case, call.tensors)).problems

    run()  # compiles, and lets libraries have their workspaces
    held = devices.peak_memory(run, device) / op.elements(sizes)
    print(f"{name}: {held:.0f} bytes an element")  # noqa: T201 - what the bound rests on
    assert held < strategies.ELEMENT_BYTES
