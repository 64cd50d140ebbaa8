"""Generated cases are legal, reach every corner of the domain, and shrink on compiled code."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import kernel, op, output, registry, size, tensor
from harness.domain import UNBOUNDED, Size
from harness.explore import Search, explore
from harness.judge import ParityFailure
from harness.strategies import (
    DEVICE,
    EMULATED,
    EVERY,
    Limits,
    _fit,
    cases,
    table,
)
from harness.values import FAMILIES, Family
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.case import Case
    from harness.declare import Kernel, Op

FEWER = settings(LAW, max_examples=50)
LAYOUTS = ("contiguous", "rows", "offset")
SEEDS = range(4)
CHOICES = {*FAMILIES, "grid"} - {"special"}


def gemm(  # noqa: PLR0917 - as many as an op has
    x: object, w: object, down: object, up: object, bias: object, alpha: object, flag: object
) -> None:
    raise NotImplementedError


def declared() -> tuple[Op, Kernel]:
    """An op of four axes that sums over two of them, as a quantized GEMM with a low rank does."""
    with registry.scratch():
        op(
            inputs={
                "x": tensor("m k//2", dtype="uint8", role="code"),
                "w": tensor("n k//2", dtype="uint8", role="code"),
                "down": tensor("m r", optional="lora"),
                "up": tensor("n r", optional="lora"),
                "bias": tensor("n", optional="bias"),
            },
            outputs={"y": output("m n", sums_over="k//64+r")},
            domain={
                "m": size(0, 2**20),
                "n": size(8, 65536, multiple_of=8),
                "k": size(64, 65536, multiple_of=64),
                "r": size(16, 256, multiple_of=16),
            },
            couplings=("r <= k",),
            dtypes=("float16", "bfloat16"),
            params={"alpha": (1.0, 0.75, 2.0), "flag": (False, True)},
            excludes={"special": "the contract says nothing about NaN"},
            families={"grid": Family(lambda *_: None)},
        )(gemm)
        kernel("gemm", backend="cuda", arch="sm90", layouts=LAYOUTS)(gemm)
        return registry.op("gemm"), registry.kernel("gemm.cuda")


OP, KERNEL = declared()


@functools.cache
def hundred(run_seed: int, limits: Limits = EMULATED) -> list[Case]:
    found: list[Case] = []
    explore(
        cases(OP, KERNEL, dtype="float16", limits=limits),
        Search(found.append),
        examples=100,
        run_seed=run_seed,
        scope="",
        database=None,
    )
    return found


@pytest.mark.parametrize("run_seed", SEEDS)
def test_every_case_is_legal(run_seed: int) -> None:
    for case in hundred(run_seed):
        assert OP.domain.refusals(case.size_of) == ()
        assert (case.kernel, case.dtype, case.config) == ("gemm.cuda", "float16", "default")
        assert tuple(case.size_of) == ("m", "n", "k", "r")
        assert case.values in CHOICES
        assert all(label in OP.params[name] for name, label in case.params)


def test_the_config_and_dtype_are_the_callers() -> None:
    found: list[Case] = []
    strategy = cases(OP, KERNEL, dtype="bfloat16", config="wide")
    explore(strategy, Search(found.append), examples=5, run_seed=0, scope="", database=None)
    assert {(case.dtype, case.config) for case in found} == {("bfloat16", "wide")}


@pytest.mark.parametrize("run_seed", SEEDS)
def test_two_hundred_cases_reach_every_choice(run_seed: int) -> None:
    found = [*hundred(run_seed), *hundred((run_seed + 1) % len(SEEDS))]
    assert {case.values for case in found} == CHOICES
    assert {(case.layout, case.seed % 2) for case in found} >= {(of, 1) for of in LAYOUTS}
    assert {case.layout for case in found} == set(LAYOUTS)
    labels = set(itertools.product(*OP.params.values()))
    assert {tuple(dict(case.params).values()) for case in found} == labels
    assert {case.without for case in found} == {(), ("lora",), ("bias",), ("lora", "bias")}
    assert len({case.seed for case in found}) > 30


@pytest.mark.parametrize("run_seed", SEEDS)
@pytest.mark.parametrize("axis", ["m", "n", "k", "r"])
def test_a_hundred_cases_reach_past_one_tile_along_every_axis(axis: str, run_seed: int) -> None:
    """Several cases are longer than two tiles of 64, while no other axis is always at its least."""
    found = [case.size_of for case in hundred(run_seed)]
    long = [sizes for sizes in found if sizes[axis] > 128]
    assert len(long) >= 5
    for other in {"m", "n", "k", "r"} - {axis}:
        smallest = max(1, OP.domain.sizes[other].smallest)
        assert any(sizes[other] > smallest for sizes in long)


@pytest.mark.parametrize("axis", ["m", "n", "k"])
def test_every_axis_gets_as_long_as_the_limits_allow(axis: str) -> None:
    """The axis that is kept for last stays whole; the others give way to it."""
    largest = dict.fromkeys(OP.domain.sizes, DEVICE.axis) | {"r": 256}
    fitted = _fit(largest, axis, OP, DEVICE)
    assert fitted[axis] == DEVICE.axis
    assert all(fitted[other] < DEVICE.axis for other in {"m", "n", "k"} - {axis})


@pytest.mark.parametrize("run_seed", SEEDS)
def test_an_unbounded_axis_is_as_often_large_as_small(run_seed: int) -> None:
    found = [case.size_of["m"] for case in hundred(run_seed)]
    assert 0 in found
    assert sum(m > 16 for m in found) >= 40
    assert sum(m > 64 for m in found) >= 15
    assert sum(m % 2 for m in found) >= 20


def test_edges_occur() -> None:
    """Sizes beside a power of two, or halfway between two, are where tiles end."""
    found = [case.size_of["m"] for run_seed in SEEDS for case in hundred(run_seed)]
    assert {0, 1, 2} <= set(found)
    centres = {c for e in range(4, 10) for c in (2**e, 2**e + 2 ** (e - 1))}
    beside = [m for m in found if {m - 1, m, m + 1} & centres]
    assert len(beside) > len(found) / 10
    assert len(set(beside)) > 12


@pytest.mark.parametrize("run_seed", SEEDS)
def test_a_tile_of_any_power_of_two_is_begun(run_seed: int) -> None:
    """One element of it alone: what shows a loop that ends one too early."""
    found = [case.size_of["m"] for case in hundred(run_seed)]
    for tile in (16, 32, 64, 128):
        assert sum(m > tile and m % tile == 1 for m in found) >= 5


sizes_of_axes = st.builds(
    lambda low, step, extent: Size(low, -(-low // step) * step + extent, step),
    st.integers(0, 80),
    st.integers(1, 70),
    st.integers(0, 2000) | st.just(UNBOUNDED - 200),
)


@given(st.lists(sizes_of_axes, min_size=1, max_size=3), st.integers(2, 2**15), st.data())
@FEWER
def test_a_case_is_within_the_limits_unless_the_smallest_is_not(
    axes: list[Size], elements: int, data: st.DataObject
) -> None:
    domain = dict(zip("abc", axes, strict=False))
    with registry.scratch():
        op(
            inputs={"x": " ".join(domain)},
            outputs={"y": " ".join(domain)},
            domain=domain,
            dtypes=("float32",),
        )(pointwise)
        kernel("pointwise", backend="cuda", arch="sm90")(pointwise)
        subject, of = registry.kernel("pointwise.cuda"), registry.op("pointwise")
    limits = Limits(axis=300, elements=elements)
    case = data.draw(cases(of, subject, dtype="float32", limits=limits))
    assert of.domain.refusals(case.size_of) == ()
    assert all(value <= 300 for value in case.size_of.values())
    smallest = math.prod(each.smallest for each in axes)
    assert 2 * math.prod(case.size_of.values()) <= max(elements, 2 * smallest)


def pointwise(x: object) -> object:
    return x


@given(sizes_of_axes, st.integers(0, 5000))
@FEWER
def test_a_table_holds_legal_sizes_ascending_from_the_smallest(axis: Size, cap: int) -> None:
    cap = max(cap, axis.smallest)
    found = table(axis, cap=cap)
    assert found[0] == axis.smallest
    assert list(found) == sorted(set(found))
    assert all(axis.refusal("", value) is None and value <= cap for value in found)
    every = range(axis.smallest, min(cap, axis.max) + 1, axis.multiple_of)
    assert set(every[:EVERY]) <= set(found)


def test_a_table_holds_the_neighbours_of_large_powers_of_two() -> None:
    found = set(table(Size(0, UNBOUNDED), cap=16384))
    assert {1023, 1024, 1025, 1535, 1536, 1537, 8191, 8192, 8193, 16384, 4093} <= found
    assert {64 * 129, 64 * 211} <= set(table(Size(64, UNBOUNDED, 64), cap=16384))


def test_a_cap_below_the_smallest_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cap=600 is below the smallest legal size 640; raise"):
        table(Size(640, 4096, 64), cap=600)


# Shrinking.


def shrunk(fails: Callable[[Case], bool], run_seed: int) -> tuple[Case, list[Case]]:
    """The case that is reported, and all that were checked from the first failure on."""
    checked: list[Case] = []

    def check(case: Case) -> None:
        bad = fails(case)
        if bad or checked:
            checked.append(case)
        if bad:
            raise ParityFailure(case.id, ("it fails",), case=case.id)

    with pytest.raises(ParityFailure) as failure:
        explore(
            cases(OP, KERNEL, dtype="float16"),
            Search(check),
            examples=100,
            run_seed=run_seed,
            scope="",
            database=None,
        )
    (reported,) = [case for case in checked if case.id == failure.value.case]
    return reported, checked


def flag(case: Case) -> str:
    return dict(case.params)["flag"]


def compiled(checked: list[Case]) -> set[object]:
    """What needs machine code of its own among the cases that were checked."""
    return {(case.params, case.without) for case in checked}


@pytest.mark.parametrize("run_seed", SEEDS)
def test_a_failure_at_a_size_and_a_flag_shrinks_to_exactly_these(run_seed: int) -> None:
    reported, checked = shrunk(lambda c: c.size_of["m"] >= 37 and flag(c) == "True", run_seed)
    assert reported.size_of == {"m": 37, "n": 8, "k": 64, "r": 16}
    assert dict(reported.params) == {"alpha": "1.0", "flag": "True"}
    assert (reported.values, reported.layout, reported.seed) == ("normal", "contiguous", 0)
    assert reported.without == ()
    assert len(compiled(checked)) <= 12  # of 24
    assert len(checked) <= 80


@pytest.mark.parametrize("run_seed", SEEDS)
def test_sizes_shrink_without_much_compilation(run_seed: int) -> None:
    reported, checked = shrunk(lambda c: c.size_of["k"] >= 192 and c.size_of["n"] > 16, run_seed)
    assert reported.size_of == {"m": 0, "n": 24, "k": 192, "r": 16}
    assert len(compiled(checked)) <= 12


@pytest.mark.parametrize(
    ("fails", "smallest"),
    [
        (lambda case: bool(case.id), {"m": 0, "n": 8, "k": 64, "r": 16}),
        (lambda case: case.size_of["m"] >= 200, {"m": 211, "n": 8, "k": 64, "r": 16}),
        (lambda case: case.size_of["r"] % 32 == 0, {"m": 0, "n": 8, "k": 64, "r": 32}),
        (
            lambda case: case.size_of["m"] > 16 and case.size_of["n"] > 64,
            {"m": 17, "n": 72, "k": 64, "r": 16},
        ),
    ],
)
def test_a_failure_shrinks_to_the_smallest_sizes(
    fails: Callable[[Case], bool], smallest: dict[str, int]
) -> None:
    assert shrunk(fails, 0)[0].size_of == smallest


def test_a_failure_at_scattered_sizes_shrinks_along_the_other_axes() -> None:
    """What fails one past every tile leaves the search no slope to go down along m."""
    found = [shrunk(lambda case: case.size_of["m"] % 16 == 1, seed)[0] for seed in range(12)]
    assert {case.size_of["m"] for case in found} >= {1}
    assert all({**case.size_of, "m": 1} == {"m": 1, "n": 8, "k": 64, "r": 16} for case in found)


@pytest.mark.parametrize("field", ["layout", "values", "without"])
def test_what_a_failure_needs_stays_and_the_rest_goes(field: str) -> None:
    needed = {"layout": "rows", "values": "grid", "without": ("bias",)}[field]
    reported, _ = shrunk(lambda case: getattr(case, field) == needed, 0)
    assert reported.size_of == {"m": 0, "n": 8, "k": 64, "r": 16}
    found = (reported.layout, reported.values, reported.without)
    plain = {"layout": "contiguous", "values": "normal", "without": ()}
    assert found == tuple((plain | {field: needed}).values())
