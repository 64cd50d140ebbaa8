"""Inputs that are indices: values below an axis, and a probe for those that are not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import kernel, op, registry, size, tensor
from harness.boundary import check_probe
from harness.case import Case
from harness.declare import InvalidDeclaration
from harness.fakes import check_refusal
from harness.probes import probes
from harness.values import FAMILIES, Family, make
from suites.meta.laws import LAW
from suites.meta.scaling import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Generator, Tensor

    from harness.declare import Kernel, Op

CPU = torch.device("cpu")
DTYPES = ("uint8", "int8", "int32", "int64")


def taken(table: Tensor, ids: Tensor) -> Tensor:
    return table[ids.long()]


@contextmanager
def declared(
    run: Callable[..., Tensor] = taken,
    *,
    dtype: str = "int32",
    index: dict[str, Any] | None = None,
    families: dict[str, Family] | None = None,
) -> Iterator[tuple[Op, Kernel]]:
    """An op that looks rows up, and a kernel of it."""
    words: dict[str, Any] = {"dtype": dtype, "role": "index", "below": "e"}
    with registry.scratch():
        op(
            inputs={"table": "e n", "ids": tensor("m", **(words | (index or {})))},
            outputs={"y": "m n"},
            domain={"m": size(0, 64), "e": size(1, 64), "n": size(1, 8)},
            dtypes=("float32",),
            families=families,
        )(taken)
        kernel("taken", backend="cuda", arch="sm90")(run)
        yield registry.op("taken"), registry.kernel("taken.cuda")


def ids_of(of: Op, family: str, *, rows: int = 40, experts: int = 7, seed: int = 0) -> Tensor:
    sizes = (("m", rows), ("e", experts), ("n", 3))
    case = Case(kernel="taken.cuda", sizes=sizes, dtype="float32", values=family)
    dtype = getattr(torch, str(of.inputs["ids"].dtype))
    return make(of, "ids", case, dtype, torch.Generator().manual_seed(seed))


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(DTYPES),
    st.integers(0, 64),
    st.integers(1, 64),
    st.integers(0, 2**16),
)
@LAW
def test_every_index_is_below_its_axis(
    family: str, dtype: str, rows: int, experts: int, seed: int
) -> None:
    with declared(dtype=dtype) as (of, _):
        ids = ids_of(of, family, rows=rows, experts=experts, seed=seed)
    assert (ids.shape, ids.dtype) == ((rows,), getattr(torch, dtype))
    assert bool(((ids >= 0) & (ids < experts)).all())


def test_families_route_in_ways_of_their_own() -> None:
    with declared() as (of, _):
        seen = {name: [ids_of(of, name, seed=s) for s in range(20)] for name in FAMILIES}
    assert all(ids.unique().numel() > 4 for ids in seen["normal"])
    assert all(ids.unique().numel() == 1 for ids in seen["constant"])
    assert len({int(ids[0]) for ids in seen["constant"]}) > 4
    assert not any(ids.any() for ids in seen["zero"])
    assert all((ids == 6).all() for ids in seen["huge"])
    assert torch.equal(seen["probe"][0], torch.arange(40, dtype=torch.int32) % 7)
    assert {ids.unique().numel() for ids in seen["mixed"]} == {1, 7}


def test_a_family_of_the_op_s_own_need_not_know_the_bound() -> None:
    def from_the_end(
        name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
    ) -> Tensor | None:
        del name, dtype, generator
        return -1 - torch.arange(shape[0]) if role == "index" else None

    with declared(families={"own": Family(from_the_end)}) as (of, _):
        assert ids_of(of, "own", rows=4).tolist() == [6, 5, 4, 3]
        assert ids_of(of, "own", rows=4, experts=2).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"below": None}, "ids has role='index' and below=None; an index has an axis"),
        ({"role": "code"}, "ids has role='code' and below='e'; .*nothing else has one"),
        ({"below": "experts"}, r"ids uses axes \['experts'\]; the domain has \['e', 'm', 'n'\]"),
        ({"dtype": "float32"}, "ids has role='index' and dtype='float32'; indices are integers"),
        ({"dtype": None}, "ids has role='index' and dtype='float32'; indices are integers"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(index: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidDeclaration, match=says), declared(index=index):
        pass


def refuses(table: Tensor, ids: Tensor, *, low: int = 0, words: str = "ids has {}") -> Tensor:
    wrong = ids[(ids < low) | (ids >= len(table))]
    if len(wrong):
        raise ValueError(words.format(int(wrong[0])))
    launch()
    return table[ids.long()]


def wraps(table: Tensor, ids: Tensor) -> Tensor:
    launch()
    return table[ids.long() % len(table)]


def too_late(table: Tensor, ids: Tensor) -> Tensor:
    launch()
    return refuses(table, ids)


SAYS_LITTLE = "an id is out of range"
FAULTS: dict[str, tuple[Callable[..., Tensor], dict[str, str]]] = {
    "none": (refuses, {"ids=-1": "", "ids=3": ""}),
    "not looked at": (wraps, {"ids=-1": "silently accepted", "ids=3": "silently accepted"}),
    "negative ones count from the end": (
        lambda table, ids: refuses(table, ids, low=-3),
        {"ids=-1": "silently accepted", "ids=3": ""},
    ),
    "after the launch": (
        too_late,
        {
            "ids=-1": "raised after 1 launches: ValueError: ids has -1",
            "ids=3": "raised after 1 launches: ValueError: ids has 3",
        },
    ),
    "without its value": (
        lambda table, ids: refuses(table, ids, words=SAYS_LITTLE),
        {
            "ids=-1": f"the message names none of ids has -1, ids=-1: ValueError: {SAYS_LITTLE}",
            "ids=3": f"the message names none of ids has 3, ids=3: ValueError: {SAYS_LITTLE}",
        },
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_index_outside_must_be_refused(name: str) -> None:
    run, says = FAULTS[name]
    with declared(run) as (of, known):
        made = probes(of, known, CPU)
        assert {at: check_probe(of, known, made[at], CPU) for at in says} == says


def test_a_fake_is_not_asked_for_values() -> None:
    with declared(refuses) as (of, known):
        made = probes(of, known, CPU)
        values = {name for name, probe in made.items() if probe.of_values}
        assert values == {"ids=-1", "ids=3"}
        # Asked, it would say that it has none.
        assert "fake raises" in check_refusal(of, known, made["ids=-1"], CPU)
