"""Correct variants are judged on the cases that they take, and what rejects one is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from harness import op, registry, size
from harness.case import Case
from harness.power.correct import Judged, judge_all
from harness.power.foreign import RULES
from harness.variants import variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CPU = torch.device("cpu")
CASES = [
    Case(kernel="", sizes=(("m", 8), ("n", 64)), dtype="float16", values=values)
    for values in ("normal", "zero", "constant")
]


@pytest.fixture(autouse=True)
def _doubled() -> Iterator[None]:
    with registry.scratch():

        @op(
            inputs={"x": "m n"},
            outputs={"y": "m n"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float16",),
        )
        def doubled(x: Tensor) -> Tensor:
            return 2 * x

        yield


def judged(*, rules: bool = False) -> list[Judged]:
    return list(judge_all("doubled", {"": CASES}, CPU, rules=rules))


def test_a_result_of_each_variant_on_each_case() -> None:
    variant(op="doubled", name="product")(lambda x: x * 2)
    variant(op="doubled", name="sum")(lambda x: x + x)
    found = judged()
    assert [(each.family, each.variant) for each in found] == [
        (case.values, name) for case in CASES for name in ("product", "sum")
    ]
    assert not any(each.oracles or each.words or each.unfair for each in found)


def test_families_that_a_variant_excludes_are_no_results() -> None:
    variant(op="doubled", name="of constants", excludes=("normal", "zero"))(lambda x: x + x)
    assert [each.family for each in judged()] == ["constant"]


def test_a_variant_of_another_device_is_left_out() -> None:
    variant(op="doubled", name="on a GPU", devices="cuda")(lambda x: x + x)
    assert judged() == []


def test_what_rejects_a_result_is_named_the_rules_of_others_too() -> None:
    variant(op="doubled", name="triple")(lambda x: 3 * x)
    found = {each.family: each for each in judged(rules=True)}
    assert found["normal"].oracles == ("budget",)
    assert found["normal"].words.startswith("y: budget: ")
    assert "allclose 1e-2" in found["normal"].foreign
    assert found["zero"].oracles == ()
    assert "allclose 1e-2" not in found["zero"].foreign


def test_an_exception_is_rejected_by_every_rule() -> None:
    @variant(op="doubled", name="crashing")
    def crashing(x: Tensor) -> Tensor:
        msg = f"no {tuple(x.shape)}"
        raise RuntimeError(msg)

    assert {each.oracles for each in judged(rules=True)} == {("error",)}
    assert {each.foreign for each in judged(rules=True)} == {tuple(RULES)}
