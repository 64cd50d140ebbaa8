"""Each kind of number keeps its promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import draws
from harness.draws import GROUP
from suites.meta.laws import LAW

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
seeds = st.integers(0, 2**32)


def drawn(
    name: str,
    shape: tuple[int, ...] = (64, 128),
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
) -> torch.Tensor:
    made: torch.Tensor = getattr(draws, name)(shape, dtype, torch.Generator().manual_seed(seed))
    return made


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_is_standard_normal(dtype: torch.dtype) -> None:
    made = drawn("normal", (512, 512), dtype).flatten().sort().values.double()
    assert abs(float(made.mean())) < 0.01
    assert abs(float(made.std()) - 1) < 0.01
    ranks = (torch.arange(len(made)) + 0.5) / len(made)
    assert (torch.special.ndtr(made) - ranks).abs().max() < 0.004  # Kolmogorov, Smirnov: 1.36 / 512
    assert made[-1] > 4


def test_normal_float32_values_use_their_mantissas() -> None:
    made = drawn("normal", (512, 512))
    assert len(made.unique()) > 200_000
    assert made.view(torch.int32).bitwise_and(1).float().mean() > 0.4


@pytest.mark.parametrize(
    "name", ["normal", "exact", "outlier", "tiny", "huge", "cancelling", "ties", "special", "probe"]
)
def test_a_transpose_shows(name: str) -> None:
    for seed in range(20):
        square = drawn(name, (64, 64), seed=seed)
        assert not torch.equal(square, square.T)


@given(seeds)
@LAW
def test_exact_values_are_small_integers_whose_sums_no_order_changes(seed: int) -> None:
    made = drawn("exact", seed=seed)
    assert torch.equal(made.sum(1), made.double().sum(1).float())
    assert made.unique().tolist() == [*range(-3, 5)]


@given(seeds)
@LAW
def test_a_constant_is_one_value_and_not_zero(seed: int) -> None:
    (value,) = drawn("constant", seed=seed).unique().tolist()
    assert 0.75 <= value <= 7.75


def mode_of(made: torch.Tensor) -> str:
    """Which probe it is: blocks have no zero, a permutation no column twice."""
    if made.all():
        return "blocks"
    return "one-hot" if ((made != 0).sum(0) > 1).any() else "permutation"


def test_a_probe_has_three_modes_that_the_seed_chooses() -> None:
    modes = [mode_of(drawn("probe", (40, 48), seed=seed)) for seed in range(60)]
    assert min(modes.count(mode) for mode in ("blocks", "one-hot", "permutation")) >= 10


@given(st.integers(1, 70), st.integers(1, 70), seeds)
@LAW
def test_a_probes_magnitudes_tell_rows_or_blocks(rows: int, columns: int, seed: int) -> None:
    made = drawn("probe", (rows, columns), torch.bfloat16, seed=seed)
    assert torch.equal(made.bfloat16().float(), made)
    if not made.all():
        assert ((made != 0).sum(1) == 1).all()
        assert made.sum(1).tolist() == [1 + row % 61 for row in range(rows)]


def test_neighbouring_blocks_differ_and_a_block_is_even() -> None:
    made = draws.blocks((64, 96))
    grid = made.unflatten(0, (4, 16)).unflatten(2, (6, 16))
    assert (grid.amax((1, 3)) == grid.amin((1, 3))).all()
    corner = grid[:, 0, :, 0]
    assert len(corner.unique()) == corner.numel()


def test_a_permutation_has_each_column_once_before_any_twice() -> None:
    places = draws.places((50, 20), torch.Generator().manual_seed(3), apart=True)
    for start in (0, 20):
        assert (places[start : start + 20].sum(0) == 1).all()
    assert not torch.equal(places[:20], places[20:40])


def test_what_goes_with_a_probe_is_never_mostly_zero() -> None:
    for seed in range(10):
        made = drawn("probe_beside", (32, 60), seed=seed)
        assert made.all()
        assert len(made.unique()) >= 8


def test_outliers_stand_in_whole_channels() -> None:
    spread = drawn("outlier", (256, 256)).std(0)
    large = spread > 8
    assert 4 <= int(large.sum()) <= 40
    assert spread[~large].max() < 2
    assert spread[large].min() > 32


@given(seeds)
@LAW
def test_tiny_values_are_tiny_and_not_all_zero(seed: int) -> None:
    for dtype in FLOATS:
        made = drawn("tiny", dtype=dtype, seed=seed).to(dtype)
        assert made.abs().median() < 1e-3
        assert made.any()


@given(seeds)
@LAW
def test_huge_values_are_near_the_top_and_of_both_signs(seed: int) -> None:
    for dtype in FLOATS:
        made = drawn("huge", dtype=dtype, seed=seed).to(dtype).double()
        top = min(torch.finfo(dtype).max / 8, 2.0**55)
        assert made.abs().min() >= top / 2
        assert made.abs().max() <= top
        assert made.min() < 0 < made.max()


def test_squares_of_huge_values_still_sum_in_float32() -> None:
    made = drawn("huge", (4, 4096), torch.bfloat16).bfloat16().float()
    assert made.square().sum(1).isfinite().all()


@given(seeds)
@LAW
def test_cancelling_neighbours_leave_next_to_nothing(seed: int) -> None:
    pairs = drawn("cancelling", seed=seed).double().flatten().unflatten(0, (-1, 2))
    assert (pairs.sum(1).abs() <= pairs.abs().amax(1) * 2.0**-5).all()
    assert pairs.sum(1).any()


@given(st.integers(1, 8), st.integers(1, 4), st.sampled_from(FLOATS), seeds)
@LAW
def test_ties_are_exact_midpoints_of_int4_codes(
    rows: int, groups: int, dtype: torch.dtype, seed: int
) -> None:
    """Divided by the scale, a group's maximum / 7, every other value lies between two codes."""
    made = drawn("ties", (rows, groups * GROUP), dtype, seed=seed).to(dtype).double()
    scale = made.unflatten(1, (groups, GROUP)).abs().amax(2, keepdim=True) / 7
    assert torch.equal(scale.log2(), scale.log2().round())
    quotients = made.unflatten(1, (groups, GROUP)) / scale
    assert ((quotients % 1 == 0.5) | (quotients == 7)).all()


