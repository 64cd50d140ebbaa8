"""The error budget admits what rounding does to a correct result, and little more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.budget import UNIT_ROUNDOFF, Budget, InvalidBudget, Term, smallest_subnormal, ulp
from suites.meta.laws import LAW

INFINITY_BITS = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F80_0000}
HALVES = (torch.float16, torch.bfloat16)
dtypes = st.sampled_from(tuple(INFINITY_BITS))


def from_bits(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of ``dtype`` with these bits, in float64."""
    integer = torch.int16 if dtype.itemsize == 2 else torch.int32
    return bits.to(integer).view(dtype).double()


def of(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_an_ulp_is_the_distance_to_the_next_value(dtype: torch.dtype) -> None:
    bits = torch.arange(INFINITY_BITS[dtype] - 1)
    values = from_bits(bits, dtype)
    assert torch.equal(ulp(values, dtype), from_bits(bits + 1, dtype) - values)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_an_ulp_between_two_values_is_their_distance(dtype: torch.dtype) -> None:
    bits = torch.arange(INFINITY_BITS[dtype] - 1)
    low, high = from_bits(bits, dtype), from_bits(bits + 1, dtype)
    for part in (0.25, 0.5, 0.9375):
        assert torch.equal(ulp(low + part * (high - low), dtype), high - low)


@given(st.integers(0, INFINITY_BITS[torch.float32] - 2))
@LAW
def test_an_ulp_of_float32_is_the_distance_to_the_next_value(bits: int) -> None:
    value, after = from_bits(torch.tensor([bits, bits + 1]), torch.float32)
    assert ulp(value, torch.float32) == after - value


@given(dtypes)
@LAW
def test_an_ulp_of_the_largest_value_is_the_distance_to_the_one_below(dtype: torch.dtype) -> None:
    largest = INFINITY_BITS[dtype] - 1
    below, top = from_bits(torch.tensor([largest - 1, largest]), dtype)
    assert ulp(top, dtype) == top - below


@given(dtypes)
@LAW
def test_the_smallest_subnormal_is_the_value_after_zero(dtype: torch.dtype) -> None:
    assert smallest_subnormal(dtype) == from_bits(torch.tensor([1]), dtype)
    assert ulp(of(0.0), dtype) == smallest_subnormal(dtype)


@given(dtypes, st.floats(-60_000, 60_000), st.floats(0, 1e6), st.integers(0, 10_000))
@LAW
def test_the_reference_rounded_once_is_allowed(
    dtype: torch.dtype, value: float, magnitude: float, terms_summed: int
) -> None:
    expected = of(value)
    budget = Budget(dtype=dtype, terms_summed=terms_summed)
    error = (expected.to(dtype).double() - expected).abs()
    assert error <= budget.allowed(expected, of(magnitude))


@given(dtypes, st.floats(2.0**-10, 60_000), st.sampled_from((-1, 1)))
@LAW
def test_a_neighbour_of_a_value_without_rounding_is_not_allowed(
    dtype: torch.dtype, value: float, sign: int
) -> None:
    expected = sign * of(value).to(dtype).double()
    allowed = Budget(dtype=dtype).allowed(expected, of(0.0))
    assert ulp(expected.abs(), dtype) / 2 <= allowed < ulp(expected.abs(), dtype)


@given(dtypes)
@LAW
def test_a_sum_without_terms_leaves_the_smallest_value_alone(dtype: torch.dtype) -> None:
    allowed = Budget(dtype=dtype, terms_summed=0).allowed(of(0.0), of(0.0))
    assert smallest_subnormal(dtype) <= allowed < 2 * smallest_subnormal(dtype)


@given(dtypes, st.floats(-1e4, 1e4), st.floats(0, 1e6), st.floats(0, 1e6))
@LAW
def test_a_budget_grows_with_the_magnitude(
    dtype: torch.dtype, value: float, one: float, two: float
) -> None:
    budget = Budget(dtype=dtype, terms_summed=64)
    low, high = sorted((one, two))
    assert budget.allowed(of(value), of(low)) <= budget.allowed(of(value), of(high))


def test_rounding_of_sums_grows_with_the_root_of_their_length() -> None:
    def units(terms_summed: int) -> float:
        budget = Budget(dtype=torch.float32, terms_summed=terms_summed)
        return float(budget.accumulation(of(0.0), of(1.0))) / UNIT_ROUNDOFF

    assert [units(n) for n in (0, 1, 4, 256, 65536)] == [0, 4, 8, 64, 1024]


@pytest.mark.parametrize(
    ("terms_summed", "measured"),
    [(1024, 121), (4096, 471), (131_072, 14_675)],
)
def test_truncation_measured_on_tensor_cores_is_admitted_there_alone(
    terms_summed: int, measured: float
) -> None:
    """Units of u * magnitude on positive data, one chain of matrix instructions on an H200."""
    error = measured * UNIT_ROUNDOFF
    chain = Budget(dtype=torch.float32, terms_summed=terms_summed, tensor_core=True)
    assert error <= chain.accumulation(of(1.0), of(1.0)) < 5 * error
    if terms_summed > 1024:  # below, the root alone is as large
        plain = Budget(dtype=torch.float32, terms_summed=terms_summed)
        assert plain.accumulation(of(1.0), of(1.0)) < error


@pytest.mark.parametrize("ulps", [1, 2, 6])
def test_a_term_in_ulps_admits_as_many_of_float32(ulps: int) -> None:
    budget = Budget(dtype=torch.float32, terms=(Term(ulps=ulps, because="of an instruction"),))
    for value in (1.0, 1.999, 3e-20, -5e18):
        expected = of(value)
        step = ulp(expected.abs(), torch.float32)
        allowed = budget.allowed(expected, of(0.0))
        assert ulps * step <= allowed < (2 * ulps + 1) * step


def test_a_relative_term_is_relative_to_the_magnitude() -> None:
    budget = Budget(
        dtype=torch.float32, terms_summed=0, terms=(Term(relative=2.0**-9, because="bf16 scale"),)
    )
    assert budget.accumulation(of(0.0), of(3.0)) == 3 * 2.0**-9
    assert budget.accumulation(of(7.0), of(0.0)) == 0


def test_terms_add_up() -> None:
    one, two = Term(relative=2.0**-9, because="one"), Term(ulps=2, because="two")
    both = Budget(dtype=torch.float32, terms_summed=0, terms=(one, two))
    alone = [Budget(dtype=torch.float32, terms_summed=0, terms=(term,)) for term in (one, two)]
    parts = [budget.accumulation(of(5.0), of(8.0)) for budget in alone]
    assert both.accumulation(of(5.0), of(8.0)) == sum(parts)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool], ids=str)
def test_a_dtype_without_an_ulp_has_no_budget(dtype: torch.dtype) -> None:
    with pytest.raises(InvalidBudget, match=rf"dtype={dtype} has no ulp; declare the output exact"):
        Budget(dtype=dtype)


def test_a_negative_number_of_terms_is_refused() -> None:
    with pytest.raises(InvalidBudget, match="terms_summed=-1 is negative"):
        Budget(dtype=torch.float32, terms_summed=-1)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_term_that_is_no_bound_is_refused(value: float) -> None:
    with pytest.raises(InvalidBudget, match=r"ulps=.*because='it seemed right'"):
        Term(ulps=value, because="it seemed right")
    with pytest.raises(InvalidBudget, match=r"relative="):
        Term(relative=value, because="it seemed right")
