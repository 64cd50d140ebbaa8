"""Machine code is read by function, whoever compiled it, and held against what a block may have."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from harness import artifact, disassembly
from harness.disassembly import Code, InspectionFailed, disassemble
from harness.nvrtc import Source, compile_source
from suites.meta.scale_cuda import require_compiler

if TYPE_CHECKING:
    from pathlib import Path

CODE = Code(b"", "sm90")
CODE.instructions = ("@!P0 STL [R1], R2", "LDL.LU R2, [R1]", "EXIT")
PLAIN = artifact.Artifact(
    arch="sm90",
    kernel="gemm",
    ptx="",
    cubin=b"",
    code=CODE,
    registers=64,
    shared_bytes=0,
    stack_bytes=0,
    local_bytes=0,
    warps=4,
)
LOCAL = """
__global__ void indexed(float* x, int at) {
  float kept[32] = {};
  for (int i = 0; i < at; i++) kept[int(x[i]) % 32] += i;
  x[0] = kept[at % 32];
}
__global__ void plain(float* x, int at) { x[at] = 1; }
"""


def read(folder: Path, kernel: str, arch: str, **options: object) -> artifact.Artifact:
    require_compiler()
    source = Source(name="local.cu", text=LOCAL, kernel=kernel, options=options)
    made = compile_source(source, arch, folder=folder)
    return artifact.inspect(
        made.cubin, arch=arch, kernel=kernel, symbol=made.symbol, warps=1, dynamic_shared=0
    )


@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm120"])
def test_each_function_of_a_cubin_is_read_by_itself(tmp_path: Path, arch: str) -> None:
    indexed, plain = (read(tmp_path, kernel, arch) for kernel in ("indexed", "plain"))
    assert indexed.spills
    assert indexed.spill_stores > 0
    assert indexed.spill_loads > 0
    assert indexed.stack_bytes == 128
    assert not plain.spills
    assert plain.stack_bytes == 0
    assert len(plain.find(r"^(@\S+ )?STG")) == 1
    assert plain.registers < indexed.registers
    assert indexed.shared_bytes == plain.shared_bytes == 0  # less what the system takes on sm90


def test_an_unknown_function_is_an_error_that_shows_the_dump(tmp_path: Path) -> None:
    require_compiler()
    made = compile_source(Source("local.cu", LOCAL, "plain"), "sm80", folder=tmp_path)
    with pytest.raises(InspectionFailed, match=r"did not print .* of 'missing'.*Resource usage"):
        artifact.inspect(
            made.cubin, arch="sm80", kernel="k", symbol="missing", warps=1, dynamic_shared=0
        )


def test_a_damaged_cubin_is_an_error_that_names_the_tool() -> None:
    with pytest.raises(InspectionFailed, match=r"cuobjdump .* cannot read sm80"):
        artifact.inspect(b"no ELF", arch="sm80", kernel="k", symbol="k", warps=1, dynamic_shared=0)


def without_goal(line: str) -> str:
    """Where a branch goes is the one thing that depends on what else was read."""
    return re.sub(r"\b(BRA|BSSY)\b.*", r"\1", line)


def counted_tools(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that were run, as they are."""
    seen = list[str]()
    run = disassembly.run_tool

    def counting(tool: str, *arguments: Any) -> str:  # noqa: ANN401 - whatever it is given
        seen.append(tool)
        return run(tool, *arguments)

    monkeypatch.setattr(disassembly, "run_tool", counting)
    return seen


def test_kernels_read_together_are_what_each_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [(k, arch) for k in ("indexed", "plain", "indexed") for arch in ("sm80", "sm90")]
    alone = [read(tmp_path, *each).code.instructions for each in wanted]
    together = [read(tmp_path, *each).code for each in wanted]
    seen = counted_tools(monkeypatch)
    disassemble(together)
    found = [[without_goal(line) for line in each.instructions] for each in together]
    assert found == [[without_goal(line) for line in each] for each in alone]
    assert len(alone[0]) != len(alone[2])
    assert seen == ["nvdisasm"] * 2  # one for each arch


@pytest.mark.parametrize("change", ["lost", "added"])
def test_code_that_is_not_printed_whole_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    made = read(tmp_path, "plain", "sm80").code
    printed = "".join(f"/*{16 * i:04x}*/ {line} ;\n" for i, line in enumerate(made.instructions))
    line = "/*ffff*/ NOP ;\n"
    text = printed.partition("\n")[2] if change == "lost" else printed + line
    monkeypatch.setattr(disassembly, "run_tool", lambda *_: text)
    with pytest.raises(InspectionFailed, match="an instruction for every 16 bytes"):
        disassemble([made])


@pytest.mark.parametrize(
    ("cubin", "said"), [(b"no ELF", "of 6 bytes is no cubin"), (b"", "of 0 bytes is no cubin")]
)
def test_code_of_what_is_no_cubin_is_an_error(cubin: bytes, said: str) -> None:
    with pytest.raises(InspectionFailed, match=said):
        disassembly.code_of(cubin, "k", "sm80")


def test_code_of_an_unknown_function_is_an_error_that_names_those_there(tmp_path: Path) -> None:
    require_compiler()
    made = compile_source(Source("local.cu", LOCAL, "plain"), "sm80", folder=tmp_path)
    with pytest.raises(InspectionFailed, match=rf"no function 'k'.* is .text.{made.symbol}\b"):
        disassembly.code_of(made.cubin, "k", "sm80")


def test_instructions_are_found_by_a_pattern_in_order() -> None:
    assert PLAIN.find("STL|LDL") == ("@!P0 STL [R1], R2", "LDL.LU R2, [R1]")
    assert PLAIN.find("HGMMA") == ()
    assert PLAIN.spill_stores == PLAIN.spill_loads == 1


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"shared_bytes": 227 * 1024}, ""),
        ({"shared_bytes": 227 * 1024 + 1}, "232449 bytes of shared memory, of 232448 in a block"),
        ({"registers": 128, "warps": 16}, ""),
        ({"registers": 129, "warps": 16}, "16 warps need 69632 registers, of 65536 in a block"),
        ({"registers": 61, "warps": 32}, ""),
    ],
)
def test_a_block_has_bounds(needs: dict[str, int], said: str) -> None:
    made = replace(PLAIN, **needs)  # type: ignore[arg-type]
    if not said:
        artifact.require_fit(made)
        return
    with pytest.raises(artifact.CompileFailed, match=said):
        artifact.require_fit(made)
