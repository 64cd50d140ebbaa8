"""Captured launches become machine code for every arch, on a machine that has none of them."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN401, FBT003, N803

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import driver

from harness.arch import ARCHES
from harness.artifact import Artifact, CompileFailed
from harness.disassembly import InspectionFailed
from harness.launches import Launch, capture_launches
from harness.triton_aot import compile_launch

MATRIX_INSTRUCTIONS = {
    "sm80": r"^HMMA\.16816\.F32",
    "sm86": r"^HMMA\.16816\.F32",
    "sm89": r"^HMMA\.16816\.F32",
    "sm90": r"^HGMMA\.",
    "sm100": r"^UTC\w*MMA",
    "sm103": r"^UTC\w*MMA",
    "sm120": r"^HMMA\.16816\.F32",
}


@triton.jit
def offsets(SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    return at[:, None] * SIZE + at[None, :]


@triton.jit
def product(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    square = offsets(SIZE)
    tl.store(out_ptr + square, tl.dot(tl.load(a_ptr + square), tl.load(b_ptr + square)))


@triton.jit
def copy(x_ptr, out_ptr, n, stride, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at * stride, mask=at < n), mask=at < n)


@triton.jit
def refused(x_ptr):
    tl.static_assert(False, "a reason of its own")
    tl.store(x_ptr, 0)


def captured(kernel: Any, *args: object, **options: object) -> Launch:
    with capture_launches() as launches:
        kernel[(1,)](*args, **options)
    return launches[0]


def product_launch(size: int, **options: object) -> Launch:
    a = torch.zeros(size, size, dtype=torch.float16)
    return captured(product, a, a, torch.zeros(size, size), size, **options)


def copy_artifact(*, n: int = 1024, stride: int = 1, offset: int = 0) -> Artifact:
    x = torch.zeros(2048)
    return compile_launch(captured(copy, x[offset:], x, n, stride, 1024), "sm90")


def readable(arch: str) -> bool:
    """Whether the disassembler at hand knows ``arch``: sm103 came with that of CUDA 12.9."""
    version = tuple(map(int, triton.knobs.nvidia.nvdisasm.version.split(".")))
    return arch != "sm103" or version >= (12, 9)


@pytest.mark.parametrize("arch", ARCHES)
def test_every_arch_gets_its_own_matrix_instruction(arch: str) -> None:
    launch = product_launch(64, num_warps=4)
    if not readable(arch):
        with pytest.raises(InspectionFailed, match="newer triton"):
            compile_launch(launch, arch).find("MMA")
        return
    artifact = compile_launch(launch, arch)
    assert artifact.arch == arch
    assert artifact.kernel == f"{__name__}.product"
    assert artifact.find(MATRIX_INSTRUCTIONS[arch])
    assert f".target sm_{arch.removeprefix('sm')}" in artifact.ptx
    assert artifact.cubin.startswith(b"\x7fELF")
    assert 16 <= artifact.registers <= 255
    assert artifact.shared_bytes >= 2 * 64 * 64 * 2
    assert artifact.warps == 4
    assert not artifact.spills
    assert artifact.local_bytes == 0


def test_options_of_the_launch_are_compiled_in() -> None:
    artifact = compile_launch(product_launch(64, num_warps=8), "sm80")
    assert artifact.warps == 8
    assert ".reqntid 256" in artifact.ptx


def test_spills_are_seen() -> None:
    artifact = compile_launch(product_launch(128, num_warps=4, maxnreg=64), "sm80")
    assert artifact.spills
    assert artifact.spill_stores > 0
    assert artifact.spill_loads > 0
    assert artifact.stack_bytes > 0
    assert artifact.registers <= 64


def test_the_arguments_decide_the_specialisation() -> None:
    wide = r"LDG\.E\.128"
    assert copy_artifact().find(wide)
    assert not copy_artifact(stride=2).find(wide)
    assert not copy_artifact(offset=1).find(wide)
    assert not copy_artifact(n=1023).find(wide)


def test_tensors_without_memory_will_do() -> None:
    x = torch.zeros(2**33, device="meta")
    artifact = compile_launch(captured(copy, x, x, x.numel(), 1, 1024), "sm90")
    assert ".param .u64 copy_param_2" in artifact.ptx


def test_no_driver_is_left_behind() -> None:
    before = driver._active  # noqa: SLF001
    compile_launch(product_launch(32), "sm80")
    assert driver._active is before  # noqa: SLF001


def test_the_compilers_message_is_kept() -> None:
    with pytest.raises(CompileFailed, match="refused does not compile for sm90") as raised:
        compile_launch(captured(refused, torch.zeros(1)), "sm90")
    assert "a reason of its own" in raised.value.message
    assert raised.value.arch == "sm90"
    assert raised.value.__cause__ is not None


def test_more_shared_memory_than_a_block_has_is_a_failure() -> None:
    launch = product_launch(256, num_warps=32)
    with pytest.raises(CompileFailed, match=r"\d+ bytes of shared memory, of 101376"):
        compile_launch(launch, "sm86")


def test_an_unknown_arch_lists_the_known() -> None:
    with pytest.raises(ValueError, match="arch='sm70' is not known here; use one of sm80, sm86"):
        compile_launch(product_launch(32), "sm70")


def test_other_backends_are_refused() -> None:
    launch = Launch("cuda", "gemm", "their.package", None, (1,), {})
    with pytest.raises(ValueError, match="backend='cuda'"):
        compile_launch(launch, "sm80")


def test_the_disassembler_comes_with_triton() -> None:
    done = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "release" in done.stdout
