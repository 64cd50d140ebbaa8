"""A small CUDA kernel to compile and to launch, and what says that there is no compiler."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from harness import backends
from harness.nvrtc import Function, Source
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.kernel_arguments import Kind

TEXT: Final = """
#include <cuda_fp16.h>
#include "factors/twice.h"

template <typename T, int TIMES>
__global__ void scale(const T* x, T* y, int n, float factor) {
  extern __shared__ float staged[];
  __shared__ float fixed[64];
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  fixed[threadIdx.x % 64] = TIMES * TWICE(float(at < n ? x[at] : T(0))) * factor;
  staged[threadIdx.x] = fixed[threadIdx.x % 64];
  if (at < n) y[at] = T(staged[threadIdx.x] * SIGN);
}

// Compiled along with what is asked for, and not to be taken for it.
__global__ void other(int* y) { y[threadIdx.x] = 0; }
"""
SOURCE: Final = Source(
    name="scale.cu",
    text=TEXT,
    kernel="scale<__half, 3>",
    headers={"factors/twice.h": "#define TWICE(x) (2.0f * (x))"},
    defines={"SIGN": "-1.0f"},
)
PARAMETERS: Final[Mapping[str, Kind]] = {
    "x": "float16",
    "y": "float16",
    "n": ctypes.c_int32,
    "factor": ctypes.c_float,
}


def function(folder: Path | None, source: Source = SOURCE) -> Function:
    """The kernel, with a cache of its own."""
    return Function(source, PARAMETERS, __name__, folder)


def require_compiler() -> None:
    """Skip the test that calls this where there is no NVRTC, with what to install."""
    try:
        backends.require("cuda")
    except backends.BackendMissing as error:
        raise Unavailable(str(error)) from error
