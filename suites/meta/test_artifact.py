"""Machine code is read by function, whoever compiled it, and held against what a block may have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import artifact
from harness.nvrtc import Source, compile_source
from suites.meta.scale_cuda import require_compiler

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = artifact.Artifact(
    arch="sm90",
    kernel="gemm",
    ptx="",
    cubin=b"",
    sass="/*0000*/ @!P0 STL [R1], R2 ;\n/*0010*/ LDL.LU R2, [R1] ;\n/*0020*/ EXIT ;\n",
    registers=64,
    shared_bytes=0,
    stack_bytes=0,
    local_bytes=0,
    spill_stores=0,
    spill_loads=0,
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
    with pytest.raises(artifact.InspectionFailed, match=r"no function 'missing'.*Resource usage"):
        artifact.inspect(
            made.cubin, arch="sm80", kernel="k", symbol="missing", warps=1, dynamic_shared=0
        )


def test_a_damaged_cubin_is_an_error_that_names_the_tool() -> None:
    with pytest.raises(artifact.InspectionFailed, match=r"cuobjdump .* cannot read sm80"):
        artifact.inspect(b"no ELF", arch="sm80", kernel="k", symbol="k", warps=1, dynamic_shared=0)


def test_instructions_are_found_by_a_pattern_in_order() -> None:
    assert PLAIN.find("STL|LDL") == ("@!P0 STL [R1], R2", "LDL.LU R2, [R1]")
    assert PLAIN.find("HGMMA") == ()


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
