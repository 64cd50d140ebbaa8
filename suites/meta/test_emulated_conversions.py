"""Conversions of an emulated kernel round as a GPU's do: on every value, tie and neighbour."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, N803

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from harness.emulation import emulate

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
