"""Arithmetic of an emulated kernel rounds every operation as a GPU does, and no other."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, FBT003, N803, PLR0917

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.libdevice import rint as rint_by_name

from harness.emulation import emulate


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
