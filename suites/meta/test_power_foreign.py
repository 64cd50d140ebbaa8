"""The rules of others do here what they do where they come from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness import registry
from harness.case import Case
from harness.execute import build
from harness.power.foreign import RULES, habits, rejecting
from harness.precision import outputs_in
from harness.reference import evaluate

GENERATOR = torch.Generator().manual_seed(5)
EXPECTED = torch.randn(128, 64, generator=GENERATOR).double() * 4
CORRECT = EXPECTED.bfloat16()


def passing(actual: Tensor, expected: Tensor = EXPECTED) -> set[str]:
    """The rules that accept a result; the baseline is one rounding."""
    baseline = expected.bfloat16()
    return {name for name, passes in RULES.items() if passes(actual, expected, baseline)}


def test_all_accept_a_correct_result() -> None:
    assert passing(CORRECT) == set(RULES)


def test_a_doubled_result_has_the_cosine_of_a_right_one() -> None:
    assert passing(CORRECT * 2) == {"cosine > 0.97"}


def test_half_a_percent_passes_most() -> None:
    found = passing((EXPECTED * 1.005).bfloat16())
    assert {"allclose 1e-2", "allclose 0.1", "SQNR > 40 dB", "cosine > 0.97"} <= found


def test_a_truncating_store_passes_all_but_two() -> None:
    cut = (EXPECTED.float().view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
    missing = set(RULES) - passing(cut)
    assert missing <= {"relative L2 < 5e-3", "cosine difference < 1e-5", "2x baseline"}


def test_one_wrong_element_passes_what_averages() -> None:
    wrong = CORRECT.clone()
    wrong[3, 5] += 0.5
    found = passing(wrong)
    assert "assert_close, defaults" not in found
    assert {"cosine > 0.97", "SQNR > 40 dB", "relative L2 < 5e-3"} <= found


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_at_its_place(value: float) -> None:
    expected = EXPECTED.clone()
    expected[0, 0] = value
    found = passing(expected.bfloat16(), expected)
    assert ("assert_close, defaults" in found) == math.isinf(value)
    assert not found & {"cosine > 0.97", "relative L2 < 5e-3", "2x baseline"}


def test_one_infinity_is_noise_without_bound() -> None:
    wrong = CORRECT.clone()
    wrong[0, 0] = math.inf
    assert passing(wrong) == set()


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


@pytest.mark.parametrize("arch", ["cpu", "sm90"])
def test_habits_are_legal_cases_of_every_kernel(arch: str) -> None:
    for kernel in registry.kernels():
        op = registry.op(kernel.op)
        found = habits(kernel.name, arch)
        assert [len(cases) for cases in found.values()] == [3 * len(op.dtypes), 5]
        for case in (case for cases in found.values() for case in cases):
            assert not op.domain.refusals(case.size_of)
            assert (case.values, case.layout) == ("normal", "contiguous")
        assert len({case.sizes for case in found["one shape"]}) == 1


def test_a_result_is_rejected_for_any_of_its_outputs() -> None:
    op = registry.op("svdq_quantize_w4a4_act_fuse_lora")
    case = Case(
        kernel="svdq_quantize_w4a4_act_fuse_lora.triton",
        sizes=(("m", 16), ("k", 128), ("r", 16)),
        dtype="bfloat16",
        params=(("precision", "int4"),),
    )
    inputs = build(op, case, torch.device("cpu")).tensors
    truths = evaluate(op, registry.kernel(case.kernel), case, inputs)
    right = outputs_in(torch.float32, op, case, inputs)
    assert rejecting(op, case, inputs, right, truths) == ()
    swapped = {**right, "codes": right["codes"] >> 4 | right["codes"] << 4}
    assert "assert_close, defaults" in rejecting(op, case, inputs, swapped, truths)
    short = {**right, "codes": right["codes"][1:]}
    assert rejecting(op, case, inputs, short, truths) == tuple(RULES)
