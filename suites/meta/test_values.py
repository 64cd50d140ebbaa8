"""Each value family keeps its promise, and comes from the generator it is given alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.declare import ROLES
from harness.values import FAMILIES, GROUP, UnknownFamily, make

if TYPE_CHECKING:
    from torch import Tensor

LAW = settings(derandomize=True, deadline=None, database=None)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FAMILY = tuple(FAMILIES)
FINITE = tuple(family for family in FAMILIES if family != "special")


def values(
    family: str,
    shape: tuple[int, ...] = (64, 128),
    dtype: torch.dtype = torch.float32,
    *,
    role: str = "data",
    seed: int = 0,
) -> Tensor:
    return make(role, family, shape, dtype, torch.Generator().manual_seed(seed))


def same(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), two.view(torch.uint8))


shapes = st.one_of(st.tuples(st.integers(0, 9)), st.tuples(st.integers(0, 9), st.integers(0, 130)))
seeds = st.integers(0, 2**32)


@given(st.sampled_from(ROLES), st.sampled_from(FAMILY), shapes, st.sampled_from(FLOATS), seeds)
@LAW
def test_values_have_the_shape_and_dtype_that_were_asked_for(
    role: str, family: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    made = values(family, shape, dtype, role=role, seed=seed)
    assert tuple(made.shape) == shape
    assert made.dtype is (torch.uint8 if role == "code" else dtype)
    assert made.is_contiguous()


@given(st.sampled_from(ROLES), st.sampled_from(FAMILY), seeds)
@LAW
def test_the_generator_alone_decides(role: str, family: str, seed: int) -> None:
    before = torch.random.get_rng_state()
    one = values(family, (8, 128), role=role, seed=seed)
    two = values(family, (8, 128), role=role, seed=seed)
    assert same(one, two)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", sorted(set(FAMILY) - {"zero"}))
def test_another_seed_makes_other_values(family: str) -> None:
    assert len({values(family, seed=seed).numpy().tobytes() for seed in range(40)}) > 5


@pytest.mark.parametrize("role", ROLES)
def test_an_unknown_family_lists_the_known_ones(role: str) -> None:
    with pytest.raises(UnknownFamily, match="values='nromal' is unknown; families: normal, exact"):
        values("nromal", role=role)


@given(st.sampled_from(FINITE), st.sampled_from(("data", "weight", "scale")), seeds)
@LAW
def test_values_are_finite_in_every_dtype(family: str, role: str, seed: int) -> None:
    for dtype in FLOATS:
        assert values(family, (8, 64), dtype, role=role, seed=seed).isfinite().all()


@given(st.sampled_from(sorted(set(FINITE) - {"constant", "zero"})), seeds)
@LAW
def test_a_transpose_shows(family: str, seed: int) -> None:
    square = values(family, (64, 64), seed=seed)
    assert not torch.equal(square, square.T)


def test_normal_is_standard_normal() -> None:
    made = values("normal", (256, 256))
    assert abs(float(made.mean())) < 0.02
    assert abs(float(made.std()) - 1) < 0.02


@given(seeds)
@LAW
def test_exact_values_are_small_integers_whose_sums_no_order_changes(seed: int) -> None:
    made = values("exact", (64, 128), torch.bfloat16, seed=seed).float()
    assert torch.equal(made, made.round())
    assert made.abs().max() <= 3
    assert torch.equal(made.sum(1), made.double().sum(1).float())
    assert len(made.unique()) == 7


@given(seeds)
@LAW
def test_a_constant_is_one_value_and_not_zero(seed: int) -> None:
    made = values("constant", seed=seed)
    assert len(made.unique()) == 1
    assert made.flatten()[0] != 0


@given(st.integers(1, 70), st.integers(1, 70), seeds)
@LAW
def test_a_probe_has_one_value_a_row_that_tells_the_row(rows: int, columns: int, seed: int) -> None:
    made = values("probe", (rows, columns), torch.bfloat16, seed=seed)
    assert ((made != 0).sum(1) == 1).all()
    assert made.float().sum(1).tolist() == [1 + row % 61 for row in range(rows)]


def test_outliers_stand_in_whole_channels() -> None:
    made = values("outlier", (256, 256))
    spread = made.std(0)
    large = spread > 8
    assert 4 <= int(large.sum()) <= 40
    assert spread[~large].max() < 2
    assert spread[large].min() > 32


@given(seeds)
@LAW
def test_tiny_values_are_tiny_in_every_dtype_and_not_all_zero(seed: int) -> None:
    for dtype in FLOATS:
        made = values("tiny", dtype=dtype, seed=seed).float()
        assert made.abs().max() < 2.0**-7
        assert made.any()


@given(seeds)
@LAW
def test_huge_values_are_near_the_top_and_of_both_signs(seed: int) -> None:
    for dtype in FLOATS:
        made = values("huge", dtype=dtype, seed=seed).double()
        top = min(torch.finfo(dtype).max / 8, 2.0**55)
        assert made.abs().min() >= top / 2
        assert made.abs().max() <= top
        assert made.min() < 0 < made.max()


def test_squares_of_huge_values_still_sum_in_float32() -> None:
    made = values("huge", (4, 4096), torch.bfloat16).float()
    assert made.square().sum(1).isfinite().all()


@given(seeds)
@LAW
def test_cancelling_neighbours_leave_next_to_nothing(seed: int) -> None:
    made = values("cancelling", seed=seed).double().flatten()
    pairs = made.unflatten(0, (-1, 2))
    assert (pairs.sum(1).abs() <= pairs.abs().amax(1) * 2.0**-5).all()
    assert pairs.sum(1).any()


@given(st.integers(1, 8), st.integers(1, 4), st.sampled_from(FLOATS), seeds)
@LAW
def test_ties_are_exact_midpoints_of_int4_codes(
    rows: int, groups: int, dtype: torch.dtype, seed: int
) -> None:
    """Divided by scale = max / 7 = 1, every other value lies halfway between two codes."""
    made = values("ties", (rows, groups * GROUP), dtype, seed=seed).double()
    assert torch.equal(
        made.unflatten(1, (groups, GROUP)).abs().amax(2), torch.full((rows, groups), 7.0).double()
    )
    rest = made[made != 7]
    assert torch.equal(rest - rest.floor(), torch.full_like(rest, 0.5))


def test_ties_tell_half_to_even_from_half_away() -> None:
    made = values("ties", dtype=torch.bfloat16).float()
    away = made.sign() * (made.abs() + 0.5).floor()
    assert (made.round() != away).float().mean() > 0.3


@pytest.mark.parametrize("role", ["weight", "scale"])
def test_what_goes_with_ties_does_not_move_them(role: str) -> None:
    made = values("ties", (256,), role=role).double()
    assert (made == 1).all() if role == "scale" else made.any()


def test_zero_groups_stand_among_others() -> None:
    kinds = set()
    for seed in range(40):
        groups = values("zero", seed=seed).reshape(-1, GROUP).any(1)
        kinds.add((bool(groups.any()), bool(groups.all())))
    assert kinds == {(True, False), (False, False)}


def test_special_values_are_all_there_and_few() -> None:
    made = values("special", (128, 128))
    counts = {
        "nan": int(made.isnan().sum()),
        "inf": int((made == math.inf).sum()),
        "-inf": int((made == -math.inf).sum()),
        "-0": int(((made == 0) & made.signbit()).sum()),
    }
    assert all(128 <= count <= 384 for count in counts.values()), counts


@pytest.mark.parametrize("family", ["huge", "tiny", "special", "zero"])
def test_a_weight_stays_ordinary_beside_extreme_data(family: str) -> None:
    assert same(values(family, role="weight"), values("normal", role="weight"))


@given(st.sampled_from(FAMILY), st.sampled_from(FLOATS), seeds)
@LAW
def test_scales_are_positive_and_moderate(family: str, dtype: torch.dtype, seed: int) -> None:
    made = values(family, (4, 32), dtype, role="scale", seed=seed).double()
    assert made.min() >= 0.25
    assert made.max() <= 4


@pytest.mark.parametrize("family", ["exact", "probe"])
def test_scales_are_powers_of_two_where_results_are_exact(family: str) -> None:
    made = values(family, (4, 32), role="scale")
    assert torch.equal(made.log2(), made.log2().round())
    assert len(made.unique()) > 2


@pytest.mark.parametrize("family", sorted(set(FAMILY) - {"zero", "probe"}))
def test_codes_cover_every_byte(family: str) -> None:
    assert len(values(family, (64, 128), role="code").unique()) == 256


@given(seeds)
@LAW
def test_a_probe_of_codes_has_one_nibble_a_row(seed: int) -> None:
    made = values("probe", (16, 32), role="code", seed=seed)
    assert ((made != 0).sum(1) == 1).all()
    assert set(made.unique().tolist()) <= {0, 3, 5 << 4}


def test_a_probe_of_codes_uses_both_nibbles() -> None:
    made = values("probe", (64, 32), role="code")
    assert set(made.unique().tolist()) == {0, 3, 5 << 4}


def test_zero_codes_are_zero() -> None:
    assert not values("zero", role="code").any()
