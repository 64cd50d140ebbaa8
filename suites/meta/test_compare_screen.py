"""The screen on the CPU clears nothing that `judged` rejects, at every edge of a format."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.budget import Budget, Term
from harness.compare_elements import Judged, judged
from harness.compare_host import PIECE, measure, pieces
from harness.tally import SHARP, TILE, Operands, Tally

LAW = settings(derandomize=True, deadline=None, database=None, max_examples=60)
HALVES = (torch.float16, torch.bfloat16)
OUTPUTS = (*HALVES, torch.float32, torch.float64)
REFERENCES = (torch.float64, torch.float32, *HALVES)
SHAPE = (70, 130)  # neither whole tiles nor a whole row of them
BUDGETS = {
    "nothing accumulates": Budget(dtype=torch.float32, terms_summed=0),
    "short": Budget(dtype=torch.float32),
    "long": Budget(dtype=torch.float32, terms_summed=4096, terms=(Term(ulps=2, because="test"),)),
    "wide": Budget(dtype=torch.float32, terms=(Term(relative=0.5, because="test"),)),
}


@dataclass(frozen=True)
class Draw:
    """Values near every edge of the output's format, from one generator."""

    dtype: torch.dtype
    generator: torch.Generator

    def choice(self, values: list[float]) -> Tensor:
        index = torch.randint(0, len(values), SHAPE, generator=self.generator)
        return torch.tensor(values, dtype=torch.float64)[index]

    def uniform(self) -> Tensor:
        return torch.rand(SHAPE, dtype=torch.float64, generator=self.generator)

    def expected(self) -> Tensor:
        """Binades from the subnormals to beyond the largest, and their edges, of either sign."""
        info = torch.finfo(self.dtype)
        least = math.log2(info.smallest_normal) + math.log2(info.eps) - 3
        most = math.log2(info.max) + 1.5
        near = self.choice([0, -1, 0, 4, math.log2(info.smallest_normal), math.log2(info.max)])
        anywhere = least + (most - least) * self.uniform()
        exponent = torch.where(self.uniform() < 0.7, near, anywhere).round()
        edge = self.choice([1, 1 - 2.0**-26, 1 + 2.0**-26, 1 - 2.0**-24, 2 - info.eps / 2, 1.5])
        place = torch.where(self.uniform() < 0.5, edge, 1 + self.uniform())
        value = torch.ldexp(place, exponent.int()) * self.choice([1, -1])
        special = self.choice([0.0, -0.0, math.inf, -math.inf, math.nan, 1e39, -1e300, 1e-320])
        return torch.where(self.uniform() < 0.02, special, value)

    def actual(self, expected: Tensor) -> Tensor:
        """The reference rounded, moved by some ulps; now and then something else."""
        rounded = expected.to(self.dtype)
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.dtype.itemsize]
        steps = self.choice([0, 0, 0, 1, -1, 2, -3]).to(kind)
        moved = (rounded.view(kind) + steps).view(self.dtype)
        other = self.choice([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, 2.0**-10])
        return torch.where(self.uniform() < 0.02, other.to(self.dtype), moved)

    def near_budget(self, actual: Tensor, budget: Budget) -> Tensor:
        """References as far from ``actual`` as is allowed, but for up to a millionth."""
        share = 1 + self.choice([0, 1e-6, -1e-6, 1e-9, -1e-9, 2.0**-17, -(2.0**-17)])
        side = self.choice([1, -1])
        value = actual.double()
        expected = value
        for _ in range(8):
            expected = value + side * share * budget.allowed(expected, expected.abs())
        return expected

    def magnitude(self, actual: Tensor, expected: Tensor, budget: Budget) -> Tensor:
        """What just allows the error, or just does not; else a multiple of the reference."""
        share = 1 + self.choice([1e-6, -1e-6, 2.0**-17, -(2.0**-17)])
        rest = budget.allowed(expected, torch.zeros_like(expected))
        needed = (actual.double() - expected).abs() * share - rest
        just = needed / max(budget.of_magnitude, 2.0**-40)
        multiple = expected.abs() * self.choice([0, 1, 50, 1e4])
        return torch.where(self.uniform() < 0.5, just, multiple).nan_to_num(0, 0, 0).clamp(0, 1e300)


