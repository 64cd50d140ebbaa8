"""What the interpreter of PTX holds a warp's products, matrix loads and bank conflicts to be."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
import pytest

from suites.numeric import ptx_mma
from suites.numeric.ptx import Block
from suites.numeric.ptx_banks import conflicts
from suites.numeric.ptx_memory import Memory
from suites.numeric.ptx_program import parse

LANES: Final = range(32)


def index(shape: tuple[int, ...], strides: tuple[int, ...], place: int) -> int:
    """A layout in CuTe's sense: ``place`` counts through ``shape``, first axes first."""
    found = 0
    for extent, stride in zip(shape, strides, strict=True):
        place, rest = divmod(place, extent)
        found += rest * stride
    return found


def test_codes_of_rows_lie_as_the_isa_says() -> None:
    """By element, as in "Matrix Fragments for mma.m16n8k64"; here it is done by register."""
    values = np.arange(1.0, 1 + 4 * 32 * 8).reshape(4, 1, 32, 8)
    made = ptx_mma.by_rows(list(values))[0]
    for lane, i in product(LANES, range(32)):
        group, quad = lane >> 2, lane % 4
        row = group if i < 8 or 16 <= i < 24 else group + 8
        column = quad * 8 + (i & 7) + (32 if i >= 16 else 0)
        assert made[row, column] == values[i // 8, 0, lane, i % 8]


def test_codes_lie_as_in_cutlass() -> None:
    """Its layouts of this instruction: thread and value to row + 16 k, or column + 8 k."""
    values = np.arange(1.0, 1 + 4 * 32 * 8).reshape(4, 1, 32, 8)
    a = ptx_mma.by_rows(list(values))[0]
    b = ptx_mma.by_columns(list(values[:2]))[0]
    for lane, i in product(LANES, range(32)):
        at = index((4, 8), (128, 1), lane) + index((8, 2, 2), (16, 8, 512), i)
        assert a[at % 16, at // 16] == values[i // 8, 0, lane, i % 8]
    for lane, i in product(LANES, range(16)):
        at = index((4, 8), (64, 1), lane) + index((8, 2), (8, 256), i)
        assert b[at // 8, at % 8] == values[i // 8, 0, lane, i % 8]


def test_scales_lie_as_in_cutlass() -> None:
    """A thread has the scales of one row and of one column, some threads the same ones."""
    one = 0x38  # of E4M3, whose next bytes grow by 1/8
    words = np.array([[one + lane % 8] * 4 for lane in LANES], np.uint8).view(np.uint32).T
    rows = ptx_mma.scales_of_rows(words, "{0, 0}")[0]
    columns = ptx_mma.scales_of_columns(words, "{0, 0}")[0]
    for lane in LANES:
        row = index((2, 2, 8), (8, 0, 1), lane)
        if lane % 4 < 2:
            assert (rows[row] == 1 + lane % 8 / 8).all()
        if lane % 4 == 0:
            assert (columns[index((4, 8), (0, 1), lane)] == 1 + lane % 8 / 8).all()


def test_a_product_scales_sixteen_along_k() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(-6, 7, (1, 16, 64)), random.integers(-6, 7, (1, 64, 8))
    rows, columns = random.integers(0, 9, (1, 16, 4)), random.integers(0, 9, (1, 8, 4))
    wanted = np.zeros((16, 8))
    for i, j, k in product(range(16), range(8), range(64)):
        wanted[i, j] += a[0, i, k] * rows[0, i, k // 16] * b[0, k, j] * columns[0, j, k // 16]
    assert (ptx_mma.scaled(a, b, rows, columns)[0] == wanted).all()


def test_every_code_has_its_value() -> None:
    words = np.array([0x76543210, 0xFEDCBA98], np.uint32)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert ptx_mma.codes(words).tolist() == [values, [-each for each in values]]


def test_another_thread_for_a_scale_is_refused() -> None:
    with pytest.raises(AssertionError, match="not known"):
        ptx_mma.scales_of_rows(np.full((1, 32), 0x38, np.uint32), "{0, 1}")


@pytest.mark.parametrize(("byte", "value"), [(0x38, 1.0), (0xB8, np.nan), (0xFF, np.nan)])
def test_a_scale_with_a_sign_is_no_number(byte: int, value: float) -> None:
    found = ptx_mma.scales_of_rows(np.full((1, 32), byte * 0x0101_0101, np.uint32), "{0, 0}")
    assert np.array_equal(found, np.full(found.shape, value), equal_nan=True)


@pytest.mark.parametrize(
    ("size", "apart", "waits"),
    [(4, 4, 0), (4, 8, 1), (4, 128, 31), (4, 0, 0), (8, 8, 0), (16, 16, 0), (16, 64, 12)],
)
def test_threads_wait_for_a_bank(size: int, apart: int, waits: int) -> None:
    assert conflicts(np.arange(32) * apart, size) == waits


MATRICES: Final = """
.entry load(.param .u64 load_param_0) .reqntid 32 {
  mov.u32 %r0, %tid.x;
  shl.b32 %r1, %r0, 4;
  st.shared.b32 [%r1], %r0;
  add.s32 %r2, %r1, 4;
  st.shared.b32 [%r2], %r0;
  add.s32 %r2, %r1, 8;
  st.shared.b32 [%r2], %r0;
  add.s32 %r2, %r1, 12;
  st.shared.b32 [%r2], %r0;
  ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [%r1];
  ld.param.b64 %rd0, [load_param_0];
  mul.wide.u32 %rd1, %r0, 16;
  add.s64 %rd2, %rd0, %rd1;
  st.global.b32 [%rd2], %r3;
  st.global.b32 [%rd2+4], %r4;
  st.global.b32 [%rd2+8], %r5;
  st.global.b32 [%rd2+12], %r6;
  ret;
}
"""


STORES: Final = f"{MATRICES.partition('  ldmatrix')[0]}  ret;\n}}\n"


def test_a_thread_gets_a_word_of_the_row_of_its_quad() -> None:
    memory = Memory(1 << 16)
    place = memory.place(np.zeros(128, np.uint32), writable=True)
    block = Block(parse(MATRICES), memory, (place,), 0, 512)
    block.run()
    found = memory.at(place, np.uint32, 32, 4)
    wanted = np.arange(32)[:, None] // 4 + 8 * np.arange(4)
    assert (found == wanted).all()
    stores = Block(parse(STORES), memory, (place,), 0, 512)
    stores.run()
    assert stores.conflicts == 4 * 3, "words 16 bytes apart"
    assert block.conflicts == stores.conflicts, "the load waits for no bank"
