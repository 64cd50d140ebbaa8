"""Emulation takes what a GPU takes, refuses what it cannot do, and leaves Triton as it was."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, ANN401, N803

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime.interpreter import InterpreterBuilder
from triton.runtime.jit import JITFunction

from harness.emulation import NotEmulated, emulate, is_active
from harness.launches import capture_launches
from harness.triton_aot import compile_launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@triton.jit
def inline(x_ptr):
    x = tl.load(x_ptr)
    y = tl.inline_asm_elementwise(
        "add.u32 $0, $1, 1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1
    )
    tl.store(x_ptr, y)


@triton.jit
def bessel(x_ptr):
    tl.store(x_ptr, libdevice.j0(tl.load(x_ptr)))


@pytest.mark.parametrize(
    ("kernel", "dtype", "reason"),
    [
        (inline, torch.int32, r"inline cannot be emulated: .*inline PTX: 'add.u32"),
        (bessel, torch.float32, r"bessel cannot be emulated: .*__nv_j0f"),
    ],
)
def test_what_cannot_be_emulated_is_named(kernel: Any, dtype: torch.dtype, reason: str) -> None:
    with emulate(), pytest.raises(NotEmulated, match=reason):
        kernel[(1,)](torch.zeros(1, dtype=dtype))


def test_programmatic_dependent_launch_waits_for_nothing() -> None:
    flag = torch.zeros(1, dtype=torch.int32)
    with emulate():
        dependent[(1,)](flag)
    assert flag.item() == 1


@triton.jit
def dependent(flag_ptr):
    tl.extra.cuda.gdc_wait()
    tl.store(flag_ptr, 1)
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def double(x, factor: tl.constexpr = 2):
    return x * factor


@triton.jit
def masked(x_ptr, out_ptr, n, APPLY: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(out_ptr + at, APPLY(double(x)).to(out_ptr.dtype.element_ty), mask=at < n)


def run_masked(x: Tensor, out: Tensor) -> None:
    masked[(triton.cdiv(len(x), 128),)](x, out, len(x), double, BLOCK=128)


def test_helpers_are_interpreted_too_called_by_name_or_passed() -> None:
    x, out = torch.randn(300, generator=torch.Generator().manual_seed(6)), torch.zeros(300)
    with emulate():
        run_masked(x, out)
    assert torch.equal(out, 4 * x)


def test_the_same_kernels_compile_before_during_and_after() -> None:
    x, out = torch.zeros(256), torch.zeros(256)
    with capture_launches() as launches:
        run_masked(x, out)
    before = compile_launch(launches[0], "sm90")
    with emulate():
        run_masked(x, out)
        during = compile_launch(launches[0], "sm86")
        run_masked(x, out)
    after = compile_launch(launches[0], "sm80")
    assert [a.arch for a in (before, during, after)] == ["sm90", "sm86", "sm80"]
    assert all(artifact.find("STG") for artifact in (before, during, after))


def language_state() -> list[Callable[..., Any]]:
    members = [JITFunction.run, JITFunction.__call__, tl.load, tl.core.load, tl.sum, tl.reduce]
    members += [tl.math.exp, tl.tensor.to, tl.range, tl.static_assert, libdevice.tanh]
    members += [tl.tensor.__init__, tl.block_type.__init__]
    return [*members, InterpreterBuilder.cast_impl, InterpreterBuilder.binary_op]


def test_scopes_nest_and_leave_triton_as_it_was() -> None:
    before = language_state()
    x, out = torch.ones(8), torch.zeros(8)
    assert not is_active()
    with emulate():
        with emulate():
            run_masked(x, out)
        assert is_active()
        run_masked(x, out)
        assert language_state()[1:] == before[1:]
    assert not is_active()
    assert language_state() == before


@triton.jit
def summed(x_ptr, y_ptr, ROWS: tl.constexpr, LENGTH: tl.constexpr):
    row = tl.arange(0, 4)[None, :] + tl.zeros((ROWS, LENGTH), tl.int32)
    tl.store(y_ptr + tl.arange(0, 4), tl.sum(tl.load(x_ptr + row), 0))


def test_a_shape_is_checked_and_broadcast_whatever_was_seen_before() -> None:
    x, y = torch.arange(4.0), torch.zeros(4)
    with emulate():
        for rows, length in ((2, 4), (8, 1), (2, 4)):
            summed[(1,)](x, y, rows, length)
            assert y.tolist() == [0, rows, 2 * rows, 3 * rows]
        for length, words in (
            (3, "must be a power of 2"),
            (2, "incompatible dimensions at index 1"),
        ):
            with pytest.raises(ValueError, match=words):
                summed[(1,)](x, y, 2, length)


@triton.jit
def ambiguous(x_ptr, BLOCK: tl.constexpr):
    if tl.load(x_ptr + tl.arange(0, BLOCK)) > 0:
        tl.store(x_ptr, 1)


def test_a_block_is_neither_true_nor_false() -> None:
    with emulate(), pytest.raises(ValueError, match=r"block of shape \(4,\), neither true nor"):
        ambiguous[(1,)](torch.zeros(4), 4)


@triton.jit
def asserting(x_ptr):
    x = tl.load(x_ptr)
    tl.device_assert(x == 0, "not zero")
    assert x == 0, "not zero either"
    tl.store(x_ptr, x + 1)


def test_assertions_are_off_but_for_debugging() -> None:
    x = torch.ones(1)
    with emulate():
        asserting[(1,)](x)
        assert x.item() == 2
        with pytest.raises(AssertionError, match="not zero"):
            asserting[(1,)](x, debug=True)
    with emulate(debug=True), pytest.raises(AssertionError, match="not zero"):
        asserting[(1,)](x)


@triton.jit
def faulty(x_ptr):
    tl.store(x_ptr, name_that_is_nowhere)  # type: ignore[name-defined]  # noqa: F821


def test_the_compiler_is_not_first_imported_while_triton_is_patched(
    pytestconfig: pytest.Config,
) -> None:
    """It keeps what it finds in triton.language, and would drop every static_assert."""
    code = """