def draw(
    seed: int, dtype: torch.dtype, reference: torch.dtype, budget: Budget, bounds: str
) -> Operands:
    source = Draw(dtype, torch.Generator().manual_seed(seed))
    expected = source.expected()
    actual = source.actual(expected)
    close = source.near_budget(actual, budget)
    expected = torch.where(source.uniform() < 0.5, close, expected).to(reference)
    wide = expected.double()
    magnitude = source.magnitude(actual, wide, budget) if "magnitude" in bounds else None
    near = wide.abs().nan_to_num(0, 0, 0) * source.choice([0, 2.0**-12, 2.0**-9])
    return Operands(actual, expected, magnitude, near if "near ties" in bounds else None, budget)


def assert_judged(found: Tally, each: Judged) -> None:
    assert found.violations == int(each.wrong.sum())
    assert found.mismatches == int(each.mismatch.sum())
    if found.violations:  # of others, one at the edge of a binade may be taken for the worst
        assert found.worst == pytest.approx(float(each.units.max()), rel=1e-6)
    padded = torch.zeros(2 * TILE, 3 * TILE, dtype=torch.float64)
    padded[: SHAPE[0], : SHAPE[1]] = each.units
    tiles = padded.view(2, TILE, 3, TILE).amax((1, 3))
    assert found.tiles is not None
    assert bool((found.tiles.double() >= tiles * (1 - 2.0**-18)).all())


@given(
    st.integers(0, 2**32),
    st.sampled_from(OUTPUTS),
    st.sampled_from(REFERENCES),
    st.sampled_from(list(BUDGETS)),
    st.sampled_from(("", "magnitude", "magnitude, near ties", "near ties")),
)
@LAW
def test_the_screen_agrees_with_the_judgement_of_each_element(
    seed: int, dtype: torch.dtype, reference: torch.dtype, budget: str, bounds: str
) -> None:
    whole = draw(seed, dtype, reference, replace(BUDGETS[budget], dtype=dtype), bounds)
    each = judged(whole)
    assert 0 < int(each.wrong.sum()) < each.wrong.numel()
    assert_judged(measure(whole), each)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("reference", [torch.float64, torch.float32], ids=str)
def test_a_sum_that_cancels_to_nothing_is_not_excused_by_its_terms(
    dtype: torch.dtype, reference: torch.dtype
) -> None:
    """In units of the least ulp, magnitudes overflow float32; what they allow does not."""
    actual = torch.zeros(SHAPE, dtype=dtype)
    actual[3, 5] = 2.0**-10
    zero, four = torch.zeros(SHAPE, dtype=reference), torch.full(SHAPE, 4.0, dtype=reference)
    assert measure(Operands(actual, zero, four, None, Budget(dtype=dtype))).violations == 1


def test_a_magnitude_beyond_float32_excuses_what_it_bounds_alone() -> None:
    """3.4e38 is off by twice that; 2^-22 of the first magnitude allows 2e38 of it, not so 1e39."""
    actual = torch.full(SHAPE, 3e38, dtype=torch.bfloat16)
    expected = -actual.double()
    for magnitude, wrong in ((1e39, True), (1e46, False)):
        bound = torch.full(SHAPE, magnitude, dtype=torch.float64)
        found = measure(Operands(actual, expected, bound, None, Budget(dtype=torch.bfloat16)))
        assert found.violations == wrong * actual.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_reference_that_rounds_to_infinity_leaves_sums_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    beyond = largest * (1 + 0.2515 * torch.finfo(dtype).eps)  # by half an ulp and a little
    expected = torch.full(SHAPE, beyond, dtype=torch.float64)
    assert bool(expected.to(dtype).isinf().all())
    actual = torch.full(SHAPE, largest, dtype=dtype)
    budget = Budget(dtype=dtype, terms_summed=4096)
    found = measure(Operands(actual, expected, None, None, budget))
    assert found.violations == 0
    assert math.isfinite(found.squared_steps)
    assert math.isfinite(found.squared)


