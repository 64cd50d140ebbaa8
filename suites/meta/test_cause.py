"""What the wrong values are is said only where it is true of all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.buffers import POISONS, PoisonedAllocations
from harness.cause import explain
from harness.locate import describe
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)


def expected(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def codes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def said(faulty: Tensor, right: Tensor, dtype: torch.dtype) -> str:
    actual = faulty.to(dtype)
    return explain(actual != right.to(dtype), actual, right)


def partly(fault: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The fault in the last rows alone."""

    def faulty(right: Tensor) -> Tensor:
        return torch.cat([right[:5], fault(right)[5:]])

    return faulty


def pairs(right: Tensor) -> Tensor:
    swapped: Tensor = right.unflatten(1, (-1, 2)).flip(2)
    return swapped.flatten(1)


FAULTS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "are 0": torch.zeros_like,
    "are NaN": lambda right: torch.full_like(right, math.nan),
    "are infinite": lambda right: right.sign() * math.inf,
    "are 3.25": lambda right: torch.full_like(right, 3.25),
    "are -1 x expected": lambda right: -right,
    "are 2.00 x expected": lambda right: 2 * right,
    "are 0.250 x expected": lambda right: right / 4,
    "are expected + 1.50": lambda right: right + 1.5,
    "are expected - 1.50": lambda right: right - 1.5,
    "are what the column before should be, where there is one": lambda right: right.roll(1, 1),
    "are what the column after should be, where there is one": lambda right: right.roll(-1, 1),
    "are what the row before should be": lambda right: right.roll(1, 0),
    "are what the other column of its pair should be": pairs,
    "are what the first column should be": lambda right: right[:, :1].expand_as(right),
    "are what the same column of the other half should be": lambda right: right.roll(24, 1),
    "are what the column at the same distance from the end should be": lambda right: right.flip(1),
    "are what the transposed place should hold": lambda right: right.t().reshape(right.shape),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_recognised(words: str, dtype: torch.dtype) -> None:
    right = expected(32, 48)
    assert said(partly(FAULTS[words])(right), right, dtype) == f"all wrong values {words}"


def test_a_factor_has_as_many_digits_as_are_known() -> None:
    right = expected(16, 16)
    assert said(1.001 * right, right, torch.float32) == "all wrong values are 1.001 x expected"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("words", FAULTS)
def test_one_value_that_does_not_fit_silences_it(words: str, dtype: torch.dtype) -> None:
    right = expected(32, 48)
    faulty = partly(FAULTS[words])(right)
    faulty[-1, 17] = 41.0
    assert said(faulty, right, dtype) == ""


@pytest.mark.parametrize("place", [1, 4_500_001, 8_999_999])
def test_every_value_of_a_large_output_is_asked(place: int) -> None:
    right = torch.ones(9_000_000, dtype=torch.float64)
    actual = torch.zeros(9_000_000)
    assert explain(actual != right, actual, right) == "all wrong values are 0"
    actual[place] = 0.5
    assert explain(actual != right, actual, right) == ""


@pytest.mark.parametrize("stray", [math.inf, -math.inf, math.nan, 1e30])
def test_no_infinity_is_a_multiple(stray: float) -> None:
    right = expected(16, 16)
    faulty = 1.1 * right
    faulty[3, 3] = stray
    assert said(faulty, right, torch.float32) == ""


BYTE_FAULTS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "are expected with its nibbles swapped": lambda right: (right << 4) | (right >> 4),
    "differ from expected in the low nibble only": lambda right: right ^ (codes(32, 48) & 15),
    "differ from expected in the high nibble only": lambda right: right ^ (codes(32, 48) & 240),
    "are expected with the bits 0x80 flipped": lambda right: right ^ 0x80,
    "are what the column before should be, where there is one": lambda right: right.roll(1, 1),
    "are 0": torch.zeros_like,
}


