"""Machine code of any backend, read: instructions, registers, memory, and whether it fits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from harness import arch as arches
from harness.disassembly import Code, InspectionFailed, code_of, run_tool

__all__ = [
    "SHARED_LIMITS",
    "Artifact",
    "CompileFailed",
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
    code: Code
    registers: int
    shared_bytes: int
    stack_bytes: int
    local_bytes: int
    warps: int

    @property
    def spill_stores(self) -> int:
        """How many instructions write to local memory."""
        return self._count("STL")

    @property
    def spill_loads(self) -> int:
        """How many instructions read local memory."""
        return self._count("LDL")

    @property
    def spills(self) -> bool:
        """Whether local memory is ever touched."""
        return self.spill_stores + self.spill_loads > 0

    def find(self, pattern: str) -> tuple[str, ...]:
        """Return the SASS instructions in which a regular expression is found, in order."""
        wanted = re.compile(pattern)
        return tuple(line for line in self.code.instructions if wanted.search(line))

    def _count(self, opcode: str) -> int:
        return len(self.find(rf"^(?:@!?U?P\w+\s+)?{opcode}\b"))


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
    """Read what the function ``symbol`` needs; a cubin may hold others beside it.

    Its instructions are read when they are asked for, or by `disassembly.disassemble` with those of
    others. Raises InspectionFailed for what cannot be read.
    """
    usage = _resources(run_tool("cuobjdump", arch, cubin, "-res-usage"), symbol)
    system = _SYSTEM_SHARED if arches.number(arch) >= (9, 0) else 0
    return Artifact(
        arch=arch,
        kernel=kernel,
        ptx=ptx,
        cubin=cubin,
        code=code_of(cubin, symbol, arch),
        registers=usage["REG"],
        shared_bytes=max(usage["SHARED"] - system, 0) + dynamic_shared,
        stack_bytes=usage["STACK"],
        local_bytes=usage["LOCAL"],
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
