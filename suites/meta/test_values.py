"""Every family fits every input that an op may declare, and an op's own families are checked."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import op, output, registry, size, tensor
from harness.case import Case
from harness.declare import InvalidDeclaration
from harness.soundness import DTYPES
from harness.values import (
    FAMILIES,
    Family,
    InvalidFamily,
    UnknownFamily,
    families_of,
    is_random,
    make,
)
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from harness.declare import Op, TensorSpec

ROOT = Path(harness.__file__).parents[1]
INTEGERS = tuple(d for d in DTYPES if not d.startswith(("float", "bfloat")))
FLOATS = tuple(d for d in DTYPES if d not in INTEGERS)
ROLES = tuple((role, d) for role in ("data", "weight") for d in DTYPES)
ROLES += tuple(("scale", d) for d in FLOATS) + tuple(("code", d) for d in INTEGERS)
CASE = Case(kernel="one.cuda", sizes=(("m", 2), ("n", 5)), dtype="float32")
seeds = st.integers(0, 2**32)
shapes = st.one_of(st.tuples(st.integers(0, 9)), st.tuples(st.integers(0, 9), st.integers(0, 130)))
families = st.sampled_from(sorted(FAMILIES))


def declared(
    words: str = "m n",
    *,
    role: str = "data",
    dtype: str = "float32",
    spec: TensorSpec | None = None,
    **rest: Any,  # noqa: ANN401 - passed on
) -> Op:
    """An op over one input."""

    def one(x: object) -> object:
        return x

    with registry.scratch():
        op(
            inputs={"x": spec or tensor(words, role=role, dtype=dtype)},
            outputs={"y": output("m n", dtype="float32")},
            domain={"m": size(), "n": size()},
            dtypes=("float32",),
            **rest,
        )(one)
        return registry.op("one")


def made(of: Op, family: str, shape: tuple[int, ...] = (6, 64), seed: int = 0) -> Tensor:
    sizes = dict(zip("mn", (*shape, 0)[:2], strict=True))
    case = Case(kernel="one.cuda", sizes=tuple(sizes.items()), dtype="float32", values=family)
    dtype = getattr(torch, str(of.inputs["x"].dtype))
    return make(of, "x", case, dtype, torch.Generator().manual_seed(seed))


@given(st.sampled_from(ROLES), families, shapes, seeds)
@LAW
def test_every_input_takes_every_family(
    kind: tuple[str, str], family: str, shape: tuple[int, ...], seed: int
) -> None:
    role, dtype = kind
    of = declared("m n" if len(shape) > 1 else "m", role=role, dtype=dtype)
    value = made(of, family, shape, seed)
    assert (tuple(value.shape), value.dtype) == (shape, getattr(torch, dtype))
    assert value.is_contiguous()


@given(st.sampled_from(ROLES), families, seeds)
@LAW
def test_the_generator_alone_decides(kind: tuple[str, str], family: str, seed: int) -> None:
    of = declared(role=kind[0], dtype=kind[1])
    before = torch.random.get_rng_state()
    one, two = made(of, family, seed=seed), made(of, family, seed=seed)
    assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("kind", ROLES, ids="-".join)
def test_seeds_make_many_inputs_of_a_family(kind: tuple[str, str], family: str) -> None:
    """Ties admit one scale only, and a constant or a probe no two kinds of true."""
    of = declared(role=kind[0], dtype=kind[1])
    found = {made(of, family, seed=seed).view(torch.uint8).numpy().tobytes() for seed in range(30)}
    fixed = family == "ties" if kind[0] == "scale" else kind[1] == "bool"
    assert len(found) >= (1 if fixed and family in {"constant", "probe", "ties"} else 5)


@cache
def digest_of_every_family() -> str:
    """One digest of what all families make for every role and dtype."""
    total = hashlib.sha256()
    for role, dtype in ROLES:
        of = declared(role=role, dtype=dtype)
        for family in FAMILIES:
            for seed in range(4):
                value = made(of, family, (37, 130), seed)
                total.update(value.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_no_family_depends_on_the_processor(capability: str) -> None:
    """PyTorch computes ``randn`` and ``exp2`` in other bits with other vector instructions."""
    program = "from suites.meta.test_values import *; print(digest_of_every_family())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},  # noqa: TID251
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest_of_every_family()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"special"}))
@pytest.mark.parametrize("role", ["data", "weight", "scale"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_all_but_special_values_are_finite(family: str, role: str, dtype: str) -> None:
    for seed in range(12):
        assert made(declared(role=role, dtype=dtype), family, seed=seed).double().isfinite().all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_special_integers_reach_the_first_and_the_last(dtype: str) -> None:
    value = made(declared(dtype=dtype), "special", (64, 64)).double()
    low, high = (0, 1)
    if dtype != "bool":
        limits = torch.iinfo(getattr(torch, dtype))
        low, high = max(limits.min, -(2**53)), min(limits.max, 2**53)
    assert (int(value.min()), int(value.max())) == (low, high)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_integers_are_as_tiny_and_as_huge_as_they_get(dtype: str) -> None:
    of = declared(dtype=dtype)
    assert set(made(of, "tiny").unique().tolist()) == {-1, 0, 1}
    top = min(torch.iinfo(getattr(torch, dtype)).max, 2**53)
    assert made(of, "huge").double().abs().min() >= top // 2
    assert len(made(of, "normal", (64, 64)).unique()) > 60


def test_integer_ties_are_odd_numbers_of_half_a_step() -> None:
    """A group's maximum of 14 makes the step 2, so that every odd number lies halfway."""
    of = declared(dtype="int32")
    values = torch.cat([made(of, "ties", (1, 64), seed) for seed in range(20)]).double()
    steps = values.amax(1, keepdim=True) / 7
    quotients = (values / steps)[steps.flatten() >= 2]
    assert len(quotients) > 5
    assert ((quotients % 1 == 0.5) | (quotients == 7)).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_codes_are_of_any_bits(dtype: str) -> None:
    value = made(declared(role="code", dtype=dtype), "normal", (64, 64)).view(torch.uint8)
    assert len(value.unique()) == (2 if dtype == "bool" else 256)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_a_probe_of_codes_has_one_code_a_row_or_blocks(dtype: str) -> None:
    of, kinds = declared(role="code", dtype=dtype), set()
    for seed in range(20):
        value = made(of, "probe", (32, 32), seed)
        nonzero = (value != 0).sum(1)
        kinds.add("blocks" if nonzero.min() == 32 else "places")
        assert nonzero.unique().tolist() in ([1], [32])
        if kinds == {"places"}:
            assert set(value.view(torch.uint8).unique().tolist()) <= {0, 3, 5 << 4}
    assert kinds == {"blocks", "places"}


