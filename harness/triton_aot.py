"""A captured Triton launch is compiled for any arch, without a GPU, as on a GPU of that arch."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import subprocess
import tempfile
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import arch as arches
from harness import launches

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Artifact", "CompileFailed", "InspectionFailed", "compile_launch"]

# Bytes of shared memory that one block may ask for: "maximum amount of shared memory per thread
# block" of the CUDA C++ Programming Guide's table of technical specifications. Triton compares at
# load time only, so that its compiler alone accepts any size.
_SHARED_LIMITS = {
    "sm80": 163 * 1024,
    "sm86": 99 * 1024,
    "sm89": 99 * 1024,
    "sm90": 227 * 1024,
    "sm100": 227 * 1024,
    "sm103": 227 * 1024,
    "sm120": 99 * 1024,
}
_TENSOR_MEMORY_COLUMNS = 512  # of one multiprocessor, from sm100 on

_lock = threading.RLock()


class CompileFailed(RuntimeError):
    """A kernel cannot run on an arch: the compiler refuses, or a block lacks what it needs."""

    def __init__(self, kernel: str, arch: str, message: str) -> None:
        super().__init__(f"{kernel} does not compile for {arch}: {message}")
        self.kernel = kernel
        self.arch = arch
        self.message = message


class InspectionFailed(RuntimeError):
    """The kernel compiled, and the disassembler at hand cannot read the arch."""


@dataclass(frozen=True)
class Artifact:
    """Machine code of one kernel for one arch, and what it needs of a multiprocessor.

    ``spill_stores`` and ``spill_loads`` count the SASS instructions that touch local memory
    (``STL``, ``LDL``): a Triton kernel has nothing there but what did not fit into registers.
    ``shared_bytes`` is what the launch asks for, without the 1 KiB that the system takes per block.
    """

    arch: str
    kernel: str
    ptx: str
    cubin: bytes
    sass: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    local_bytes: int
    spill_stores: int
    spill_loads: int
    warps: int

    @property
    def spills(self) -> bool:
        """Whether a register was ever kept in local memory."""
        return self.spill_stores + self.spill_loads > 0

    def find(self, pattern: str) -> tuple[str, ...]:
        """Return the SASS instructions in which a regular expression is found, in order."""
        wanted = re.compile(pattern)
        return tuple(line for line in _instructions(self.sass) if wanted.search(line))


def compile_launch(launch: launches.Launch, arch: str) -> Artifact:
    """Compile what ``launch`` would run on ``arch``, through Triton's own disk cache.

    The launch's arguments decide the specialisation, as they do on a device: pointers aligned to 16
    bytes, integers divisible by 16, integers equal to 1, constants, ``num_warps`` and the other
    options.

    The reason that one of the compiler's passes has for failing goes to stderr, where pytest shows
    it.

    Raises:
        CompileFailed: the compiler refuses, or the kernel needs more memory than a block may have.
        InspectionFailed: the triton at hand is too old to disassemble for ``arch``.
        ValueError: unknown arch, or a launch that is not Triton's.
    """
    if arch not in _SHARED_LIMITS:
        msg = f"arch={arch!r} is not known here; use one of {', '.join(_SHARED_LIMITS)}"
        raise ValueError(msg)
    if launch.backend != "triton":
        msg = f"backend={launch.backend!r} of the launch of {launch} is not 'triton'"
        raise ValueError(msg)
    kernel = f"{launch.module}.{launch.name}"
    try:
        compiled = _compile(launch, arch)
    # The compiler's passes raise what they like: RuntimeError, AssertionError, PTXASError...
    except Exception as error:
        raise CompileFailed(kernel, arch, _message_of(error)) from error
    if compiled is None:
        raise CompileFailed(
            kernel, arch, "triton.knobs.runtime.jit_cache_hook vetoed the compilation; unset it"
        )
    artifact = _inspect(compiled, kernel, arch)
    _require_fit(artifact, compiled)
    return artifact


def _compile(launch: launches.Launch, arch: str) -> Any:
    bound = inspect.BoundArguments(launch.function.signature, OrderedDict(launch.arguments))
    with launches.suspended(), _compiling_for(arch), warnings.catch_warnings():
        # A warning is no failure to compile, even where warnings are errors. Triton 3.9 gives this
        # one to whoever compiles first.
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
        return launch.function.run(
            *bound.args, grid=launch.grid, warmup=True, **bound.kwargs, **launch.options
        )


class _Target:
    """As much of a Triton driver as a compilation asks for, for a device that need not exist."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = arches.number(self._arch)
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> str:
        # The key of JITFunction.device_caches: no real device, so no real launch meets our code.
        return f"compiled for {self._arch}"

    def get_device_capability(self, _device: object = None) -> tuple[int, int]:
        return arches.number(self._arch)

    def get_current_stream(self, _device: object = None) -> int:
        return 0


