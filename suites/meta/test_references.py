"""The bundled references give each result with the sums that its error budget rests on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch

from harness import Expected, registry
from harness.case import Case
from harness.execute import build
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

QUANTIZE = "svdq_quantize_w4a4_act_fuse_lora.triton"
GEMM = "svdq_gemm_w4a4.triton"


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


def case_of(name: str, *, label: int = -1, **sizes: int) -> Case:
    """A case in which every parameter has the label of that number."""
    op = registry.op(registry.kernel(name).op)
    params = {param: list(labels)[label] for param, labels in op.params.items()}
    return Case(
        kernel=name,
        sizes=tuple(sizes.items()),
        dtype="bfloat16",
        params=tuple(params.items()),
        values="normal",
        seed=3,
    )


def wide_inputs(case: Case) -> dict[str, Tensor | None]:
    tensors = build(case.op(), case, torch.device("cpu")).tensors
    return {
        name: value.double() if value is not None and value.is_floating_point() else value
        for name, value in tensors.items()
    }


def expected_of(case: Case, output: str) -> Expected:
    op = case.op()
    given = {**wide_inputs(case), **op.param_values(dict(case.params)), "dtype": torch.bfloat16}
    found = op.reference(**given)
    expected = found[output] if isinstance(found, dict) else found
    assert isinstance(expected, Expected)
    return expected


def terms_of_gemm(case: Case) -> Iterator[Tensor]:
    """What svdq_gemm_w4a4 adds up, [m, n] each, from the formula in its docstring."""
    given = wide_inputs(case)
    codes, wcodes, ascales, wscales, down, up, bias, channel = (
        v for v in given.values() if v is not None
    )
    for byte, shift in itertools.product(range(case.size_of["k"] // 2), (0, 4)):
        act = ((codes[:, byte] >> shift) & 15).double()  # unsigned, the last of its labels
        weight = ((wcodes[:, byte] >> shift) & 15).double()
        weight = torch.where(weight > 7, weight - 16, weight)
        scale = 0.75 * ascales[byte // 32][:, None] * wscales[byte // 32]
        yield scale * act[:, None] * weight * channel
    yield bias.expand(len(codes), -1)
    yield from (down[:, rank, None] * up[:, rank] for rank in range(down.shape[1]))


def check_sums(expected: Expected, terms: Tensor, dim: int) -> None:
    """``expected`` is the sums of ``terms`` along ``dim``, of their absolutes and squares."""
    magnitude, squares = terms.abs().sum(dim), terms.square().sum(dim)
    assert expected.squares is not None
    assert ((expected.value - terms.sum(dim)).abs() <= 2.0**-40 * magnitude).all()
    assert ((expected.magnitude - magnitude).abs() <= 2.0**-40 * magnitude).all()
    assert ((expected.squares - squares).abs() <= 2.0**-40 * squares).all()


def test_the_gemms_sums_are_those_of_its_terms() -> None:
    case = case_of(GEMM, m=5, n=16, k=192, r=16)
    check_sums(expected_of(case, "y"), torch.stack(list(terms_of_gemm(case))), 0)


def test_the_low_rank_products_sums_are_those_of_its_terms() -> None:
    case = case_of(QUANTIZE, m=5, k=128, r=16)
    given = wide_inputs(case)
    x, down = given["x"], given["lora_down"]
    assert x is not None
    assert down is not None
    check_sums(expected_of(case, "lora_act"), x[:, :, None] * down, 1)


@pytest.mark.parametrize(
    ("case_sizes", "name", "output", "sharper"),
    [
        ({"m": 16, "k": 4096, "r": 16}, QUANTIZE, "lora_act", 8),
        ({"m": 16, "n": 64, "k": 16384, "r": 16}, GEMM, "y", 2),
    ],
)
def test_a_long_sum_is_judged_by_the_scale_of_its_partial_sums(
    case_sizes: dict[str, int], name: str, output: str, sharper: float
) -> None:
    case = case_of(name, label=0, **case_sizes)
    inputs = build(case.op(), case, torch.device("cpu")).tensors
    truth = evaluate(case.op(), registry.kernel(name), case, inputs)[output]
    magnitude = expected_of(case, output).magnitude
    assert truth.budget is not None
    assert float((magnitude / truth.scale).median()) > sharper