@given(seeds)
@LAW
def test_extreme_codes_have_the_largest_and_the_smallest_sums(seed: int) -> None:
    of = declared(role="code", dtype="uint8")
    huge, tiny = made(of, "huge", seed=seed), made(of, "tiny", seed=seed)
    assert {*(huge & 15).unique().tolist(), *(huge >> 4).unique().tolist()} == {7, 8}
    assert {*(tiny & 15).unique().tolist(), *(tiny >> 4).unique().tolist()} == {0, 1, 15}


@pytest.mark.parametrize("family", ["huge", "tiny", "special", "zero"])
def test_a_weight_stays_ordinary_beside_extreme_data(family: str) -> None:
    of = declared(role="weight")
    assert torch.equal(made(of, family), made(of, "normal"))


def test_mixed_inputs_are_extreme_one_by_one() -> None:
    """Beside one another, a tiny, an ordinary and a huge input of each role are soon met."""
    for role, dtype in (("data", "float32"), ("weight", "bfloat16"), ("scale", "float16")):
        of = declared(role=role, dtype=dtype)
        tops = [made(of, "mixed", seed=seed).double().abs().max() for seed in range(40)]
        kinds = [int(top > 2**-8) + int(top > 2**7.5) for top in tops]
        assert min(kinds.count(kind) for kind in range(3)) >= 3, (role, kinds)


@given(families, seeds, st.sampled_from(FLOATS))
@LAW
def test_scales_are_positive_and_normal(family: str, seed: int, dtype: str) -> None:
    value = made(declared(role="scale", dtype=dtype), family, (4, 32), seed).double()
    wide = family == "mixed"
    assert value.min() >= (0 if wide and "float8" in dtype else 2.0**-14 if wide else 2.0**-2)
    assert value.max() <= (2.0**12 if wide else 4)


