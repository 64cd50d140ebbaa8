"""Machine code of any backend, read: instructions, registers, memory, and whether it fits."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import arch as arches

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "SHARED_LIMITS",
    "Artifact",
    "CompileFailed",
    "InspectionFailed",
    "inspect",
    "require_fit",
    "require_known",
]

# Bytes of shared memory that one block may ask for: "maximum amount of shared memory per thread
# block" of the CUDA C++ Programming Guide's table of technical specifications. Compilers accept
# any size; it is compared at load time or at the launch only.
SHARED_LIMITS: Final = {
    "sm80": 163 * 1024,
    "sm86": 99 * 1024,
    "sm89": 99 * 1024,
    "sm90": 227 * 1024,
    "sm100": 227 * 1024,
    "sm103": 227 * 1024,
    "sm120": 99 * 1024,
}
# From sm90 on the system takes 1 KiB per block for itself, and cuobjdump counts it.
_SYSTEM_SHARED: Final = 1024
_REGISTERS: Final = 64 * 1024  # of one multiprocessor, and at most of one block
_REGISTER_UNIT: Final = 8  # registers of a thread are handed out in eights


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
    (``STL``, ``LDL``). A Triton kernel has nothing there but what did not fit into registers. A
    CUDA kernel may also have put an array there that it indexes at run time: that costs the same
    and mostly is a loop that was not unrolled, so it counts too, until it is declared with a
    reason. ``stack_bytes`` alone is no fault: a call of a function that was not inlined has a
    frame and touches none of it.

    ``shared_bytes`` is what the launch asks for, static and dynamic, without the 1 KiB that the
    system takes per block. ``ptx`` is empty where the compiler keeps none.
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
        """Whether local memory is ever touched."""
        return self.spill_stores + self.spill_loads > 0

    def find(self, pattern: str) -> tuple[str, ...]:
        """Return the SASS instructions in which a regular expression is found, in order."""
        wanted = re.compile(pattern)
        return tuple(line for line in _instructions(self.sass) if wanted.search(line))


def require_known(arch: str) -> None:
    """Raise ValueError for an arch of which it is not known what a block may use."""
    if arch not in SHARED_LIMITS:
        msg = f"arch={arch!r} is not known here; use one of {', '.join(SHARED_LIMITS)}"
        raise ValueError(msg)


def inspect(
    cubin: bytes,
    *,
    arch: str,
    kernel: str,
    symbol: str,
    warps: int,
    dynamic_shared: int,
    ptx: str = "",
) -> Artifact:
    """Read the machine code of the function ``symbol``; a cubin may hold others beside it.

    Raises InspectionFailed if the disassembler at hand is too old for ``arch``.
    """
    dump = _dump(cubin, arch)
    sass, usage = _sass_of(dump, symbol), _resources(dump, symbol)
    system = _SYSTEM_SHARED if arches.number(arch) >= (9, 0) else 0
    return Artifact(
        arch=arch,
        kernel=kernel,
        ptx=ptx,
        cubin=cubin,
        sass=sass,
        registers=usage["REG"],
        shared_bytes=max(usage["SHARED"] - system, 0) + dynamic_shared,
        stack_bytes=usage["STACK"],
        local_bytes=usage["LOCAL"],
        spill_stores=_count(sass, "STL"),
        spill_loads=_count(sass, "LDL"),
        warps=warps,
    )


def require_fit(artifact: Artifact) -> None:
    """Raise CompileFailed if a block needs more shared memory or registers than it may have."""
    limit = SHARED_LIMITS[artifact.arch]
    if artifact.shared_bytes > limit:
        needs = f"it needs {artifact.shared_bytes} bytes of shared memory, of {limit} in a block"
        raise CompileFailed(
            artifact.kernel, artifact.arch, f"{needs}; use smaller tiles or fewer stages"
        )
    each = -(-artifact.registers // _REGISTER_UNIT) * _REGISTER_UNIT
    if (registers := each * 32 * artifact.warps) > _REGISTERS:
        needs = f"{artifact.warps} warps need {registers} registers, of {_REGISTERS} in a block"
        raise CompileFailed(
            artifact.kernel, artifact.arch, f"{needs}; launch fewer, or bound them in the source"
        )


@functools.lru_cache(maxsize=64)
def _dump(cubin: bytes, arch: str) -> str:
    from triton import knobs  # its wheel brings the disassembler

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


def _sass_of(dump: str, symbol: str) -> str:
    """What ``-sass`` prints of one function, with its heading."""
    heading = rf"^\s*Function : {re.escape(symbol)}$"
    parts = re.split(r"(?m)^(?=\s*Function : )", dump)
    found = [part for part in parts if re.match(heading, part, re.MULTILINE)]
    if not found:
        msg = f"cuobjdump -sass printed no function {symbol!r}; its output: {dump[:400]!r}"
        raise InspectionFailed(msg)
    return found[0]


def _resources(dump: str, symbol: str) -> dict[str, int]:
    line = re.search(rf"^\s*Function {re.escape(symbol)}:\n(.*)$", dump, re.MULTILINE)
    words = re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", line[1] if line else "")
    found = {name: int(value) for name, value in words}
    missing = {"REG", "STACK", "LOCAL", "SHARED"} - found.keys()
    if missing:
        msg = (
            f"cuobjdump -res-usage did not print {sorted(missing)!r} of {symbol!r}; "
            f"its output: {dump[:400]!r}"
        )
        raise InspectionFailed(msg)
    return found


def _instructions(sass: str) -> Iterator[str]:
    for match in re.finditer(r"/\*[0-9a-f]{4,}\*/\s+([^;]+?)\s*;", sass):
        yield match.group(1)


def _count(sass: str, opcode: str) -> int:
    pattern = re.compile(rf"^(?:@!?U?P\w+\s+)?{opcode}\b")
    return sum(pattern.match(line) is not None for line in _instructions(sass))
