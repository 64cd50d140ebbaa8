"""Machine code as SASS; what many kernels need is read by one process, whose start is the cost."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.arch import target_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Code", "InspectionFailed", "code_of", "disassemble", "run_tool"]

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_INSTRUCTION_BYTES: Final = 16  # since sm70
_INSTRUCTION: Final = re.compile(r"/\*[0-9a-f]{4,}\*/\s+([^;]+?)\s*;")


class InspectionFailed(RuntimeError):
    """The kernel compiled, and the tools at hand cannot read the arch or the file."""


class Code:
    """The instructions of one kernel, disassembled when they are first asked for.

    Raises InspectionFailed then, if the disassembler at hand is too old for ``arch``.
    """

    def __init__(self, content: bytes, arch: str) -> None:
        self.content = content
        self.arch = arch

    @cached_property
    def instructions(self) -> tuple[str, ...]:
        """One line of SASS each, in order."""
        return _read([self.content], self.arch)[0]


def disassemble(codes: Iterable[Code]) -> None:
    """Read the instructions of many kernels, with one process for each arch.

    Of the 0.3 seconds that a process takes, nearly all go into its start. The address that a branch
    goes to counts from where the first of the kernels begins.
    """
    of_arch = defaultdict[str, list[Code]](list)
    for each in codes:
        of_arch[each.arch].append(each)
    for arch, group in of_arch.items():
        contents = list(dict.fromkeys(each.content for each in group))
        found = dict(zip(contents, _read(contents, arch), strict=True))
        for each in group:
            each.instructions = found[each.content]


def code_of(cubin: bytes, symbol: str, arch: str) -> Code:
    """The code of the function ``symbol``; a cubin may hold others beside it.

    Raises InspectionFailed if it has none of that name, or is no cubin.
    """
    try:
        sections = _sections(cubin)
    except (struct.error, IndexError, ValueError) as error:
        msg = f"{cubin[:8]!r}... of {len(cubin)} bytes is no cubin: {error}"
        raise InspectionFailed(msg) from error
    found = sections.get(f".text.{symbol}")
    if found is None:
        known = sorted(name for name in sections if name.startswith(".text."))
        msg = f"the cubin has no function {symbol!r}; its code is {', '.join(known) or 'none'}"
        raise InspectionFailed(msg)
    return Code(found, arch)


class _Section(NamedTuple):
    """A section's header, as ELF has it."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


def _sections(elf: bytes) -> dict[str, bytes]:
    header = _HEADER.unpack_from(elf)
    start, size, count, names_at = header[6], *header[11:14]
    places = range(start, start + size * count, size)
    found = [_Section(*_SECTION.unpack_from(elf, place)) for place in places]
    names = found[names_at].offset
    return {
        elf[names + each.name : elf.index(b"\0", names + each.name)].decode(): elf[
            each.offset : each.offset + each.size
        ]
        for each in found
    }


def _read(contents: list[bytes], arch: str) -> list[tuple[str, ...]]:
    """The instructions of each, read as one piece of code, which is cut again where they end."""
    target = target_of(arch, specific=True).replace("sm_", "SM")
    text = run_tool("nvdisasm", arch, b"".join(contents), "-b", target)
    lines = iter(_INSTRUCTION.findall(text))
    counts = [len(content) // _INSTRUCTION_BYTES for content in contents]
    found = [tuple(line for _, line in zip(range(count), lines, strict=False)) for count in counts]
    if [len(each) for each in found] != counts or next(lines, None) is not None:
        msg = f"nvdisasm -b {target} did not print an instruction for every 16 bytes of code"
        raise InspectionFailed(msg)
    return found


def run_tool(tool: str, arch: str, content: bytes, *options: str) -> str:
    """What ``cuobjdump`` or ``nvdisasm`` of triton's wheel prints of a file with ``content``."""
    from triton import knobs

    found = getattr(knobs.nvidia, tool)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(content)
        command = [found.path, *options, str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        remedy = f"point triton.knobs.nvidia.{tool} to a newer one, or use a newer triton"
        msg = f"{tool} {found.version} cannot read {arch}: {done.stderr.strip()}; {remedy}"
        raise InspectionFailed(msg)
    return done.stdout
