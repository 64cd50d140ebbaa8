"""The order of checks is the seed's: layers in order, sharing units whole, hands even."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from harness.order import Unit, arranged

Item = tuple[int, str, str, int]  # layer, op, dtype, kernel

UNITS: Final = {
    (layer, op, dtype, kernel): Unit(layer, "check", op, "sm90", dtype)
    for layer in range(3)
    for op in "abcdefgh"
    for dtype in ("float16", "bfloat16")
    for kernel in range(3)
}
ITEMS: Final = list(UNITS)


def layers(items: list[Item]) -> list[int]:
    return [layer for layer, *_ in items]


@given(seed=st.integers(0, 99), hands=st.integers(1, 9))
def test_every_item_comes_once(seed: int, hands: int) -> None:
    assert Counter(arranged(ITEMS, UNITS, seed=seed, hands=hands)) == Counter(ITEMS)


@given(seed=st.integers(0, 99))
def test_layers_keep_their_order(seed: int) -> None:
    found = arranged(ITEMS, UNITS, seed=seed)
    assert layers(found) == sorted(layers(found))


@given(seed=st.integers(0, 99), hands=st.integers(1, 9))
def test_what_shares_stays_together_in_its_own_order(seed: int, hands: int) -> None:
    found = arranged(ITEMS, UNITS, seed=seed, hands=hands)
    for at in range(0, len(found), 3):
        (unit,) = {UNITS[item] for item in found[at : at + 3]}
        assert [kernel for *_, kernel in found[at : at + 3]] == [0, 1, 2], unit


def test_a_seed_has_one_order_and_another_another() -> None:
    orders = [arranged(ITEMS, UNITS, seed=seed) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


@given(seed=st.integers(0, 99), kept=st.sets(st.sampled_from(ITEMS), min_size=2))
def test_a_selection_has_the_order_of_the_whole(seed: int, kept: set[Item]) -> None:
    whole = [item for item in arranged(ITEMS, UNITS, seed=seed) if item in kept]
    assert arranged([item for item in ITEMS if item in kept], UNITS, seed=seed) == whole


@given(seed=st.integers(0, 99), hands=st.integers(2, 5))
def test_each_hand_has_its_share_of_every_layer_in_order(seed: int, hands: int) -> None:
    """The list is cut by xdist into parts of the same size, give or take one."""
    found = arranged(ITEMS, UNITS, seed=seed, hands=hands)
    size = len(found) / hands
    for hand in range(hands):
        part = layers(found[round(hand * size) : round((hand + 1) * size)])
        assert min(map(part.count, range(3))) >= len(ITEMS) / 3 / hands - 6
        breaks = sum(after < before for before, after in pairwise(part))
        assert breaks <= 2  # where a neighbour's hand reaches into the part


def test_what_took_longest_comes_first_in_its_layer() -> None:
    slow = (1, "d", "float16", 2)
    found = arranged(ITEMS, UNITS, seed=0, seconds={slow: 60.0, (1, "a", "bfloat16", 0): 30.0})
    of_layer = [item for item in found if item[0] == 1]
    assert UNITS[of_layer[0]] == UNITS[slow]
    assert of_layer[3][:3] == (1, "a", "bfloat16")
    others = [item for item in arranged(ITEMS, UNITS, seed=0) if item[0] != 1]
    assert [item for item in found if item[0] != 1] == others