@contextlib.contextmanager
def _compiling_for(arch: str) -> Iterator[None]:
    from triton.runtime import driver

    with _lock:
        # `driver.active` would create the real driver, which fails where there is no GPU.
        before = driver._active
        driver.set_active(_Target(arch))
        try:
            yield
        finally:
            driver._active = before


def _message_of(error: BaseException) -> str:
    """All causes: Triton wraps an error in a helper function into one error for each caller."""
    messages = [f"{type(error).__name__}: {error}"]
    while error.__cause__ is not None:
        error = error.__cause__
        messages.append(f"{type(error).__name__}: {error}")
    return "\n".join(messages)


def _inspect(compiled: Any, kernel: str, arch: str) -> Artifact:
    cubin: bytes = compiled.asm["cubin"]
    sass = _dump(cubin, arch)
    usage = _resources(sass)
    return Artifact(
        arch=arch,
        kernel=kernel,
        ptx=compiled.asm["ptx"],
        cubin=cubin,
        sass=sass,
        registers=usage["REG"],
        shared_bytes=compiled.metadata.shared,
        stack_bytes=usage["STACK"],
        local_bytes=usage["LOCAL"],
        spill_stores=_count(sass, "STL"),
        spill_loads=_count(sass, "LDL"),
        warps=compiled.metadata.num_warps,
    )


@functools.lru_cache(maxsize=64)
def _dump(cubin: bytes, arch: str) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-sass", "-res-usage", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        remedy = (
            "point triton.knobs.nvidia.cuobjdump and nvdisasm to newer ones, or use a newer triton"
        )
        tool = f"cuobjdump {knobs.nvidia.cuobjdump.version}"
        msg = f"{tool} cannot read {arch}: {done.stderr.strip()}; {remedy}"
        raise InspectionFailed(msg)
    return done.stdout


def _resources(dump: str) -> dict[str, int]:
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", dump)}
    missing = {"REG", "STACK", "LOCAL"} - found.keys()
    if missing:
        msg = f"cuobjdump -res-usage did not print {sorted(missing)!r}; its output: {dump[:400]!r}"
        raise InspectionFailed(msg)
    return found


def _instructions(sass: str) -> Iterator[str]:
    for match in re.finditer(r"/\*[0-9a-f]{4,}\*/\s+([^;]+?)\s*;", sass):
        yield match.group(1)


def _count(sass: str, opcode: str) -> int:
    pattern = re.compile(rf"^(?:@!?U?P\w+\s+)?{opcode}\b")
    return sum(pattern.match(line) is not None for line in _instructions(sass))


def _require_fit(artifact: Artifact, compiled: Any) -> None:
    limit = _SHARED_LIMITS[artifact.arch]
    if artifact.shared_bytes > limit:
        needs = f"it needs {artifact.shared_bytes} bytes of shared memory, of {limit} in a block"
        raise CompileFailed(
            artifact.kernel, artifact.arch, f"{needs}; use smaller tiles or fewer stages"
        )
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    if columns > _TENSOR_MEMORY_COLUMNS:
        needs = (
            f"it needs {columns} columns of tensor memory and a block has {_TENSOR_MEMORY_COLUMNS}"
        )
        raise CompileFailed(artifact.kernel, artifact.arch, f"{needs}; use smaller tiles")
