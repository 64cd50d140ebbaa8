"""A small kernel in the CuTe DSL to compile and to launch, and what says that there is none."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from harness import backends
from harness.cutedsl import Source, function_of
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.kernel_arguments import Kind
    from harness.native import Function

TEXT: Final = """
import cutlass
from cutlass import cute


@cute.kernel
def times(x: cute.Pointer, y: cute.Pointer, n: cutlass.Int32, factor: cutlass.Float32,
          THREADS: cutlass.Constexpr, TIMES: cutlass.Constexpr):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    at = block * THREADS + thread
    if at < n:
        here = cute.make_tensor(x + at, cute.make_layout(1))
        there = cute.make_tensor(y + at, cute.make_layout(1))
        there[0] = cutlass.Float16(cutlass.Float32(here[0]) * factor * float(TIMES))


@cute.jit
def scale(x: cute.Pointer, y: cute.Pointer, n: cutlass.Int32, factor: cutlass.Float32,
          THREADS: cutlass.Constexpr, TIMES: cutlass.Constexpr):
    times(x, y, n, factor, THREADS, TIMES).launch(grid=[1, 1, 1], block=[THREADS, 1, 1])
"""
PARAMETERS: Final[Mapping[str, Kind]] = {
    "x": "float16",
    "y": "float16",
    "n": ctypes.c_int32,
    "factor": ctypes.c_float,
}
SOURCE: Final = Source(
    name="scale.py",
    text=TEXT,
    kernel="scale",
    parameters=PARAMETERS,
    constants={"THREADS": 128, "TIMES": 3},
)


def function(folder: Path | None, source: Source = SOURCE) -> Function:
    """The kernel, with a cache of its own."""
    return function_of(source, __name__, folder=folder)


def require_compiler() -> None:
    """Skip the test that calls this where there is no CuTe DSL, with what to install."""
    try:
        backends.require("cutedsl")
    except backends.BackendMissing as error:
        raise Unavailable(str(error)) from error
