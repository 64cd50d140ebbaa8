"""Expressions over axes mean what Python means by them, and are nothing but arithmetic."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.expression import InvalidExpression, axes, evaluate
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
lengths = st.integers(0, 10_000)


@given(st.sampled_from(sorted(OPERATORS)), lengths, lengths.filter(bool))
@LAW
def test_an_operator_means_what_it_means_in_python(sign: str, left: int, right: int) -> None:
    expected = OPERATORS[sign](left, right)
    assert evaluate(f"m {sign} n", {"m": left, "n": right}) == expected
    assert evaluate(f"m{sign}{right}", {"m": left}) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k//64+r", 18),
        ("(k + r) * 2", 288),
        ("k - r - 1", 111),
        ("k // 2 // 8", 8),
        ("r <= k//8", 1),
    ],
)
def test_precedence_is_pythons(text: str, value: int) -> None:
    assert evaluate(text, {"k": 128, "r": 16}) == value


def test_axes_are_the_names_in_the_text() -> None:
    assert axes("k//64 + r*n") == {"k", "r", "n"}
    assert axes("64") == set()


def test_an_unknown_axis_is_named_with_those_that_are_there() -> None:
    with pytest.raises(InvalidExpression, match=r"expression='k//64': 'k'; axes here: m, n"):
        evaluate("k//64", {"m": 1, "n": 2})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "m.real",
        "m[0]",
        "m if m else m",
        "lambda: m",
        "m / 2",
        "m ** 2",
        "-m",
        "1.5 * m",
        "'m'",
        "m < m < m",
        "m and m",
        "m != m",
    ],
)
def test_what_is_not_arithmetic_over_axes_is_refused(text: str) -> None:
    with pytest.raises(InvalidExpression, match="is not arithmetic over axes"):
        evaluate(text, {"m": 4})


@pytest.mark.parametrize("text", ["m //", "", "2m", "m n"])
def test_what_python_cannot_parse_is_refused_by_both(text: str) -> None:
    with pytest.raises(InvalidExpression, match="expression="):
        evaluate(text, {"m": 4})
    with pytest.raises(InvalidExpression, match="expression="):
        axes(text)


@pytest.mark.parametrize("text", ["m // 0", "m % 0", "m // n"])
def test_a_division_by_zero_names_the_expression(text: str) -> None:
    with pytest.raises(InvalidExpression, match=f"expression='{text}'"):
        evaluate(text, {"m": 4, "n": 0})
