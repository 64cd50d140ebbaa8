"""What the interpreter knows of a warpgroup's products, and the races that it refuses."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from suites.numeric.ptx_wgmma import Operand, Products, Stores, rows_of

# 128-byte rows, swizzled by 128 bytes, eight of them 1024 bytes apart, from byte 2048 on.
DESCRIPTOR: Final = 1 << 62 | 64 << 32 | 1 << 16 | 2048 >> 4


def operand(shared: npt.NDArray[Any], rows: int) -> Operand:
    places = rows_of(DESCRIPTOR, rows)
    return Operand(places, shared[places])


def test_a_descriptor_tells_of_swizzled_rows() -> None:
    """The fourth chunk of 16 bytes of row 13 is where the XOR of 3 and 13 % 8 says."""
    places = rows_of(DESCRIPTOR + (32 >> 4), 64)  # chunks 2 and 3
    assert places.shape == (64, 32)
    assert places[13, 16] == 2048 + 13 * 128 + (3 ^ 5) * 16


@pytest.mark.parametrize(
    ("descriptor", "fault"),
    [
        (DESCRIPTOR + (1 << 62), "not swizzled by 128"),
        (DESCRIPTOR + (64 << 32), "2048 bytes apart"),
        (DESCRIPTOR + (1 << 49), "base offset"),
        (DESCRIPTOR + (128 >> 4), "not in the first of eight rows"),
    ],
)
def test_another_layout_is_refused(descriptor: int, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        rows_of(descriptor, 64)


def test_a_product_is_there_after_the_wait_and_not_before() -> None:
    shared = np.random.default_rng(0).integers(0, 0x4B, 8192, np.uint8)
    a, b = operand(shared, 16), operand(shared, 8)
    under_way = Products(fenced=True)
    names = [f"%r{i}" for i in range(4)]
    under_way.add(names, lambda _: np.ones(32, np.float32), a, b)
    under_way.commit()
    assert under_way.wait(shared, left=1) == {}
    sums = under_way.wait(shared, left=0)
    left, right = (each.octets.view(np.float16).astype(np.float64) for each in (a, b))
    # Thread 9 has rows 2 and 10, columns 2 and 3.
    wanted = (1 + (left @ right.T)[[2, 2, 10, 10], [2, 3, 2, 3]]).astype(np.float32)
    assert [sums[name][9] for name in names] == wanted.tolist()


def test_what_is_stored_while_it_is_read_is_an_error() -> None:
    shared = np.zeros(8192, np.uint8)
    under_way = Products(fenced=True)
    both = operand(shared, 16), operand(shared, 8)
    under_way.add(["%r1"], lambda _: np.zeros(32, np.float32), *both)
    under_way.commit()
    shared[2048] = 1
    with pytest.raises(AssertionError, match="written while it was read"):
        under_way.wait(shared, left=0)


def test_products_need_a_fence_and_a_group() -> None:
    both = operand(np.zeros(8192, np.uint8), 16), operand(np.zeros(8192, np.uint8), 8)
    with pytest.raises(AssertionError, match=r"no wgmma\.fence"):
        Products().add(["%r1"], lambda _: np.zeros(32, np.float32), *both)
    under_way = Products(fenced=True)
    under_way.add(["%r1"], lambda _: np.zeros(32, np.float32), *both)
    with pytest.raises(AssertionError, match="no group has"):
        under_way.wait(np.zeros(8192, np.uint8), left=0)


def test_stores_are_seen_after_a_fence_of_their_own_thread_and_a_barrier() -> None:
    stores, threads, places = Stores(64), np.arange(2), np.arange(32).reshape(2, 16)
    stores.store(threads, places)
    stores.fence(threads[:1])
    stores.pass_barrier()
    stores.require_seen(places[:1])
    with pytest.raises(AssertionError, match=r"no fence\.proxy\.async after a store"):
        stores.require_seen(places)
    stores.fence(threads[1:])
    with pytest.raises(AssertionError, match=r"no barrier after fence\.proxy\.async"):
        stores.require_seen(places)
