"""Stray reads meet poison, stray writes are reported, and layouts are what their names say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.buffers import (
    GUARD,
    LAYOUTS,
    POISONS,
    Guarded,
    PoisonedAllocations,
    UnknownLayout,
    guard_input,
    strides_of,
)
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.uint8,
    torch.int64,
)
shapes = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
layouts = st.sampled_from(LAYOUTS)


def guarded(layout: str, shape: tuple[int, ...] = (5, 7)) -> Guarded:
    values = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    return guard_input("x", values, layout, CPU)


def write(tensor: Tensor, where: int, value: float = 1.0) -> None:
    """Write one element at a place counted from the tensor's first one, in or out of it."""
    place = tensor.storage_offset() + where
    tensor.as_strided((1,), (1,), place).fill_(value)


@given(shapes, layouts, st.sampled_from(DTYPES))
@LAW
def test_a_layout_keeps_shape_dtype_and_values(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 100, shape, generator=generator).to(dtype)
    made = guard_input("x", values, layout, CPU)
    assert (made.tensor.shape, made.tensor.dtype) == (values.shape, dtype)
    repeats = layout == "expanded" and len(shape) > 1
    expected = values[:1].expand_as(values) if repeats and shape[0] else values
    assert torch.equal(made.tensor.double(), expected.double())
    assert not made.stray_writes()


@given(shapes, layouts)
@LAW
def test_a_layout_has_the_strides_that_it_states(shape: tuple[int, ...], layout: str) -> None:
    strides, offset = strides_of(shape, layout)
    made = guarded(layout, shape).tensor
    assert made.stride() == strides
    assert made.storage_offset() * made.element_size() == GUARD + offset * made.element_size()


@pytest.mark.parametrize(
    ("layout", "strides", "offset"),
    [
        ("contiguous", (7, 1), 0),
        ("rows", (23, 1), 0),
        ("offset", (7, 1), 1),
        ("strided", (14, 2), 0),
        ("transposed", (1, 5), 0),
        ("expanded", (0, 1), 0),
    ],
)
def test_a_matrix_has_these_strides(layout: str, strides: tuple[int, ...], offset: int) -> None:
    assert strides_of((5, 7), layout) == (strides, offset)


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        ("contiguous", (15, 5, 1)),
        ("rows", (63, 21, 1)),
        ("offset", (15, 5, 1)),
        ("strided", (30, 10, 2)),
        ("transposed", (15, 1, 3)),
        ("expanded", (0, 5, 1)),
    ],
)
def test_a_batch_of_matrices_has_these_strides(layout: str, strides: tuple[int, ...]) -> None:
    assert strides_of((2, 3, 5), layout)[0] == strides


@pytest.mark.parametrize("layout", sorted({*LAYOUTS} - {"strided"}))
def test_a_vector_stays_dense(layout: str) -> None:
    assert strides_of((7,), layout) == ((1,), int(layout == "offset"))


def test_a_strided_vector_has_nans_in_its_gaps() -> None:
    made = guarded("strided", (7,)).tensor
    assert made.stride() == (2,)
    assert made.as_strided((6,), (2,), made.storage_offset() + 1).isnan().all()