@pytest.mark.parametrize("bounds", ["", "magnitude", "magnitude, near ties"])
@pytest.mark.parametrize("dtype", OUTPUTS, ids=str)
@pytest.mark.parametrize("reference", REFERENCES, ids=str)
def test_sums_are_those_of_the_judged_elements(
    dtype: torch.dtype, reference: torch.dtype, bounds: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(200, 300, dtype=torch.float64, generator=generator)
    noise = torch.randn(200, 300, dtype=torch.float64, generator=generator)
    actual = (exact * (1 + 3 * torch.finfo(dtype).eps * noise)).to(dtype)
    actual[7, 9], actual[199, 299] = torch.nan, 3.0
    expected = exact.to(reference)
    whole = Operands(
        actual,
        expected,
        3 + 1000 * noise.abs() if "magnitude" in bounds else None,
        2.0**-14 * noise.abs() if "near ties" in bounds else None,
        Budget(dtype=dtype, terms_summed=16),
    )
    found, each = measure(whole), judged(whole)
    counted = each.finite & (each.reach <= SHARP if whole.reach_varies else True)
    assert found.counted == pytest.approx(int(counted.sum()), abs=1)
    step, error = each.step[counted], each.error[counted]
    sums = {
        "steps": step.sum(),
        "steps_outward": torch.where(expected.signbit()[counted], -step, step).sum(),
        "squared_steps": step.square().sum(),
        "absolute": error.abs().sum(),
        "squared": error.square().sum(),
    }
    for name, value in sums.items():
        size = float(step.abs().sum()) if "steps" in name else 0
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-5, abs=1e-5 * size), name
    if whole.reach_varies:
        reach = float(each.reach[counted].sum())
        assert found.allowance == pytest.approx(reach, rel=1e-4)


@given(
    st.integers(1, 400), st.integers(1, 400), st.sampled_from((TILE, 4 * TILE, 100 * TILE, PIECE))
)
@LAW
def test_pieces_cover_a_matrix_once_and_keep_to_rows_of_tiles(
    rows: int, columns: int, most: int
) -> None:
    covered = torch.zeros(rows, columns, dtype=torch.int8)
    for across, along in pieces(rows, columns, piece=most):
        covered[across, along] += 1
        assert covered[across, along].numel() <= most
        assert along.start % TILE == 0
        same = across.start // TILE == (across.stop - 1) // TILE
        assert same or across.start % TILE == 0
    assert bool((covered == 1).all())


@pytest.mark.parametrize("shape", [(1, 300_000), (300_000, 1), (3, 200_001), (130, 9000)], ids=str)
def test_a_wrong_element_is_found_in_every_piece(shape: tuple[int, int]) -> None:
    expected = torch.ones(shape)
    firsts = [(across.start, along.start) for across, along in pieces(*shape)]
    lasts = [(across.stop - 1, along.stop - 1) for across, along in pieces(*shape)]
    for chosen in (firsts, lasts, lasts[:1]):
        actual = expected.clone()
        for place in chosen:
            actual[place] = 1.25
        found = measure(Operands(actual, expected, None, None, Budget(dtype=torch.float32)))
        assert found.violations == len(chosen)
        assert found.tiles is not None
        assert all(found.tiles[row // TILE, column // TILE] > 1 for row, column in chosen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("beyond", [1e-6, -1e-6])
def test_a_millionth_beyond_the_budget_is_seen_though_nothing_else_is_wrong(
    dtype: torch.dtype, beyond: float
) -> None:
    budget = Budget(dtype=dtype, terms_summed=64)
    expected = torch.full(SHAPE, 1.5, dtype=torch.float64)
    magnitude = torch.ones_like(expected)
    error = 2 * torch.finfo(dtype).eps
    rest = float(budget.allowed(expected[0, 0], torch.zeros((), dtype=torch.float64)))
    magnitude[3, 5] = (error / (1 + beyond) - rest) / budget.of_magnitude
    actual = expected.to(dtype)
    actual[3, 5] += error
    found = measure(Operands(actual, expected, magnitude, None, budget))
    assert found.violations == (beyond > 0)
    assert found.index == 3 * SHAPE[1] + 5
    assert found.worst == pytest.approx(1 + beyond, abs=1e-8)
