"""Emulated kernels round as a GPU does, and Triton is left as it was found."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, ANN401, FBT003, N803, PLR0917

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.libdevice import rint as rint_by_name
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder
from triton.runtime.jit import JITFunction

from harness.emulation import NotEmulated, emulate, is_active
from harness.launches import capture_launches
from harness.triton_aot import compile_launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ORACLES = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}
WORDS = {1: torch.uint8, 2: torch.int16}
DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in ORACLES]


@triton.jit
def convert(source, target, BLOCK: tl.constexpr, ROUNDING: tl.constexpr = None):
    at = tl.arange(0, BLOCK)
    x = tl.load(source + at)
    tl.store(target + at, x.to(target.dtype.element_ty, fp_downcast_rounding=ROUNDING))


def convert_emulated(source: Tensor, dtype: torch.dtype, rounding: str | None = None) -> Tensor:
    target = torch.zeros(len(source), dtype=dtype)
    with emulate():
        convert[(1,)](source, target, len(source), rounding)
    return target


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(WORDS[tensor.element_size()])


def every_value(dtype: torch.dtype) -> Tensor:
    size = dtype.itemsize
    patterns = np.arange(2 ** (8 * size), dtype=f"uint{8 * size}")
    return torch.from_numpy(patterns.view(ORACLES[dtype]).astype(np.float32))


def neighbourhood(dtype: torch.dtype) -> Tensor:
    """Every value of the format, every midpoint of neighbours, and the float32 beside each."""
    values = every_value(dtype).numpy()
    finite = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    points = np.concatenate([values, middles])
    with np.errstate(over="ignore", invalid="ignore"):
        below, above = np.nextafter(points, -np.inf), np.nextafter(points, np.inf)
    points = np.concatenate([points, below, above]).astype(np.float32)
    padding = 2 ** int(np.ceil(np.log2(len(points)))) - len(points)
    return torch.from_numpy(np.concatenate([points, np.zeros(padding, dtype=np.float32)]))


def nearest(source: Tensor, dtype: torch.dtype) -> Tensor:
    """The oracle's conversion; saturating for 8-bit formats, as ``cvt.satfinite``."""
    values = source.numpy()
    if dtype.itemsize == 1:
        largest = torch.finfo(dtype).max
        values = np.clip(values, -largest, largest)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(ORACLES[dtype])
    return torch.from_numpy(rounded.view(f"int{8 * dtype.itemsize}")).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tie_and_its_neighbours_round_to_nearest_even(dtype: torch.dtype) -> None:
    source = neighbourhood(dtype)
    actual, expected = convert_emulated(source, dtype), nearest(source, dtype)
    number = ~source.isnan()
    assert torch.equal(bits(actual)[number], bits(expected)[number])
    assert actual.float()[~number].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_toward_zero_is_the_nearest_value_that_is_no_larger(dtype: torch.dtype) -> None:
    source = neighbourhood(dtype)
    source = source[source.isfinite()]
    source = torch.cat(
        [source, source.new_zeros(2 ** (len(source) - 1).bit_length() - len(source))]
    )
    actual = convert_emulated(source, dtype, "rtz").float()
    expected = nearest(source, dtype)
    too_far = expected.float().abs() > source.abs()
    expected = torch.where(too_far, bits(expected) - 1, bits(expected)).view(dtype).float()
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_widens_exactly(dtype: torch.dtype) -> None:
    expected = every_value(dtype)
    source = torch.arange(len(expected)).to(WORDS[dtype.itemsize]).view(dtype)
    actual = convert_emulated(source, torch.float32)
    assert torch.equal(actual.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_without_emulate_the_interpreter_truncates() -> None:
    source = neighbourhood(torch.bfloat16)
    faithful = convert_emulated(source, torch.bfloat16)
    actual = torch.zeros(len(source), dtype=torch.bfloat16)
    with np.errstate(all="ignore"):
        InterpretedFunction(convert.fn)[(1,)](source, actual, len(source))
    differs = bits(actual) != bits(faithful)
    assert differs.sum() > len(source) // 10
    assert (actual.float().abs() <= source.abs())[source.abs() > 1e-30].all()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float16),
        (torch.float64, torch.bfloat16),
        (torch.float64, torch.float16),
        (torch.float64, torch.float32),
        (torch.int32, torch.bfloat16),
        (torch.int64, torch.float16),
        (torch.uint8, torch.bfloat16),
        (torch.bfloat16, torch.int32),
        (torch.float16, torch.int8),
        (torch.bfloat16, torch.int64),
    ],
)
def test_other_conversions_agree_with_torch(source: torch.dtype, target: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(4096, generator=generator, dtype=torch.float64) * 40).clamp(-120, 120)
    given = (values.abs() if source == torch.uint8 else values).to(source)
    expected = given.to(target)
    if source == torch.float64 and target in ORACLES:  # torch rounds twice, by way of float32
        rounded = given.numpy().astype(ORACLES[target])
        expected = torch.from_numpy(rounded.view(np.int16)).view(target)
    assert torch.equal(convert_emulated(given, target), expected)