def test_an_unknown_layout_lists_the_known_ones() -> None:
    with pytest.raises(UnknownLayout, match="layout='diagonal' is unknown; layouts: contiguous, r"):
        strides_of((5, 7), "diagonal")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_around_an_input_lie_nans(layout: str) -> None:
    made = guarded(layout).tensor
    last = sum((size - 1) * s for size, s in zip(made.shape, made.stride(), strict=True))
    for where in (-GUARD // 4, -1, last + 1, last + GUARD // 4):
        place = made.storage_offset() + where
        assert made.as_strided((1,), (1,), place).isnan()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_write_one_element_before_an_input_is_reported(layout: str) -> None:
    made = guarded(layout)
    write(made.tensor, -1)
    assert made.stray_writes() == "x: 4 bytes changed, the first before its first element"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_write_one_element_after_an_input_is_reported(layout: str) -> None:
    made = guarded(layout)
    strides = made.tensor.stride()
    after = 1 + sum((size - 1) * s for size, s in zip((5, 7), strides, strict=True))
    write(made.tensor, after)
    assert (
        made.stray_writes() == f"x: 4 bytes changed, the first at byte {4 * after} from its start"
    )


@given(st.integers(0, 3), st.integers(7, 22))
@LAW
def test_a_write_into_the_gap_between_rows_is_reported(row: int, column: int) -> None:
    made = guarded("rows")
    write(made.tensor, 23 * row + column)
    assert "4 bytes changed" in made.stray_writes()


@given(layouts, st.integers(0, 4), st.integers(0, 6))
@LAW
def test_a_changed_input_is_reported(layout: str, row: int, column: int) -> None:
    made = guarded(layout)
    made.tensor[row, column] = -1
    assert "x: " in made.stray_writes()


def test_a_sign_of_zero_is_a_change() -> None:
    made = guarded("contiguous")
    made.tensor[0, 0] = -0.0
    assert "x: 1 bytes changed, the first at byte 3 from its start" in made.stray_writes()


def test_an_empty_input_is_guarded_too() -> None:
    made = guarded("contiguous", (0, 7))
    assert not made.stray_writes()
    write(made.tensor, 0)
    assert made.stray_writes()


X = torch.zeros(3, 5)
SPELLINGS: dict[str, Callable[[], Tensor]] = {
    "empty": lambda: torch.empty(3, 5),
    "empty_like": lambda: torch.empty_like(X),
    "new_empty": lambda: X.new_empty((3, 5)),
    "empty_strided": lambda: torch.empty_strided((3, 5), (8, 1)),
    "new_empty_strided": lambda: X.new_empty_strided((3, 5), (1, 3)),
    "empty_permuted": lambda: torch.empty_permuted((3, 5), (1, 0)),
    "transposed empty_like": lambda: torch.empty_like(X.T),
    "Tensor": lambda: torch.Tensor(3, 5),
}


def is_poison(values: Tensor, poison: str) -> bool:
    if poison == "nan" and values.is_floating_point():
        return bool(values.isnan().all())
    if poison == "huge" and values.is_floating_point():
        top = min(torch.finfo(values.dtype).max, 2.0**100)
        return bool((values.double() == top).all())
    return bool((values.contiguous().view(torch.uint8) == 0xA5).all())


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_empty_is_poisoned_and_guarded(spelling: str, poison: str) -> None:
    plain = SPELLINGS[spelling]()
    with PoisonedAllocations(CPU, poison) as memory:
        made = SPELLINGS[spelling]()
    assert (made.shape, made.stride(), made.dtype) == (plain.shape, plain.stride(), plain.dtype)
    assert is_poison(made, poison)
    assert not memory.stray_writes()
    write(made, -1)
    assert memory.stray_writes() == "allocation 0: 4 bytes before it were written"


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_poisoned(dtype: torch.dtype, poison: str) -> None:
    with PoisonedAllocations(CPU, poison):
        made = torch.empty(4, 4, dtype=dtype)
    assert is_poison(made, poison)


@pytest.mark.parametrize("poison", POISONS)
def test_what_is_not_written_is_seen(poison: str) -> None:
    with PoisonedAllocations(CPU, poison) as memory:
        made = torch.empty(4, 4)
        made[:3] = 1
    assert is_poison(made[3], poison)
    assert not is_poison(made[:3], poison)
    assert not memory.stray_writes()


def test_initialised_memory_keeps_its_values() -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        made = [torch.zeros(3), torch.full((3,), 2.0), X + 1, torch.tensor([1.0]), X.clone()]
    assert not any(bool(each.isnan().any()) for each in made)
    assert not memory.allocated


def test_nothing_is_allocated_for_no_elements() -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        assert torch.empty(0, 5).shape == (0, 5)
    assert not memory.allocated


def test_memory_of_another_device_is_left_alone() -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        assert torch.empty(3, device="meta").is_meta
    assert not memory.allocated


def test_the_scope_ends() -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        torch.empty(3)
    torch.empty(3)
    assert len(memory.allocated) == 1


@torch.library.custom_op("parity_meta_buffers::shifted", mutates_args=())
def shifted(x: Tensor, where: int) -> Tensor:
    """Allocates as a launcher does, and writes an element ``where`` that says."""
    result = torch.empty_like(x)
    result.copy_(x)
    write(result, where)
    return result


@torch.library.custom_op("parity_meta_buffers::nested", mutates_args=())
def nested(x: Tensor, where: int) -> Tensor:
    workspace = torch.empty(8)
    workspace.zero_()
    result: Tensor = shifted(x, where)
    return result.clone()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (-1, "allocation 0: 4 bytes before it were written"),
        (15, "allocation 0: 4 bytes after it were written"),
        (0, ""),
        (14, ""),
    ],
)
def test_a_write_past_an_allocation_inside_an_opaque_operator_is_reported(
    where: int, words: str
) -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        result = shifted(X, where)
    assert memory.stray_writes() == words
    assert not result.isnan().any()


def test_an_operator_within_an_operator_is_seen() -> None:
    with PoisonedAllocations(CPU, "nan") as memory:
        nested(X, 15)
        torch.empty(3)
    assert memory.stray_writes() == "allocation 1: 4 bytes after it were written"
    assert len(memory.allocated) == 3


@torch.library.custom_op("parity_meta_buffers::lazy", mutates_args=())
def lazy(x: Tensor) -> Tensor:
    result = torch.empty_like(x)
    result[1:] = x[1:]
    return result


@pytest.mark.parametrize("poison", POISONS)
def test_an_opaque_operator_that_writes_too_little_returns_poison(poison: str) -> None:
    with PoisonedAllocations(CPU, poison):
        result = lazy(X)
    assert is_poison(result[0], poison)
    assert not result[1:].any()


@torch.library.custom_op("parity_meta_buffers::in_place", mutates_args=("out",))
def in_place(out: Tensor, where: int) -> None:
    write(out, where)


def test_an_operator_may_write_what_it_is_given_and_no_further() -> None:
    for where, words in ((14, ""), (15, "allocation 0: 4 bytes after it were written")):
        with PoisonedAllocations(CPU, "nan") as memory:
            out = torch.empty(3, 5)
            in_place(out, where)
        assert memory.stray_writes() == words
