"""On a GPU: each tool finds the fault that it exists for, and nothing in the same kernel without.

These are faults that a comparison of results may well miss: the kernel's results are right.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from harness import registry
from harness.device import present_archs
from harness.sanitizer import TOOLS, Sanitizer, cases_of, find, judge
from suites.meta.scale_cuda import require_compiler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.sanitizer import Finding, Outcome

pytestmark = pytest.mark.gpu

DECLARED: Final = """
import ctypes
from functools import partial

import torch

from harness import device, kernel, op, size
from harness.nvrtc import Function, Source

TEXT = '''
enum { SOUND, OUTSIDE, RACE, UNWRITTEN, MISUSED };

__global__ void sums(const float* x, float* y, const float* space, int m, int n) {
  __shared__ float parts[64];
  const int row = blockIdx.x, t = threadIdx.x;
  float sum = 0;
  for (int k = t; k < n; k += 64) sum += x[row * n + k];
  parts[t] = sum;
  // A mask without the threads that wait for it: undefined, but it does not hang.
  if (FAULT == MISUSED) __syncwarp(t < 32 ? 0xffffffffu : 1u);
  if (FAULT != RACE) __syncthreads();
  if (t == 0) {
    float total = 0;
    for (int i = 0; i < 64; ++i) total += parts[i];
    if (FAULT == UNWRITTEN && space[row] == 12345.0f) total = 0;
    y[row] = total;
    if (FAULT == OUTSIDE && row == m - 1) y[m] = total;
  }
}
'''
KINDS = {
    "x": "float32", "y": "float32", "space": "float32", "m": ctypes.c_int32, "n": ctypes.c_int32,
}


@op(
    inputs={"x": "m n"},
    outputs={"y": "m"},
    domain={"m": size(2, 64), "n": size(100, 300)},
    dtypes=("float32",),
    sums_over="n",
)
def row_sums(x):
    return x.sum(1)


def launch(function, x):
    device.require_arch(x.device, ">=sm80")
    y, space = torch.empty(len(x), device=x.device), torch.empty(len(x), device=x.device)
    function.launch(x, y, space, *x.shape, grid=len(x), block=64)
    return y


for fault in ("sound", "outside", "race", "unwritten", "misused"):
    source = Source(name="sums.cu", kernel="sums", text=TEXT, defines={"FAULT": fault.upper()})
    function = partial(launch, Function(source, KINDS, __name__))
    kernel("row_sums", backend="cuda", arch=">=sm80", variant=fault, emulated=False)(function)
"""
FAULTS: Final = {
    "memcheck": ("outside", "Invalid __global__ write of size 4 bytes"),
    "racecheck": ("race", "Race reported between"),
    "initcheck": ("unwritten", "Uninitialized __global__ memory read of size 4 bytes"),
    "synccheck": ("misused", "Barrier error detected"),
}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A file that declares the kernels, for the time of the test."""
    require_compiler()
    path = tmp_path / "sums_with_faults.py"
    path.write_text(DECLARED)
    with registry.scratch():
        registry.load(str(path))
        yield str(path)
    sys.modules.pop(f"{registry.FILE_PREFIX}{path.stem}", None)


def found(path: str, tool: str, variant: str) -> tuple[Outcome, tuple[Finding, ...]]:
    """What a tool says of a kernel on one case, on this machine's first GPU."""
    cases = cases_of(registry.op("row_sums"), registry.kernel(f"row_sums.cuda.{variant}"))[:1]
    sanitizer = Sanitizer(path=find(), arch=present_archs()[0], declare=(path,), seconds=120)
    return judge(sanitizer, tool, cases)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_sound_kernel_is_clean(path: str, tool: str) -> None:
    outcome, findings = found(path, tool, "sound")
    assert [finding.words for finding in findings] == []
    assert (outcome.ended, outcome.launches, outcome.report.errors) == (1, 1, 0)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tools_own_fault_is_found_with_its_case_and_kernel(path: str, tool: str) -> None:
    variant, head = FAULTS[tool]
    _, findings = found(path, tool, variant)
    words = " / ".join(finding.words for finding in findings)
    assert head in words
    assert " in sums" in words
    assert findings[0].case.startswith(f"row_sums.cuda.{variant}/m=")