def test_out_of_range_floats_saturate() -> None:
    given = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e9, -3e9, 2.0**31, 1.5, -1.5])
    actual = convert_emulated(given, torch.int32).tolist()
    assert actual == [2**31 - 1, -(2**31), 0, 2**31 - 1, -(2**31), 2**31 - 1, 1, -1]
    assert convert_emulated(given, torch.int64)[2] == -(2**63)
    assert convert_emulated(given.double(), torch.int32)[2] == -(2**31)


def test_infinity_becomes_the_largest_number_of_8_bits() -> None:
    given = torch.tensor([torch.inf, -torch.inf])
    assert convert_emulated(given, torch.float8_e4m3fn).tolist() == [448, -448]
    assert convert_emulated(given, torch.float8_e5m2).tolist() == [57344, -57344]
    assert convert_emulated(given, torch.float8_e5m2, "rtz").tolist() == [torch.inf, -torch.inf]


@triton.jit
def arithmetic(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    tl.store(out_ptr + at, x + y)
    tl.store(out_ptr + BLOCK + at, x - y)
    tl.store(out_ptr + 2 * BLOCK + at, x * y)
    tl.store(out_ptr + 3 * BLOCK + at, tl.fma(x, y, x))
    tl.store(out_ptr + 4 * BLOCK + at, tl.maximum(x, y))
    tl.store(out_ptr + 5 * BLOCK + at, tl.where(x < y, x, -y))
    tl.store(out_ptr + 6 * BLOCK + at, tl.abs(x) + 1.7)
    tl.store(out_ptr + 7 * BLOCK + at, (x / y).to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_arithmetic_rounds_every_operation_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(1024, generator=generator).to(dtype) for _ in range(2))
    actual = torch.zeros(8, 1024, dtype=dtype)
    with emulate():
        arithmetic[(1,)](x, y, actual, 1024)
    fused = (x.double() * y.double() + x.double()).to(dtype)
    quotient = (x.float() / y.float()).to(dtype)
    expected = [x + y, x - y, x * y, fused, torch.maximum(x, y), torch.where(x < y, x, -y)]
    assert torch.equal(actual, torch.stack([*expected, x.abs() + 1.7, quotient]))


def test_fma_is_exact_where_two_roundings_are_not() -> None:
    """1 + 2^-12 squared is 1 + 2^-11 + 2^-24: a tie of float32, that a tiny addend decides."""
    x = torch.full((16,), 1 + 2.0**-12)
    addend = torch.tensor([2.0**-60, -(2.0**-60)]).repeat(8)
    out = torch.zeros(16)
    with emulate():
        fused[(1,)](x, addend, out, 16)
    assert out[:2].tolist() == [1 + 2.0**-11 + 2.0**-23, 1 + 2.0**-11]


@triton.jit
def fused(x_ptr, addend_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.fma(x, x, tl.load(addend_ptr + at)))


@triton.jit
def scale(x_ptr, out_ptr, factor, stride: tl.int64, flag, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    product = tl.load(x_ptr + at) * factor
    tl.static_assert(product.dtype == tl.float32)
    tl.static_assert(stride.dtype == tl.int64)
    if flag:
        tl.store(out_ptr + at, product)


def test_scalar_arguments_have_the_types_of_a_launch() -> None:
    """A Python float is a float32 scalar to a kernel: the product with float16 is no float16."""
    x, out = torch.full((16,), 1.0, dtype=torch.float16), torch.zeros(16)
    with emulate():
        scale[(1,)](x, out, 0.1, 16, True, 16)
    assert torch.equal(out, torch.full((16,), 0.1))


@triton.jit
def reductions(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at[:, None] * BLOCK + at[None, :])
    tl.store(out_ptr + at, tl.sum(x, 1).to(tl.float32))
    tl.store(out_ptr + BLOCK + at, x.sum(axis=0).to(tl.float32))
    tl.store(out_ptr + 2 * BLOCK + at, tl.max(x, 1).to(tl.float32))
    tl.store(out_ptr + 3 * BLOCK + at, tl.argmin(x, 0).to(tl.float32))
    tl.store(out_ptr + 4 * BLOCK + at, tl.sum(tl.cumsum(x.to(tl.float32), 1), 1))
    tl.store(out_ptr + 5 * BLOCK + at, tl.reduce(x, 1, larger).to(tl.float32))
    tl.store(out_ptr + 6 * BLOCK + at, tl.sum(x).to(tl.float32) + tl.zeros([BLOCK], tl.float32))


@triton.jit
def larger(a, b):
    return tl.where(a > b, a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_reductions(dtype: torch.dtype) -> None:
    """On small integers, whose sums are exact in every format."""
    generator = torch.Generator().manual_seed(2)
    values = torch.stack([torch.randperm(16, generator=generator) - 8 for _ in range(16)])
    values = values[:, :16] * torch.tensor([1, -1]).repeat(8)
    out = torch.zeros(7, 16)
    with emulate():
        reductions[(1,)](values.to(dtype), out, 16)
    x = values.float()
    smallest = torch.tensor([int((x[:, j] == x[:, j].min()).nonzero()[0]) for j in range(16)])
    expected = [x.sum(1), x.sum(0), x.amax(1), smallest.float(), x.cumsum(1).sum(1), x.amax(1)]
    assert torch.equal(out, torch.stack([*expected, x.sum().expand(16)]))


def test_sums_in_bfloat16_round_every_step() -> None:
    """256 + 1 is 256 in bfloat16, so in a sum of pairs the ones survive only among themselves."""
    x = torch.zeros(16, 16)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 256, 1, 1, 1
    out = torch.zeros(7, 16)
    with emulate():
        reductions[(1,)](x.bfloat16(), out, 16)
    assert out[0].unique().tolist() == [258]


@triton.jit
def product(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    at = tl.arange(0, SIZE)
    square = at[:, None] * SIZE + at[None, :]
    a, b = tl.load(a_ptr + square), tl.load(b_ptr + square)
    tl.store(out_ptr + square, tl.dot(a, b, input_precision=PRECISION, out_dtype=tl.float32))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_dot_of_small_integers_is_exact(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-4, 5, (32, 32), generator=generator) for _ in range(2))
    out = torch.zeros(32, 32)
    with emulate():
        product[(1,)](a.float().to(dtype), b.float().to(dtype), out, 32, "tf32")
    assert torch.equal(out, (a @ b).float())


def test_tf32_drops_what_the_tensor_cores_do_not_read() -> None:
    a, b, out = torch.full((16, 16), 1 + 2.0**-11), torch.eye(16), torch.zeros(16, 16)
    with emulate():
        product[(1,)](a, b, out, 16, "tf32")
        assert out.unique().tolist() == [1]
        product[(1,)](a, b, out, 16, "ieee")
    assert torch.equal(out, a)


@triton.jit
def functions(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.math.div_rn(x, 3.0))
    tl.store(out_ptr + BLOCK + at, tl.math.sqrt_rn(tl.abs(x)))
    tl.store(out_ptr + 2 * BLOCK + at, rint_by_name(4 * x))
    tl.store(out_ptr + 3 * BLOCK + at, tl.extra.cuda.libdevice.nearbyint(x))
    tl.store(out_ptr + 4 * BLOCK + at, tl.exp2(x))
    tl.store(out_ptr + 5 * BLOCK + at, tl.rsqrt(tl.abs(x)))
    tl.store(out_ptr + 6 * BLOCK + at, tl.erf(x))
    tl.store(out_ptr + 7 * BLOCK + at, libdevice.tanh(x))
    tl.store(out_ptr + 8 * BLOCK + at, libdevice.fma(x, x, x))
    tl.store(out_ptr + 9 * BLOCK + at, libdevice.pow(tl.abs(x), x))
    tl.store(out_ptr + 10 * BLOCK + at, libdevice.float2int_rn(x * 3).to(tl.float32))
    tl.store(out_ptr + 11 * BLOCK + at, tl.where(libdevice.isnan(x), 1.0, tl.sigmoid(x)))


def test_math_functions() -> None:
    x = torch.randn(256, generator=torch.Generator().manual_seed(4))
    actual = torch.zeros(12, 256)
    with emulate():
        functions[(1,)](x, actual, 256)
    d = x.double()
    expected = [d / 3, d.abs().sqrt(), (4 * d).round(), d.round(), d.exp2(), d.abs().rsqrt()]
    expected += [d.erf(), d.tanh(), d * d + d, d.abs() ** d, (3 * d).round(), d.sigmoid()]
    ulp = torch.finfo(torch.float32).eps * torch.stack(expected).abs()
    assert ((actual - torch.stack(expected)).abs() <= 2 * ulp).all()
    assert torch.equal(actual[0], x / 3)  # div_rn and fma are nearest, not near
    assert torch.equal(actual[8], expected[8].float())


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
def gather_add(total_ptr, x_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.atomic_add(total_ptr + at // 4, tl.load(x_ptr + at))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_atomic_add(dtype: torch.dtype) -> None:
    x = torch.randn(32, generator=torch.Generator().manual_seed(5)).to(dtype)
    actual, expected = torch.zeros(8, dtype=dtype), torch.zeros(8, dtype=dtype)
    with emulate():
        gather_add[(1,)](actual, x, 32)
    for index in range(32):
        expected[index // 4] += x[index]
    assert torch.equal(actual, expected)


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
def logic(a_ptr, b_ptr, out_ptr, low, FLAG: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    tl.store(out_ptr + at, (a > low).logical_and(b > 0))
    tl.store(out_ptr + BLOCK + at, not (a > 0))
    if FLAG and low > 0:
        tl.store(out_ptr + 2 * BLOCK + at, a > max(low, 1))
    if not FLAG or low < 0:
        tl.store(out_ptr + 2 * BLOCK + at, 0)


def test_logic_on_blocks_is_by_element() -> None:
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 1, 0])
    out = torch.full((3, 4), -1)
    with emulate():
        logic[(1,)](a, b, out, 1, FLAG=True, BLOCK=4)
    assert out.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]


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
assert tl.static_assert in CodeGenerator.statically_implemented_functions
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pytestconfig.rootpath)


def test_an_error_in_a_kernel_says_where_and_leaves_triton_as_it_was() -> None:
    before = language_state()
    with pytest.raises(NameError, match="name_that_is_nowhere") as raised, emulate():
        faulty[(1,)](torch.zeros(1))
    assert "faulty, program (0, 0, 0) of grid (1, 1, 1)" in raised.value.__notes__[0]
    assert language_state() == before
    assert not is_active()


def test_the_kernels_module_is_not_written_to() -> None:
    x = torch.ones(8)
    before = set(convert.fn.__globals__) - {"InterpretedFunction"}
    with emulate():
        run_masked(x, x)
    assert set(convert.fn.__globals__) - {"InterpretedFunction"} == before


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


@triton.jit
def overflow(x_ptr):
    tl.store(x_ptr, tl.load(x_ptr) * 65536 * 65536)


def test_integers_wrap_around_unless_overflow_is_checked() -> None:
    x = torch.ones(1, dtype=torch.int32)
    with emulate():
        overflow[(1,)](x)
    assert x.item() == 0
    x.fill_(1)
    with emulate(debug=True), pytest.raises(AssertionError, match="overflow"):
        overflow[(1,)](x)


def test_tensors_that_are_nowhere_are_refused() -> None:
    with emulate(), pytest.raises(ValueError, match="'meta'"):
        dependent[(1,)](torch.zeros(1, dtype=torch.int32, device="meta"))


def test_importing_emulation_does_not_import_triton() -> None:
    code = "import sys, harness.emulation, harness.launches, harness.triton_aot; "
    code += "print([m for m in ('triton', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
