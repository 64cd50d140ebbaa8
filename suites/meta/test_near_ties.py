"""A correct kernel may flip a code near a tie, and nothing else about rounding is forgiven."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness import Expected, kernel, op, registry, size, tensor
from harness.case import Case
from harness.execute import execute
from harness.judge import judge
from harness.launches import Launch, report_launch
from harness.near_ties import InvalidCodes, near_tie_mass, near_tie_steps
from harness.reference import evaluate
from harness.values import Family
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator

INT4 = tuple(range(-7, 8))
E2M1 = (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)
U = 2.0**-24


def steps(*quotients: float, codes: tuple[float, ...] = INT4, error: float = 4 * U) -> list[float]:
    found: list[float] = near_tie_steps(
        torch.tensor(quotients, dtype=torch.float64), codes, error=error
    ).tolist()
    return found


def test_a_midpoint_and_its_neighbours_are_near_a_tie() -> None:
    assert steps(2.5, 2.5 * (1 + 3 * U), 2.5 * (1 - 3 * U), 2.5 * (1 + 5 * U)) == [1, 1, 1, 0]
    assert steps(-0.5, 0.5, 6.5, 0.4999, 3.0, 0.0) == [1, 1, 1, 0, 0, 0]


def test_nothing_is_near_a_tie_beyond_the_last_code_or_where_there_is_no_number() -> None:
    assert steps(7.5, -7.5, 7.0, 1e30, math.inf, -math.inf, math.nan) == [0] * 7


def test_steps_are_as_wide_as_the_codes_lie_apart() -> None:
    assert steps(0.25, 1.75, 2.5, 3.5, 5.0, -5.0, codes=E2M1) == [0.5, 0.5, 1, 1, 2, 2]


def test_an_exact_quotient_has_one_code_even_at_a_tie() -> None:
    assert steps(0.5, 2.5, -3.5, error=0.0) == [0, 0, 0]


@given(
    st.floats(-8, 8),
    st.floats(-1, 1),
    st.sampled_from((INT4, E2M1)),
    st.sampled_from((4 * U, 2.0**-9)),
)
@LAW
def test_a_code_of_a_quotient_within_the_error_differs_by_the_step_at_most(
    quotient: float, part: float, codes: tuple[float, ...], error: float
) -> None:
    grid = torch.tensor(codes, dtype=torch.float64)

    def code(value: float) -> float:
        return float(grid[(grid - value).abs().argmin()])

    (step,) = steps(quotient, codes=codes, error=error)
    assert abs(code(quotient * (1 + part * error)) - code(quotient)) <= step


def test_the_mass_is_weighted_and_summed() -> None:
    quotient = torch.tensor([[0.5, 1.0, 2.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    unit = torch.tensor([[3.0], [5.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, -2.0], [100, 100], [10, 0]], dtype=torch.float64)
    apart = near_tie_mass(quotient, INT4, error=U, unit=unit)
    assert apart.tolist() == [[3, 0, 3], [0, 0, 0]]
    summed = near_tie_mass(quotient, INT4, error=U, unit=-unit, weight=weight)
    assert summed.tolist() == [[33, 6], [0, 0]]


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        ((1,), 0.0, r"codes=\[1\]; give at least two finite numbers, ascending"),
        ((0, 1, 1), 0.0, "ascending"),
        ((0, math.inf), 0.0, "finite"),
        ((0, 1), -1e-9, "error=-1e-09; give a relative bound"),
        ((0, 1), math.nan, "error=nan"),
        ((0, 1), 1.0, "error=1.0"),
    ],
)
def test_what_is_no_code_or_bound_is_refused(
    codes: tuple[float, ...], error: float, message: str
) -> None:
    with pytest.raises(InvalidCodes, match=message):
        steps(1.0, codes=codes, error=error)


# A toy: x is quantized by a step that its kernel knows to 2 u, and multiplied with w.


def crafted(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Every x lies as near a midpoint of two codes as float32 allows, on either side."""
    del role, dtype
    step = (1 + torch.arange(shape[-1]) / 64) / 3
    if name == "x":
        return (torch.randint(-7, 7, shape, generator=generator) + 0.5) * step
    return step if name == "step" else None


def quantized(x: Tensor, step: Tensor, w: Tensor, *, mass: bool) -> Expected:
    quotient = x / step
    terms = quotient.round().clamp(-7, 7) * step  # half to even
    near = near_tie_mass(quotient, INT4, error=2 * U, unit=step, weight=w) if mass else None
    return Expected(terms @ w, terms.abs() @ w.abs(), near_ties=near)


def product(codes: Tensor, step: Tensor, w: Tensor) -> Tensor:
    assert report_launch(Launch("cuda", "toy", __name__, None, (1,), {}))
    return (codes.clamp(-7, 7) * step) @ w


def by_division(x: Tensor, step: Tensor, w: Tensor) -> Tensor:
    return product((x / step).round(), step, w)


def by_reciprocal(x: Tensor, step: Tensor, w: Tensor) -> Tensor:
    return product((x * (1 / step)).round(), step, w)  # within 2 u of the quotient


def downwards(x: Tensor, step: Tensor, w: Tensor) -> Tensor:
    return product((x / step).floor(), step, w)


def oracles(function: Callable[..., Tensor], *, mass: bool, values: str) -> list[str]:
    """What finds fault with a kernel of the toy on one case."""

    def toy(x: Tensor, step: Tensor, w: Tensor) -> Expected:
        return quantized(x, step, w, mass=mass)

    with registry.scratch():
        op(
            inputs={"x": "m k", "step": tensor("k", role="scale"), "w": tensor("k n")},
            outputs={"y": "m n"},
            domain={"m": size(), "n": size(), "k": size()},
            dtypes=("float32",),
            sums_over="k",
            families={"crafted": Family(crafted)},
        )(toy)
        kernel("toy", backend="cuda", arch="sm90")(function)
        of, subject = registry.op("toy"), registry.kernel("toy.cuda")
    sizes = (("m", 64), ("n", 8), ("k", 64))
    case = Case(kernel=subject.name, sizes=sizes, dtype="float32", values=values, seed=2)
    call, seen = execute(of, subject, case, torch.device("cpu"))
    return [f.oracle for f in judge(of, seen, evaluate(of, subject, case, call.tensors)).findings]


@pytest.mark.parametrize("right", [by_division, by_reciprocal])
@pytest.mark.parametrize("mass", [True, False])
def test_ordinary_values_meet_no_tie(right: Callable[..., Tensor], *, mass: bool) -> None:
    assert not oracles(right, mass=mass, values="normal")


def test_a_code_that_flips_near_a_tie_is_accepted_with_the_mass_and_rejected_without() -> None:
    assert oracles(by_reciprocal, mass=False, values="crafted") == ["budget"]
    assert not oracles(by_reciprocal, mass=True, values="crafted")


def test_a_wrong_rounding_mode_far_from_ties_is_rejected_all_the_same() -> None:
    assert oracles(downwards, mass=True, values="normal") == ["budget"]
