"""Comparison rejects small real faults that usual tolerances accept, and no correct result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.budget import Budget
from harness.compare import Comparison, InvalidReference, compare, compare_exact, same_bits
from harness.compare_elements import judged
from harness.compare_host import measure
from harness.tally import Operands

if TYPE_CHECKING:
    from collections.abc import Callable

LAW = settings(derandomize=True, deadline=None, database=None)
NAN, INF = math.nan, math.inf
E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
BLOCK = 16
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, *HALVES)


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Gemm:
    """Codes of a 4-bit float with a scale per 16 of them along K, as a block-scaled GEMM has."""

    codes: tuple[Tensor, Tensor]
    scales: tuple[Tensor, Tensor]
    alpha: float

    @property
    def operands(self) -> tuple[Tensor, Tensor]:
        """A [m, k] and B [n, k], dequantized, exact in float32."""
        a, b = (
            codes * scales.repeat_interleave(BLOCK, dim=1)
            for codes, scales in zip(self.codes, self.scales, strict=True)
        )
        return a, b

    @cached_property
    def exact(self) -> Tensor:
        a, b = (operand.double() for operand in self.operands)
        return self.alpha * a @ b.T

    @cached_property
    def magnitude(self) -> Tensor:
        a, b = (operand.double().abs() for operand in self.operands)
        return abs(self.alpha) * a @ b.T

    def budget(self, dtype: torch.dtype = torch.bfloat16) -> Budget:
        return Budget(dtype=dtype, terms_summed=self.codes[0].shape[1])

    def judge(self, actual: Tensor) -> Comparison:
        return compare(actual, self.exact, self.magnitude, self.budget(actual.dtype))

    def by_blocks(self, length: int, store: torch.dtype) -> Tensor:
        """A sum of partial products over ``length`` of K each, kept in ``store``."""
        a, b = self.operands
        total = torch.zeros(len(a), len(b), dtype=store)
        for start in range(0, a.shape[1], length):
            part = slice(start, start + length)
            total += (a[:, part] @ b[:, part].T).to(store)
        return total.float() * self.alpha


def gemm(m: int, n: int, k: int, seed: int = 0) -> Gemm:
    generator = torch.Generator().manual_seed(seed)
    index = [torch.randint(0, 16, (rows, k), generator=generator) for rows in (m, n)]
    scales = [0.5 + torch.rand(rows, k // BLOCK, generator=generator) for rows in (m, n)]
    e4m3 = [scale.to(torch.float8_e4m3fn).float() for scale in scales]
    return Gemm((E2M1[index[0]], E2M1[index[1]]), (e4m3[0], e4m3[1]), alpha=0.0123)


CASE = gemm(128, 128, 512)


def stored(value: Tensor) -> Tensor:
    return value.float().to(torch.bfloat16)


def truncated(value: Tensor) -> Tensor:
    return (value.float().view(torch.int32) & -0x10000).view(torch.float32).to(torch.bfloat16)


def without_the_last_block(case: Gemm) -> Tensor:
    a, b = (operand[:, : -4 * BLOCK].double() for operand in case.operands)
    return stored(case.alpha * a @ b.T)


def with_the_last_row_zeroed(case: Gemm) -> Tensor:
    result = stored(case.exact)
    result[-1] = 0
    return result


def with_one_element_off(case: Gemm) -> Tensor:
    result = case.exact.clone()
    result[77, 31] += 0.5 * result.std()
    return stored(result)


def with_some_scales_up(case: Gemm) -> Tensor:
    """One in a hundred scales of B is the next larger value of its format."""
    a, b = case.scales
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(b.shape, generator=generator) < 0.01
    bits = b.to(torch.float8_e4m3fn).view(torch.uint8) + chosen.to(torch.uint8)
    moved = bits.view(torch.float8_e4m3fn).float()
    return stored(Gemm(case.codes, (a, moved), case.alpha).exact)


FAULTS: dict[str, Callable[[Gemm], Tensor]] = {
    "alpha x 2": lambda case: stored(case.exact * 2),
    "alpha x 1.05": lambda case: stored(case.exact * 1.05),
    "alpha x 1.005": lambda case: stored(case.exact * 1.005),
    "alpha x 1.001": lambda case: stored(case.exact * 1.001),
    "last K block dropped": without_the_last_block,
    "last row zeroed": with_the_last_row_zeroed,
    "one element off by 0.5 sigma": with_one_element_off,
    "the store truncates": lambda case: truncated(case.exact),
    "rounded twice, to fp16 and bf16": lambda case: case.exact.float().half().to(torch.bfloat16),
    "bf16 accumulation over 64-blocks": lambda case: stored(case.by_blocks(64, torch.bfloat16)),
    "1 % of the scales up by one ulp": with_some_scales_up,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_rejected(fault: str) -> None:
    verdict = CASE.judge(FAULTS[fault](CASE))
    assert not verdict.passed
    assert verdict.violations > 0
    assert verdict.worst > 1


def test_a_usual_tolerance_accepts_most_of_these_faults() -> None:
    """Cosine above 0.97, as flashinfer asks of ``mm_fp4``: the faults are in effect, and small."""
    exact = CASE.exact.flatten()

    def cosine(fault: str) -> float:
        value = FAULTS[fault](CASE).double().flatten()
        return float(value @ exact / (value.norm() * exact.norm()))

    accepted = [fault for fault in FAULTS if cosine(fault) > 0.97]
    assert set(FAULTS) - set(accepted) <= {"last K block dropped"}
    assert not any(same_bits(fault(CASE), stored(CASE.exact)) for fault in FAULTS.values())


def test_what_a_product_cannot_show_passes() -> None:
    """Nibbles swapped in both operands: the same sum in another order, seen in the bytes alone."""
    swapped = torch.arange(512).unflatten(0, (-1, 2)).flip(1).flatten()
    a, b = (codes[:, swapped] for codes in CASE.codes)
    assert not torch.equal(a, CASE.codes[0])
    assert CASE.judge(stored(Gemm((a, b), CASE.scales, CASE.alpha).exact)).passed
    assert not compare_exact(a, CASE.codes[0]).passed


def test_a_fault_in_one_place_is_found_there() -> None:
    one = CASE.judge(with_one_element_off(CASE))
    assert (one.violations, one.index) == (1, (77, 31))
    assert one.where == "in row 77 of 128 and column 31 of 128"
    row = CASE.judge(with_the_last_row_zeroed(CASE))
    assert row.where.startswith("in row 127 of 128 (the last)")


def test_rounding_once_is_accepted_at_half_an_ulp() -> None:
    verdict = CASE.judge(stored(CASE.exact))
    assert verdict.passed
    assert 0.9 < verdict.worst <= 1


def test_bias_tells_truncation_from_rounding() -> None:
    cut, fair = CASE.judge(truncated(CASE.exact)), CASE.judge(stored(CASE.exact))
    assert cut.bias < -0.4  # half of the elements lie a whole ulp nearer to zero
    assert "errors lean toward zero by 0.502 ulp" in str(cut)
    assert abs(fair.bias) < 0.01
    assert "lean" not in str(fair)


@pytest.mark.parametrize("block", range(10))
def test_no_correct_result_is_rejected(block: int) -> None:
    """In all 270 results: sums in one go, split in K, in another order, by blocks; three stores."""
    generator = torch.Generator().manual_seed(block)

    def one_of(choices: list[int]) -> int:
        return choices[int(torch.randint(0, len(choices), (), generator=generator))]

    for seed in range(3):
        m, n = one_of([1, 7, 16, 33, 64]), one_of([1, 8, 31, 64])
        case = gemm(m, n, one_of([16, 80, 512, 1008, 4080]), seed=100 * block + seed)
        a, b = case.operands
        backwards = (a.flip(1).contiguous() @ b.flip(1).contiguous().T) * case.alpha
        for result in ((a @ b.T) * case.alpha, case.by_blocks(64, torch.float32), backwards):
            for dtype in FLOATS:
                verdict = case.judge(result.to(dtype))
                assert verdict.passed, f"{(m, n)} {dtype}: {verdict}"


@given(st.integers(0, 2**32), st.integers(1, 200), st.sampled_from((*FLOATS, torch.float64)))
@LAW
def test_a_result_equal_to_its_reference_passes(seed: int, n: int, dtype: torch.dtype) -> None:
    value = torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(dtype)
    verdict = compare(value, value.double(), torch.zeros(n).double(), Budget(dtype=dtype))
    assert verdict.passed
    assert verdict.worst == 0


CLASSES = {
    "nan": NAN,
    "inf": INF,
    "-inf": -INF,
    "one": 1.0,
    "zero": 0.0,
    "largest": 65504.0,
}


@given(st.sampled_from(list(CLASSES)), st.sampled_from(list(CLASSES)), st.sampled_from(FLOATS))
@LAW
def test_every_special_value_matches_itself_alone(
    actual: str, expected: str, dtype: torch.dtype
) -> None:
    dtype = torch.float16 if "largest" in {actual, expected} else dtype
    reference = of(CLASSES[expected])
    magnitude = reference.abs().nan_to_num(1.0, 1.0)
    verdict = compare(of(CLASSES[actual]).to(dtype), reference, magnitude, Budget(dtype=dtype))
    assert verdict.passed == (actual == expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_nan_is_never_a_wildcard(dtype: torch.dtype) -> None:
    reference = of(1.0, NAN, INF, -INF, 2.0)
    magnitude = of(1.0, NAN, INF, INF, 2.0)
    budget = Budget(dtype=dtype, terms_summed=8)
    assert compare(reference.to(dtype), reference, magnitude, budget).passed
    for position in (0, 2, 3, 4):
        actual = reference.to(dtype)
        actual[position] = NAN
        verdict = compare(actual, reference, magnitude, budget)
        assert (verdict.violations, verdict.index) == (1, (position,))
        assert "actual nan" in str(verdict)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_reference_beyond_the_range_rounds_to_infinity(dtype: torch.dtype, sign: int) -> None:
    reference = sign * of(4 * torch.finfo(dtype).max)
    budget = Budget(dtype=dtype)
    infinity, largest = of(sign * INF).to(dtype), (reference / 4).to(dtype)
    assert compare(infinity, reference, reference.abs(), budget).passed
    assert not compare(largest, reference, reference.abs(), budget).passed
    assert not compare(-infinity, reference, reference.abs(), budget).passed


def test_within_the_budget_of_the_overflow_threshold_both_sides_pass() -> None:
    budget = Budget(dtype=torch.float16, terms_summed=64)
    threshold = of(65520.0)  # halfway from the largest finite value to the next that would be
    for reference in (threshold - 0.01, threshold, threshold + 0.01):
        for value in (65504.0, INF):
            actual = of(value).to(torch.float16)
            assert compare(actual, reference, of(65520.0), budget).passed
    assert not compare(of(-INF).to(torch.float16), threshold, threshold, budget).passed


@pytest.mark.parametrize("reference", [65472.0, 65490.0, 65504.0, 65519.0])
def test_infinity_is_wrong_where_the_reference_rounds_to_a_finite_value(reference: float) -> None:
    """As where a kernel forgets to saturate: 65504 is what the reference clamps to."""
    actual = of(INF).to(torch.float16)
    verdict = compare(actual, of(reference), of(0.0), Budget(dtype=torch.float16))
    assert verdict.violations == 1
    finite = of(reference).to(torch.float16)
    assert compare(finite, of(reference), of(0.0), Budget(dtype=torch.float16)).passed


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_subnormals_are_judged_by_their_own_spacing(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    budget, zero = Budget(dtype=dtype), of(0.0)
    for count in (0, 1, 5, 100):
        reference = of(count * step)
        for steps, passes in ((0, True), (1, True), (2, False), (100, False)):
            actual = (reference + steps * step).to(dtype)
            assert compare(actual, reference, zero, budget).passed is passes


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_small_values_flushed_to_zero_are_rejected(dtype: torch.dtype) -> None:
    reference = of(*(2.0**-e for e in range(10, 15)))
    verdict = compare(torch.zeros(5, dtype=dtype), reference, reference, Budget(dtype=dtype))
    assert verdict.violations == 5


def test_garbage_where_nothing_was_summed_is_rejected() -> None:
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    for dtype in FLOATS:
        garbage = torch.full((4, 4), 2.0**-12, dtype=dtype)
        assert compare(garbage, zeros, zeros, Budget(dtype=dtype)).violations == 16


def test_zero_has_no_sign_within_a_budget() -> None:
    assert compare(torch.tensor([-0.0]), of(0.0), of(0.0), Budget(dtype=torch.float32)).passed


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_nothing_compares_equal_to_nothing(shape: tuple[int, ...]) -> None:
    none = torch.zeros(shape)
    verdict = compare(none, none.double(), none.double(), Budget(dtype=torch.float32))
    assert verdict.passed
    assert (verdict.total, compare_exact(none, none).passed) == (0, True)


def test_a_scalar_is_compared() -> None:
    one = torch.ones((), dtype=torch.float64)
    budget = Budget(dtype=torch.float32)
    assert compare(one.float(), one, one, budget).passed
    verdict = compare(one.float() * 2, one, one, budget)
    assert (verdict.violations, verdict.index) == (1, ())


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (torch.zeros(2, 3), "metadata: shape (2, 3), expected (3, 2)"),
        (torch.zeros(6), "metadata: shape (6,), expected (3, 2)"),
        (torch.zeros(3, 1), "metadata: shape (3, 1), expected (3, 2)"),
        (torch.zeros(3, 2).half(), "metadata: dtype torch.float16, expected torch.float32"),
        (torch.zeros(3, 2).double(), "metadata: dtype torch.float64, expected torch.float32"),
    ],
)
def test_another_shape_or_dtype_fails_without_broadcasting(actual: Tensor, message: str) -> None:
    expected = torch.zeros(3, 2, dtype=torch.float64)
    verdict = compare(actual, expected, expected, Budget(dtype=torch.float32))
    assert not verdict.passed
    assert str(verdict) == message


@pytest.mark.parametrize(
    ("magnitude", "message"),
    [
        (of(1.0), r"magnitude has shape \(1,\), expected \(2,\)"),
        (of(1.0, -1e-300), r"magnitude has a negative value -1e-300"),
        (of(1.0, NAN), "magnitude"),
        (of(1.0, INF), "magnitude"),
    ],
)
def test_a_magnitude_that_bounds_nothing_is_the_references_fault(
    magnitude: Tensor, message: str
) -> None:
    with pytest.raises(InvalidReference, match=message):
        compare(torch.zeros(2), of(0.0, 1.0), magnitude, Budget(dtype=torch.float32))


def test_bytes_are_compared_bit_for_bit() -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    assert compare_exact(codes, codes.clone()).passed
    for bit in range(8):
        flipped = codes.clone()
        flipped[3, 5] ^= 1 << bit
        verdict = compare_exact(flipped, codes)
        assert (verdict.violations, verdict.index) == (1, (3, 5))


def test_swapped_nibbles_are_seen_in_bytes() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    swapped = codes << 4 | codes >> 4
    assert compare_exact(swapped, codes).violations == 240


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_exact_floats_have_signed_zeros_and_one_nan(dtype: torch.dtype) -> None:
    value = torch.tensor([0.0, 1.0, NAN, INF], dtype=dtype)
    assert compare_exact(value, value.clone()).passed
    assert compare_exact(torch.tensor([0.0, 1.0, -NAN, INF], dtype=dtype), value).passed
    for position, other in ((0, -0.0), (1, NAN), (2, 2.0), (3, -INF), (3, NAN)):
        actual = value.clone()
        actual[position] = other
        verdict = compare_exact(actual, value)
        assert (verdict.violations, verdict.index) == (1, (position,))


@given(st.integers(0, 0x7BFE), st.sampled_from((-1, 1)))
@LAW
def test_one_ulp_is_seen_in_exact_floats(bits: int, sign: int) -> None:
    pattern = torch.tensor([bits, bits + 1], dtype=torch.int16).view(torch.float16) * sign
    assert not compare_exact(pattern[:1], pattern[1:]).passed
    assert not same_bits(pattern[:1], pattern[1:])


def test_large_integers_that_round_alike_are_told_apart() -> None:
    verdict = compare_exact(torch.tensor([2**53 + 1]), torch.tensor([2**53]))
    assert (verdict.violations, verdict.index) == (1, (0,))


def test_same_bits_asks_for_shape_dtype_and_payload() -> None:
    one = torch.tensor([1.0, NAN])
    assert same_bits(one, one.clone())
    assert not same_bits(one, one.reshape(2, 1))
    assert not same_bits(one, one.double())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))


def test_a_strided_result_is_compared_by_its_values() -> None:
    expected = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    strided = expected.float().T.contiguous().T
    assert compare(strided, expected, expected, Budget(dtype=torch.float32)).passed
    assert compare_exact(strided, expected.float()).passed


def test_a_report_says_how_many_which_and_where() -> None:
    expected = torch.ones(4, 8, dtype=torch.float64)
    actual = expected.float()
    actual[2, 3] = 1.5
    verdict = compare(actual, expected, expected, Budget(dtype=torch.float32))
    assert str(verdict).startswith(
        "budget: 1 of 32 elements wrong; worst at [2, 3]: actual 1.5, expected 1, "
    )
    assert str(verdict).endswith("x its budget; in row 2 of 4 and column 3 of 8")
    right = compare(expected.float(), expected, expected, Budget(dtype=torch.float32))
    assert str(right) == "budget: 0 of 32 elements wrong, worst at 0.00 of its budget"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_few_elements_of_other_bits_are_counted_as_if_all_were_judged(dtype: torch.dtype) -> None:
    expected = torch.randn(200, 300, generator=torch.Generator().manual_seed(3)).to(dtype)
    expected[100, ::7], expected[101, 4], expected[102, 5] = torch.inf, torch.nan, -0.0
    actual = expected.clone()
    bits = actual.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    bits[::17, ::13] ^= 1
    actual[3, 5] *= 1.5
    actual[199, 299], actual[100, 7], actual[102, 5] = torch.nan, 1.0, 0.0
    operands = Operands(actual, expected, None, None, Budget(dtype=dtype, terms_summed=16))
    found, each = measure(operands), judged(operands)
    assert found.violations == int(each.wrong.sum())
    assert found.mismatches == int(each.mismatch.sum())
    assert found.violations >= 3
    assert found.counted == each.finite.sum()
    assert found.worst == each.units.max()
    sign = torch.where(expected.signbit(), -1.0, 1.0).double()
    sums = {
        "steps": each.step.sum(),
        "steps_outward": (each.step * sign).sum(),
        "squared_steps": each.step.square().sum(),
        "absolute": each.error.abs().sum(),
        "squared": each.error.square().sum(),
    }
    for name, value in sums.items():
        assert getattr(found, name) == pytest.approx(float(value)), name
    tile = each.units[:64, 256:].max()
    assert found.tiles is not None
    assert found.tiles[0, 4] == pytest.approx(float(tile))