def test_scales_of_exact_families_are_powers_of_two() -> None:
    of = declared(role="scale")
    assert made(of, "exact").unique().tolist() == [1, 2, 4]
    assert made(of, "probe").unique().tolist() == [0.5, 1, 2]
    assert made(of, "ties").unique().tolist() == [1]
    assert len(made(of, "constant").unique()) == 1
    assert len(made(of, "normal").unique()) > 300


# An op's own families.


def rows(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    del dtype, generator
    assert (name, role) == ("x", "data")
    return torch.arange(math.prod(shape)).reshape(shape)


OWN = {"rows": Family(rows), "plain": Family(lambda *_: None, random=True)}


def test_an_op_has_the_generic_families_and_its_own() -> None:
    of = declared(families=OWN, excludes={"special": "no NaN here"})
    assert list(families_of(of)) == [*(f for f in FAMILIES if f != "special"), "rows", "plain"]
    assert made(of, "rows", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert made(of, "rows", (2, 3)).dtype is torch.float32
    assert torch.equal(made(of, "plain"), made(of, "normal"))


def test_an_own_family_replaces_the_generic_one_of_its_name() -> None:
    of = declared(families={"normal": Family(rows)})
    assert made(of, "normal", (1, 3)).tolist() == [[0, 1, 2]]
    assert next(iter(families_of(of))) == "normal"


def test_what_is_random_is_declared() -> None:
    of = declared(families=OWN)
    random = [family for family in families_of(of) if is_random(of, family)]
    assert random == ["normal", "outlier", "cancelling", "plain"]
    assert not is_random(declared(families={"normal": Family(rows)}), "normal")


def test_an_unknown_or_excluded_family_lists_those_of_the_op() -> None:
    of = declared(excludes={"special": "no NaN here"})
    for family in ("nromal", "special", "rows"):
        with pytest.raises(UnknownFamily, match=f"values='{family}' is no family of one; fam.*exa"):
            made(of, family)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(3, 2), r"'own' of one: x has shape \(3, 2\); it is given, .* \(2, 3\)"),
        (torch.zeros((), dtype=torch.int8), r"x has shape \(\); .* \(2, 3\)"),
        ([[0, 1, 2]] * 2, "x is of type list; return a CPU tensor, or None for normal"),
        (torch.zeros(2, 3, device="meta"), "x is a tensor on meta; return a CPU tensor"),
        (torch.full((2, 3), 2.0**-30), "x has values that torch.float16 does not hold, but is dec"),
        (torch.full((2, 3), 2049), "x has values that torch.float16 does not hold"),
    ],
)
def test_a_family_that_gives_something_else_is_refused(returned: object, message: str) -> None:
    family: Callable[..., Any] = lambda *_: returned  # noqa: E731
    of = declared(families={"own": Family(family)}, dtype="float16", exact={"own": 1.0})
    with pytest.raises(InvalidFamily, match=message):
        made(of, "own", (2, 3))


@pytest.mark.parametrize(
    ("role", "dtype", "remedy"),
    [
        ("code", "float16", "codes are integers: give dtype=..., e.g. 'uint8'"),
        ("scale", "uint8", "scales are floating point: use role='code' for encoded ones"),
        ("scale", "bool", "use role='code'"),
    ],
)
def test_a_role_that_a_dtype_cannot_play_is_refused(role: str, dtype: str, remedy: str) -> None:
    with pytest.raises(
        InvalidDeclaration, match=f"one: x has role='{role}' .*'{dtype}'; .*{remedy}"
    ):
        declared(role=role, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float16", "int32"])
def test_padding_is_spoiled_in_every_other_case(dtype: str) -> None:
    spec = tensor("m n", dtype=dtype, unread=lambda sizes: torch.arange(sizes["n"]) >= 3)
    of, spec_dtype = declared(spec=spec), getattr(torch, dtype)
    first, second = (
        make(of, "x", replace(CASE, seed=seed), spec_dtype, torch.Generator().manual_seed(0))
        for seed in (4, 5)
    )
    assert torch.equal(first[:, :3].view(torch.uint8), second[:, :3].view(torch.uint8))
    assert bool((second[:, 3:].contiguous().view(torch.uint8) == 0xFF).all())
    assert not bool((first[:, 3:].contiguous().view(torch.uint8) == 0xFF).all())