import torch, triton.language as tl
from harness.emulation import emulate
from suites.meta.test_emulation import dependent
with emulate():
    dependent[(1,)](torch.zeros(1, dtype=torch.int32))
from triton.compiler.code_generator import CodeGenerator
print(tl.static_assert in CodeGenerator.statically_implemented_functions)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=pytestconfig.rootpath
    )
    assert done.stdout == "True\n"


def test_an_error_in_a_kernel_says_where_and_leaves_triton_as_it_was() -> None:
    before = language_state()
    with pytest.raises(NameError, match="name_that_is_nowhere") as raised, emulate():
        faulty[(1,)](torch.zeros(1))
    assert "faulty, program (0, 0, 0) of grid (1, 1, 1)" in raised.value.__notes__[0]
    assert language_state() == before
    assert not is_active()


def test_the_kernels_module_is_not_written_to() -> None:
    x = torch.ones(8)
    before = set(masked.fn.__globals__) - {"InterpretedFunction"}
    with emulate():
        run_masked(x, x)
    assert set(masked.fn.__globals__) - {"InterpretedFunction"} == before


@triton.jit
def read_global(out_ptr):
    tl.store(out_ptr, FACTOR)


FACTOR = tl.constexpr(3)


def test_globals_are_read_at_every_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    out = torch.zeros(1)
    with emulate():
        read_global[(1,)](out)
        assert out.item() == 3
        monkeypatch.setitem(read_global.fn.__globals__, "FACTOR", tl.constexpr(5))
        read_global[(1,)](out)
    assert out.item() == 5


def test_kernels_defined_in_functions_see_their_closure() -> None:
    amount = tl.constexpr(7)

    @triton.jit
    def inner(out_ptr):
        tl.store(out_ptr, amount)

    out = torch.zeros(1)
    with emulate():
        inner[(1,)](out)
    assert out.item() == 7


def test_masked_lanes_do_not_touch_guarded_memory() -> None:
    """The tensor ends where a page begins that nobody may read or write."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + page), page, 0) == 0
    x = torch.frombuffer(memory, dtype=torch.float32, count=page // 4)[-100:]
    x.fill_(1.0)
    with emulate():
        run_masked(x, x)
    assert x.unique().tolist() == [4.0]


def test_grids_that_no_gpu_takes_are_refused() -> None:
    with emulate(), pytest.raises(ValueError, match="65536 programs along y"):
        dependent[(1, 65536)](torch.zeros(1, dtype=torch.int32))


def test_tensors_that_are_nowhere_are_refused() -> None:
    with emulate(), pytest.raises(ValueError, match="'meta'"):
        dependent[(1,)](torch.zeros(1, dtype=torch.int32, device="meta"))


def test_importing_emulation_does_not_import_triton() -> None:
    code = "import sys, harness.emulation, harness.launches, harness.triton_aot; "
    code += "print([m for m in ('triton', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
