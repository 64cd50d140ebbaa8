"""A domain admits what its bounds, multiples and couplings say, and names its neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.domain import UNBOUNDED, Domain, InvalidDomain, Size
from suites.meta.laws import LAW


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    step = draw(st.integers(1, 70))
    low = draw(st.integers(0, 200))
    first = -(-low // step) * step
    return Size(low, draw(st.integers(first, first + 300)), multiple_of=step)


def legal(size: Size, value: int) -> bool:
    return size.min <= value <= size.max and value % size.multiple_of == 0


@given(sizes(), st.integers(-5, 600))
@LAW
def test_a_size_is_refused_exactly_outside_its_bounds_and_multiple(size: Size, value: int) -> None:
    reason = size.refusal("k", value)
    assert (reason is None) == legal(size, value)
    assert reason is None or reason.startswith(f"k={value} is ")


@given(sizes())
@LAW
def test_the_smallest_size_is_legal_and_none_below_it_is(size: Size) -> None:
    assert legal(size, size.smallest)
    assert not any(legal(size, value) for value in range(size.smallest))


@given(sizes())
@LAW
def test_every_neighbour_is_illegal_and_no_size_below_zero(size: Size) -> None:
    neighbours = size.neighbours()
    assert not any(legal(size, value) for value in neighbours)
    assert all(value >= 0 for value in neighbours)
    assert list(neighbours) == sorted(set(neighbours))


@given(sizes())
@LAW
def test_both_sides_of_the_domain_have_their_neighbour(size: Size) -> None:
    neighbours = size.neighbours()
    assert size.max + 1 in neighbours or legal(size, size.max + 1)
    assert size.smallest == 0 or size.smallest - 1 in neighbours
    if size.multiple_of > 1:
        base = max(size.smallest, size.multiple_of)
        assert {base - 1, base + 1} <= set(neighbours)


def test_neighbours_of_a_multiple_of_64() -> None:
    assert Size(64, 640, multiple_of=64).neighbours() == (0, 32, 63, 65, 96, 641)


def test_an_unbounded_axis_has_no_neighbour_above() -> None:
    assert Size(1, UNBOUNDED).neighbours() == (0,)


@pytest.mark.parametrize(
    ("low", "high", "step"), [(-1, 4, 1), (5, 4, 1), (0, 4, 0), (1, 63, 64), (65, 127, 64)]
)
def test_a_size_that_admits_nothing_is_refused(low: int, high: int, step: int) -> None:
    with pytest.raises(InvalidDomain, match=f"min={low}, max={high}, multiple_of={step}"):
        Size(low, high, step)


def test_every_reason_is_given_at_once() -> None:
    domain = Domain({"m": Size(0, 8), "k": Size(64, 640, 64)}, couplings=("m <= k//64", "m >= 1"))
    assert domain.refusals({"m": 9, "k": 100}) == (
        "m=9 is outside 0..8",
        "k=100 is not a multiple of 64",
        "'m <= k//64' does not hold",
    )
    assert domain.refusals({"m": 1, "k": 64}) == ()


@given(st.integers(0, 40), st.integers(0, 40))
@LAW
def test_a_coupling_holds_or_refuses(r: int, k: int) -> None:
    domain = Domain({"r": Size(0, 40), "k": Size(0, 40)}, couplings=("r <= k",))
    assert (domain.refusals({"r": r, "k": k}) == ()) == (r <= k)


def test_a_coupling_over_an_unknown_axis_is_refused() -> None:
    with pytest.raises(InvalidDomain, match=r"coupling='r <= j' names \['j'\]; axes: \['k', 'r'\]"):
        Domain({"r": Size(0, 4), "k": Size(0, 4)}, couplings=("r <= j",))


def test_a_domains_neighbours_are_those_of_each_axis() -> None:
    domain = Domain({"m": Size(0, 8), "k": Size(64, 64, 64)})
    assert list(domain.neighbours()) == [
        ("m", 9),
        *(("k", v) for v in domain.sizes["k"].neighbours()),
    ]
    assert domain.smallest() == {"m": 0, "k": 64}
