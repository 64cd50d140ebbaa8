"""What is remembered of an output tells correct rounding from anything worse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.budget import Budget
from harness.power.trace import Errors, Result, digest, measure
from harness.reference import Truth


def truth(expected: Tensor, dtype: torch.dtype, *, terms: int = 1) -> Truth:
    """A truth of a sum of so many terms of the magnitude of its value."""
    return Truth(expected, expected.abs(), Budget(dtype=dtype, terms_summed=terms))


def rounded(dtype: torch.dtype, *, through: torch.dtype | None = None) -> Result:
    """The result of rounding normal values to a dtype, perhaps through another one."""
    expected = torch.randn(4096, generator=torch.Generator().manual_seed(1)).double()
    actual = expected.to(through or dtype).to(dtype)
    return measure(actual, truth(expected, dtype), None)


def test_a_nan_is_any_nan_and_a_zero_has_a_sign_only_where_asked() -> None:
    nan = torch.tensor([0x7FC0, 0x7FC1], dtype=torch.int16).view(torch.bfloat16)
    assert digest(nan[:1]) == digest(nan[1:])
    zeros = torch.tensor([0.0]), torch.tensor([-0.0])
    assert digest(zeros[0]) != digest(zeros[1])
    assert digest(zeros[0], signed_zero=False) == digest(zeros[1], signed_zero=False)


@pytest.mark.parametrize(
    "other", [torch.ones(4), torch.ones(2, 2).half(), torch.tensor([[1.0, 1.0], [1.0, 1.5]])]
)
def test_a_digest_sees_shape_dtype_and_every_bit(other: Tensor) -> None:
    assert digest(torch.ones(2, 2)) != digest(other)
    assert digest(torch.ones(2, 2)) == digest(torch.ones(2, 4)[:, ::2])


def test_one_rounding_is_one_unit_at_most() -> None:
    found = rounded(torch.bfloat16)
    assert found.rounded.count == 4096
    assert 0.9 < found.rounded.largest <= 1.0
    assert found.rms == pytest.approx(1 / math.sqrt(12), rel=0.05)  # of a uniform half ulp


def test_two_roundings_and_truncation_are_worse_than_one() -> None:
    once = rounded(torch.bfloat16)
    twice = rounded(torch.bfloat16, through=torch.float8_e5m2)
    assert twice.rounded.rms > 2 * once.rounded.rms
    expected = torch.randn(4096, generator=torch.Generator().manual_seed(1)).double()
    truncated = (expected.float().view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
    cut = measure(truncated, truth(expected, torch.bfloat16), None)
    assert cut.rounded.largest > 1.9
    assert cut.rounded.rms > 1.5 * once.rounded.rms


def test_long_sums_in_float32_are_held_to_their_accumulation() -> None:
    expected = torch.ones(64).double()
    found = measure(expected.float() + 2.0**-22, truth(expected, torch.float32, terms=4096), None)
    assert found.rounded.count == 0
    assert found.summed.count == 64
    assert found.summed.largest < 0.1


def test_what_is_not_finite_is_counted_where_it_does_not_belong() -> None:
    expected = torch.tensor([1.0, math.nan, math.inf, 2.0]).double()
    actual = torch.tensor([1.0, math.nan, 3.0, math.inf])
    found = measure(actual, truth(expected, torch.float32), None)
    assert found.misplaced == 2


def test_errors_add_up() -> None:
    whole = Errors(2, 8.0, 2.0) + Errors(2, 0.0, 0.0)
    assert whole == Errors(4, 8.0, 2.0)
    assert whole.rms == pytest.approx(math.sqrt(2))
    assert Errors().rms == 0.0
