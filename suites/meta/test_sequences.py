"""State that a kernel carries from one call to the next shows in a sequence of unlike calls."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import layers
from harness.case import parse
from harness.sequences import between
from harness.strategies import SMALL
from suites.meta.scaling import check_of, computed, declared, failure_of, launch, right

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

leaves_alone = layers.leaves_other_calls_alone
CASE = "scaled.cuda/m=3,n=4,dtype=float32,sign=plus,values=normal,layout=rows,config=default,seed=1"


def compiled_by(key: Callable[..., Hashable]) -> Callable[..., Tensor]:
    """A kernel compiled for the first call of a key: its dtype, width, sign and use of a bias."""
    known: dict[Hashable, Callable[..., Tensor]] = {}

    def compiled(x: Tensor, bias: Tensor | None, sign: float) -> Callable[..., Tensor]:
        dtype, width, biased = x.dtype, x.shape[1], bias is not None

        def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            y = torch.zeros(x.shape, dtype=dtype)
            used = bias if biased and bias is not None else None
            y[:, :width] = computed(x, weight, used, sign)[:, :width].to(dtype)
            return y

        return run

    def kernel(x: Tensor, weight: Tensor, bias: Tensor | None, sign: float) -> Tensor:
        launch()
        found = known.setdefault(key(x, bias, sign), compiled(x, bias, sign))
        return found(x, weight, bias)

    return kernel


KEYS: dict[str, Callable[..., Hashable]] = {
    "dtype": lambda x, bias, sign: (x.shape[1], bias is None, sign),
    "sign": lambda x, bias, _: (x.dtype, x.shape[1], bias is None),
    "bias": lambda x, _, sign: (x.dtype, x.shape[1], sign),
    "n": lambda x, bias, sign: (x.dtype, bias is None, sign),
}


@pytest.mark.parametrize("missing", KEYS)
def test_a_compile_cache_whose_key_lacks_a_field_is_found(missing: str) -> None:
    """What was compiled before the search shrank its case is still there, as in a real process."""
    words = failure_of(leaves_alone, compiled_by(KEYS[missing]))
    said = "metadata: dtype" if missing == "dtype" else r"budget: \d+ of \d+ elements wrong"
    assert re.search(rf"with another [\w, ]+ \(scaled.cuda/.*\): y: {said}", words), words
    assert "/sequence\n" in words


def test_a_full_key_passes() -> None:
    def key(x: Tensor, bias: Tensor | None, sign: float) -> Hashable:
        return x.dtype, x.shape[1], bias is None, sign

    assert failure_of(leaves_alone, compiled_by(key)) == ""


def test_an_output_in_a_workspace_that_is_used_again_is_found() -> None:
    @functools.cache
    def workspace(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def reuses(x: Tensor, **rest: object) -> Tensor:
        launch()
        return workspace(x.shape, x.dtype).copy_(computed(x, **rest))  # type: ignore[arg-type]

    words = failure_of(leaves_alone, reuses)
    assert "y: changed after a call with another values (scaled.cuda/" in words


def test_a_workspace_that_is_never_cleared_is_found() -> None:
    sums = torch.zeros(64, 64)

    def accumulates(x: Tensor, **rest: object) -> Tensor:
        launch()
        tile = sums[: x.shape[0], : x.shape[1]]
        tile += computed(x, **rest)  # type: ignore[arg-type]
        y = tile.to(x.dtype)
        tile[1:].zero_()  # forgets the first row
        return y

    words = failure_of(leaves_alone, accumulates)
    assert "y: budget: " in words


def test_a_result_that_drifts_within_its_budget_is_found_at_the_end() -> None:
    calls: list[int] = []

    def drifts(x: Tensor, **rest: object) -> Tensor:
        launch()
        calls.append(1)
        drift = 2.0**-23 if len(calls) % 2 else 0.0
        return (computed(x, **rest) * (1 + drift)).to(x.dtype)  # type: ignore[arg-type]

    words = failure_of(leaves_alone, drifts)
    assert "y: the same call at the end of a sequence has other bits" in words
    assert failure_of(leaves_alone, drifts, deterministic=False) == ""


def test_a_sound_kernel_passes() -> None:
    with declared(right):
        check = check_of()
        leaves_alone(check)
    assert check.counts["cases"] >= 3


def test_what_comes_between_differs_in_one_thing_each() -> None:
    with declared(right, layouts=("contiguous", "rows")):
        check, case = check_of(), parse(CASE)
        others = between(check.op, check.kernel, case, SMALL)
    sized = ["bias and size", "size, bias as here"]
    assert list(others) == ["values", "m", "n", "dtype", "sign", "bias", *sized, "layout"]
    turned, moved = (others.pop(name) for name in sized)
    assert (moved.without, turned) == (case.without, replace(moved, without=("bias",)))
    assert moved.size_of["n"] != case.size_of["n"]
    fields = ("sizes", "dtype", "params", "without", "layout", "config", "seed", "values")
    for what, other in others.items():
        changed = [name for name in fields if getattr(other, name) != getattr(case, name)]
        assert len(changed) == 1, (what, changed)
    assert dict(others["n"].sizes)["m"] == 3