def test_ties_tell_half_to_even_from_half_away() -> None:
    groups = drawn("ties").unflatten(1, (-1, GROUP))
    quotients = groups / (groups.amax(2, keepdim=True) / 7)
    away = quotients.sign() * (quotients.abs() + 0.5).floor()
    assert (quotients.round() != away).float().mean() > 0.3


def test_ties_have_scales_of_their_own() -> None:
    assert len((drawn("ties").unflatten(1, (-1, GROUP)).amax(2) / 7).unique()) == 7


def test_zero_groups_stand_among_others() -> None:
    kinds = set()
    for seed in range(40):
        groups = drawn("zero", seed=seed).reshape(-1, GROUP).any(1)
        kinds.add((bool(groups.any()), bool(groups.all())))
    assert kinds == {(True, False), (False, False)}


def test_special_values_are_all_there_and_few() -> None:
    made = drawn("special", (128, 128))
    counts = {
        "nan": int(made.isnan().sum()),
        "inf": int((made == math.inf).sum()),
        "-inf": int((made == -math.inf).sum()),
        "-0": int(((made == 0) & made.signbit()).sum()),
    }
    assert all(128 <= count <= 384 for count in counts.values()), counts


@given(st.integers(-120, 120), st.integers(1, 7), seeds)
@LAW
def test_scales_have_the_exponents_that_were_asked_for(low: int, count: int, seed: int) -> None:
    exponents, generator = range(low, low + count), torch.Generator().manual_seed(seed)
    for made in (
        draws.positive(exponents, (400,), generator),
        draws.powers_of_two(exponents, (400,), generator),
    ):
        found = torch.frexp(made.double()).exponent - 1
        assert found.unique().tolist() == list(exponents)
    assert torch.equal(made.double(), torch.ldexp(torch.ones(400), found).double())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.int8, [-128, 127, -128, 0, 2, 2, -3]),
        (torch.uint8, [0, 255, 0, 0, 2, 2, 3]),
        (torch.bool, [False, True, False, False, True, True, False]),
        (torch.float8_e4m3fn, [math.nan, 448, -448, 0, 1.5, 2.5, -3.25]),
    ],
)
def test_values_are_kept_within_a_dtype(dtype: torch.dtype, expected: list[float]) -> None:
    values = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1.5, 2.5, -3.25])
    made = draws.to_dtype(values, dtype)
    assert made.dtype is dtype
    assert torch.equal(made.double().nan_to_num(7), torch.tensor(expected).double().nan_to_num(7))
