"""The CUDA quantizer's divisions without a branch are IEEE's, for every mantissa they can meet.

``quotient`` of kernels/svdq/cuda/encode.cuh, step by step, with each reciprocal that a device
within 1 ulp may give. Powers of two shift all of it, and signs change nothing.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

MANTISSA = {torch.float16: 10, torch.bfloat16: 7}  # bits after the leading one
HALVES = list(MANTISSA)


def mantissas(dtype: torch.dtype) -> Tensor:
    """Every number of ``dtype`` between two powers of two, as fp32."""
    bits = MANTISSA[dtype]
    return torch.arange(2**bits, 2 ** (bits + 1), dtype=torch.float32)


def multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c``, rounded once to fp32, by way of a sum rounded to odd in fp64."""
    product, term = torch.broadcast_tensors(a.double() * b.double(), c.double())  # both exact
    total = product + term
    back = total - product
    lost = (product - (total - back)) + (term - back)
    bits = total.view(torch.int64)
    away = torch.where((lost > 0) == (total > 0), bits + 1, bits - 1)
    return torch.where((lost != 0) & (bits % 2 == 0), away, bits).view(torch.float64).float()


def quotient(x: Tensor, divisor: Tensor, reciprocal: Tensor) -> Tensor:
    near = x * reciprocal
    return multiply_add(reciprocal, multiply_add(-divisor, near, x), near)


def reciprocals(divisor: Tensor) -> list[Tensor]:
    """All floats within 1 ulp of ``1 / divisor``, and a little beyond."""
    nearest = (1 / divisor).view(torch.int32)
    return [(nearest + ulps).view(torch.float32) for ulps in (-1, 0, 1)]


def test_the_emulated_multiply_add_rounds_once() -> None:
    one, tiny = torch.tensor(1.0), torch.tensor(2.0**-24)
    # 1 + 2^-24 is a tie, which 2^-60 more decides; fp64 alone would lose it.
    assert multiply_add(tiny, 1 + 2.0**-23 * one, one) == 1 + 2.0**-23
    assert multiply_add(tiny, one, one) == 1
    assert multiply_add(tiny, one - 2.0**-24, one) == 1
    assert multiply_add(torch.tensor(2.0**-40), torch.tensor(2.0**-40), one + 2.0**-23) > 1


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_by_a_half(dtype: torch.dtype) -> None:
    x, divisor = mantissas(dtype)[None, :], mantissas(dtype)[:, None]
    for reciprocal in reciprocals(divisor):
        assert torch.equal(quotient(x, divisor, reciprocal), x / divisor)


def test_one_multiplication_makes_the_same_bf16_and_not_the_same_fp32() -> None:
    x, divisor = mantissas(torch.bfloat16)[None, :], mantissas(torch.bfloat16)[:, None]
    for reciprocal in reciprocals(divisor):
        assert torch.equal((x * reciprocal).bfloat16(), (x / divisor).bfloat16())
        assert not torch.equal(x * reciprocal, x / divisor)


def test_one_multiplication_would_make_another_fp16() -> None:
    x, divisor = mantissas(torch.float16)[None, :], mantissas(torch.float16)[:, None]
    assert any(
        not torch.equal((x * reciprocal).half(), (x / divisor).half())
        for reciprocal in reciprocals(divisor)
    )


@pytest.mark.parametrize("steps", [7, 15])
@pytest.mark.parametrize("dtype", HALVES)
def test_the_scale_and_every_quotient_of_its_group(dtype: torch.dtype, steps: int) -> None:
    largest = mantissas(dtype)
    scale = quotient(largest, torch.tensor(float(steps)), torch.tensor(1 / steps))
    assert torch.equal(scale, largest / steps)
    # From the largest down to 1/16 of it, or 1/32, below which every code is 0.
    for x in (largest * 2.0**-shift for shift in range(steps.bit_length() + 2)):
        for first, end in pairwise(range(0, len(largest) + 1, 128)):
            divisor = scale[first:end, None]
            for reciprocal in reciprocals(divisor):
                assert torch.equal(quotient(x, divisor, reciprocal), x / divisor)