@pytest.mark.parametrize("words", BYTE_FAULTS)
def test_a_fault_of_bytes_is_recognised(words: str) -> None:
    right = codes(32, 48, seed=1)
    faulty = partly(BYTE_FAULTS[words])(right)
    assert said(faulty, right, torch.uint8) == f"all wrong values {words}"
    faulty[-1, 17] = right[-1, 17] ^ 0x5A
    assert said(faulty, right, torch.uint8) == ""


@pytest.mark.parametrize("kind", [k for k in POISONS if k != "nan"])
@pytest.mark.parametrize("dtype", [*FLOATS[::2], torch.uint8], ids=str)
def test_memory_that_nothing_wrote_is_recognised(kind: str, dtype: torch.dtype) -> None:
    with PoisonedAllocations(torch.device("cpu"), kind):
        actual = torch.empty(8, 16, dtype=dtype)
    right = torch.zeros(8, 16, dtype=dtype)
    words = "all wrong values are the poison of fresh memory: never written"
    assert explain(actual != right, actual, right) == words


def test_a_float16_that_saturates_is_not_called_poison() -> None:
    right = torch.full((8, 16), 1e6, dtype=torch.float64)
    actual = torch.full((8, 16), 65504.0, dtype=torch.float16)
    assert explain(actual != right, actual, right) == "all wrong values are 65504"


def test_a_slice_is_named_with_its_axis() -> None:
    right = expected(4, 8, 8)
    words = "are what the slice before along axis 0 should be, where there is one"
    assert said(right.roll(1, 0), right, torch.float32) == f"all wrong values {words}"


def test_one_wrong_value_is_singular() -> None:
    right = expected(4, 8)
    faulty = right.clone()
    faulty[1, 1] = 0
    found = describe(faulty != right, actual=faulty.float(), expected=right)
    assert found == "in row 1 of 4 and column 1 of 8; the wrong value is 0"


def test_nothing_is_said_of_nothing() -> None:
    right = expected(4, 8)
    assert explain(right != right.clone(), right.float(), right) == ""
    assert describe(right != right.clone(), actual=right.float(), expected=right) == ""


@given(st.sampled_from(FLOATS), st.integers(1, 200), st.integers(0, 2**32))
@LAW
def test_noise_has_no_cause(dtype: torch.dtype, count: int, seed: int) -> None:
    right = expected(16, 32, seed=seed)
    noise = expected(16, 32, seed=seed + 1)
    faulty = torch.where(torch.arange(512).view(16, 32) < count, noise, right)
    assert said(faulty, right, dtype) == ""


@given(st.integers(1, 200), st.integers(0, 2**32))
@LAW
def test_random_bytes_have_no_cause(count: int, seed: int) -> None:
    right, noise = codes(16, 32, seed=seed), codes(16, 32, seed=seed + 1)
    faulty = torch.where(torch.arange(512).view(16, 32) < count, noise, right)
    assert said(faulty, right, torch.uint8) in {"", "the wrong value is 0"}


@pytest.mark.parametrize(("octet", "words"), [(0, "are 0"), (0x7F, "are NaN"), (0xFF, "are NaN")])
def test_a_float8_is_spoken_of_as_a_float(octet: int, words: str) -> None:
    right = torch.arange(1, 97, dtype=torch.uint8).view(6, 16)
    faulty = torch.where(torch.arange(96).view(6, 16) % 5 == 1, octet, right)
    actual, due = (octets.view(torch.float8_e4m3fn) for octets in (faulty, right))
    assert explain(faulty != right, actual, due) == f"all wrong values {words}"


def test_the_largest_float8_may_be_a_value_that_saturates() -> None:
    right = torch.arange(1, 97, dtype=torch.uint8).view(torch.float8_e4m3fn)
    largest = torch.full_like(right, 448)
    words = explain(torch.ones(96, dtype=torch.bool), largest, right)
    assert words == "all wrong values are 448"
