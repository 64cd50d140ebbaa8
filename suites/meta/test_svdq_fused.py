"""What SVDQuant's fused GEMMs are judged by: the references against others, and planted faults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import gelu, silu

from harness import Expected, registry
from harness.case import Case
from harness.execute import build
from harness.judge import compare_with
from harness.reference import evaluate
from references import svdq_activation
from references.svdq_gemm import svdq_gemm_w4a4
from references.svdq_gemm_requantized import svdq_gemm_w4a4_requantized
from references.svdq_quantize import svdq_quantize_w4a4_act_fuse_lora
from suites.meta.laws import LAW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ACTIVATED = "svdq_gemm_w4a4_activated"
REQUANTIZED = "svdq_gemm_w4a4_requantized"
CPU = torch.device("cpu")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = st.sampled_from(svdq_activation.ACTIVATIONS)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


def tanh_gelu(v: Tensor) -> Tensor:
    return gelu(v, approximate="tanh")


# The activations


def test_the_activations_are_the_framework_s() -> None:
    v = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    for name, known in (("silu", silu), ("gelu_tanh", tanh_gelu)):
        assert float((svdq_activation.apply(v, name) - known(v)).abs().max()) < 1e-14


def expected_of(v: float, name: str, error: float) -> Expected:
    value = torch.tensor([v], dtype=torch.float64)
    sums = Expected(value, torch.ones_like(value), torch.ones_like(value))
    return svdq_activation.activated(sums, name, error=torch.tensor([error], dtype=torch.float64))


@given(st.floats(-30, 30), st.floats(-1, 1), st.sampled_from([1e-6, 1e-2, 1.0, 30.0]), NAMES)
@LAW
def test_no_operand_within_its_error_leaves_the_magnitude(
    v: float, part: float, error: float, name: str
) -> None:
    made = expected_of(v, name, error)
    moved = svdq_activation.apply(torch.tensor([v + part * error], dtype=torch.float64), name)
    # The magnitude of the operand is 1: of that of the result, times its error, this is a part.
    assert abs(moved - made.value) <= error * made.magnitude * (1 + 1e-6) + 1e-15


@given(st.floats(-30, 30), st.sampled_from([1e-6, 1.0]), NAMES)
@LAW
def test_the_scale_by_squares_holds_what_the_operand_s_would(
    v: float, error: float, name: str
) -> None:
    value, one = torch.tensor([v], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    made = svdq_activation.activated(
        Expected(value, 100 * one, one), name, error=torch.full_like(one, error)
    )
    plain = svdq_activation.activated(Expected(value, 0 * one), name, error=error * one)
    slope = (made.magnitude - plain.magnitude) / 100
    assert made.squares is not None
    scale = made.value.abs() + 3 * made.squares.sqrt()
    assert scale >= slope * (abs(v) + 3) * (1 - 1e-9) - 1e-12


def test_an_end_that_is_not_finite_bounds_nothing() -> None:
    v = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
    made = svdq_activation.activated(Expected(v, v.abs()), "silu", error=torch.zeros(3))
    assert made.value[0] == math.inf
    assert made.value[1:].isnan().all()
    assert made.magnitude.tolist() == [0, 0, 0]


# The requantized result


def case_of(op: str, dtype: str, **params: str) -> Case:
    declared = registry.op(op)
    sizes = {"m": 32, "n": 128, "k": 192, "r": 16, "r2": 32}
    return Case(
        kernel=f"{op}.cuda",
        sizes=tuple((axis, sizes[axis]) for axis in declared.domain.sizes),
        dtype=dtype,
        params=tuple({**declared.first_labels, **params}.items()),
        seed=6,
    )


def inputs_of(case: Case) -> dict[str, Any]:
    return build(case.op(), case, CPU).tensors


def wide(inputs: dict[str, Any]) -> dict[str, Any]:
    return {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_quantizer_s_reference_on_the_gemm_s(dtype: str) -> None:
    given = wide(inputs_of(case_of(REQUANTIZED, dtype)))
    smooth, down = given.pop("next_smooth"), given.pop("next_lora_down")
    half = DTYPES[dtype]
    plain: dict[str, Any] = {"alpha": 1.0, "act_unsigned": False}
    sums = svdq_gemm_w4a4(**given, **plain, out_dtype=None, dtype=half)
    y = sums.value.to(half).double()
    known = svdq_quantize_w4a4_act_fuse_lora(y, down, smooth, precision="int4", dtype=half)
    found = svdq_gemm_w4a4_requantized(
        **given, **plain, next_smooth=smooth, next_lora_down=down,
        activation="none", next_unsigned=False, dtype=half,
    )  # fmt: skip
    codes, scales, product = known.values()
    assert isinstance(codes, torch.Tensor)
    assert isinstance(scales, torch.Tensor)
    assert isinstance(product, Expected)
    assert torch.equal(found["next_codes"].value, codes)
    assert torch.equal(found["next_ascales"].value, scales.to(half).double())
    assert torch.equal(found["next_lora_act"].value, product.value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unsigned", ["False", "True"])
def test_nearly_every_code_has_one_right_value(dtype: str, unsigned: str) -> None:
    case = case_of(REQUANTIZED, dtype, activation="gelu_tanh", next_unsigned=unsigned)
    truth = evaluate(case.op(), registry.kernel(case.kernel), case, inputs_of(case))["next_codes"]
    assert truth.within is not None
    steps = truth.within.high - truth.within.low
    assert float((steps > 0).double().mean()) < 1 / 200
    assert float(steps.max()) <= 1


# Faults: a model of the kernels in fp32, with one thing wrong


def sums_of(given: dict[str, Any], *, low_rank: bool = True) -> Tensor:
    parts: dict[str, Any] = {
        n: t.double() if t.is_floating_point() else t for n, t in given.items()
    }
    names = ("codes", "wcodes", "ascales", "wscales", "bias", "wcscales")
    lora: dict[str, Any] = {n: parts[n] if low_rank else None for n in ("lora_act", "lora_up")}
    made = svdq_gemm_w4a4(
        **{n: parts[n] for n in names}, **lora, alpha=1.0, act_unsigned=False,
        out_dtype=torch.bfloat16, dtype=torch.bfloat16,
    )  # fmt: skip
    return made.value.float()


def low_rank_of(given: dict[str, Any]) -> Tensor:
    product: Tensor = given["lora_act"] @ given["lora_up"].float().T
    return product


def rejected(case: Case, outputs: dict[str, Tensor]) -> set[str]:
    truths = evaluate(case.op(), registry.kernel(case.kernel), case, inputs_of(case))
    return {name for name in outputs if not compare_with(outputs[name], truths[name]).passed}


FAULTS_OF_ACTIVATION: dict[str, Callable[[Tensor, dict[str, Any], torch.dtype], Tensor]] = {
    "of the rounded sum": lambda v, _, half: tanh_gelu(v.to(half).float()),
    "by the error function": lambda v, *_: gelu(v),
    "by a sigmoid of 1.702 v": lambda v, *_: v * torch.sigmoid(1.702 * v),
    "left out": lambda v, *_: v,
    "twice": lambda v, *_: tanh_gelu(tanh_gelu(v)),
    "silu": lambda v, *_: silu(v),
    "before the low rank": lambda _, given, __: (
        tanh_gelu(sums_of(given, low_rank=False)) + low_rank_of(given)
    ),
}


def right(v: Tensor, *_: object) -> Tensor:
    return tanh_gelu(v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["none", *FAULTS_OF_ACTIVATION])
def test_another_activation_is_rejected(dtype: str, fault: str) -> None:
    case = case_of(ACTIVATED, dtype, activation="gelu_tanh")
    given, half = inputs_of(case), DTYPES[dtype]
    v = sums_of(given)
    wrong = FAULTS_OF_ACTIVATION.get(fault, right)
    # The framework's own form cancels far below 0: kept to where it does not.
    y = torch.where(v > -3, wrong(v, given, half), v * torch.sigmoid(exponent(v)))
    assert rejected(case, {"y": y.to(half)}) == (set() if fault == "none" else {"y"})


def exponent(v: Tensor) -> Tensor:
    return svdq_activation.exponent(v.double(), "gelu_tanh").float()


def requantized(given: dict[str, Any], half: torch.dtype, fault: str) -> dict[str, Tensor]:
    v = sums_of(given).double()
    y = svdq_activation.apply(v, "gelu_tanh")
    y = y if fault == "y is not rounded" else y.to(half).double()
    smooth = given["next_smooth"].double()
    shift = 0.0 if fault == "no shift" else 0.17 if fault == "another shift" else 0.171875
    shifted = (y + shift).to(half).double()
    if fault == "smooth of the neighbour":
        smooth = smooth.roll(1)
    ratio = shifted * smooth if fault == "smooth multiplies" else shifted / smooth
    xs = ratio.to(half).double().unflatten(1, (-1, 64))
    top = xs.abs().amax(2, keepdim=True)
    if fault == "largest of half a group":
        top = xs[..., :32].abs().amax(2, keepdim=True)
    scale = (top / (7 if fault == "over 7" else 15)).float().double()
    stored = scale.squeeze(2).T.to(half)
    by = stored.T.unsqueeze(2).double() if fault == "by the rounded scale" else scale
    quotient = (xs / by).float()
    codes = quotient.floor() if fault == "rounded down" else quotient.round()
    codes = codes.clamp(0, 15).flatten(1).to(torch.uint8)
    even, odd = codes[:, 0::2], codes[:, 1::2]
    packed = odd | even << 4 if fault == "nibbles swapped" else even | odd << 4
    down = given["next_lora_down"].double()
    product = (shifted if fault == "low rank of the shifted" else y) @ down
    if fault == "last tile of columns left out":
        product -= y[:, -64:] @ down[-64:]
    return {"next_codes": packed, "next_ascales": stored, "next_lora_act": product.float()}


CODES, SCALES, PRODUCT = "next_codes", "next_ascales", "next_lora_act"
FAULTS = {
    "none": set[str](),
    "y is not rounded": {PRODUCT},
    "no shift": {CODES, SCALES},
    "another shift": {CODES, SCALES},
    "smooth of the neighbour": {CODES, SCALES},
    "smooth multiplies": {CODES, SCALES},
    "largest of half a group": {CODES, SCALES},
    "over 7": {CODES, SCALES},
    "by the rounded scale": {CODES},
    "rounded down": {CODES},
    "nibbles swapped": {CODES},
    "low rank of the shifted": {PRODUCT},
    "last tile of columns left out": {PRODUCT},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_another_requantization_is_rejected(dtype: str, fault: str) -> None:
    case = case_of(REQUANTIZED, dtype, activation="gelu_tanh", next_unsigned="True")
    found = rejected(case, requantized(inputs_of(case), DTYPES[dtype], fault))
    assert found >= FAULTS[fault]
    assert bool(found) == (fault != "none")


# What the unsigned codes are for


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_layer_reads_unsigned_codes_by_a_bias_that_takes_the_shift_back(
    dtype: str,
) -> None:
    """Behind GELU less is lost by 15 steps upward than by 7 of either sign."""
    given, half = wide(inputs_of(case_of(REQUANTIZED, dtype))), DTYPES[dtype]
    draw = torch.Generator().manual_seed(1)
    given["next_smooth"] = torch.ones_like(given["next_smooth"])
    weights = torch.randint(0, 256, (40, 64), generator=draw, dtype=torch.uint8)
    scales = torch.ones(2, 40, dtype=torch.float64)
    y = svdq_activation.apply(sums_of(given).double(), "gelu_tanh")

    def second(ascales: Tensor, codes: Tensor, *, unsigned: bool) -> Tensor:
        return svdq_gemm_w4a4(
            codes, weights, ascales, scales, None, None, None, None, 1.0, unsigned,
            out_dtype=torch.bfloat16, dtype=torch.bfloat16,
        ).value  # fmt: skip

    def lost(*, unsigned: bool, shift: float) -> float:
        plain: dict[str, Any] = {"alpha": 1.0, "act_unsigned": False, "dtype": half}
        made = svdq_gemm_w4a4_requantized(
            **given, **plain, activation="gelu_tanh", next_unsigned=unsigned
        )
        codes, ascales = made["next_codes"].value, made["next_ascales"].value
        by_shift = shift * second(torch.ones(2, 1).double(), one_everywhere(), unsigned=False)
        return relative(second(ascales, codes, unsigned=unsigned) - by_shift, y @ dense.T)

    identity = torch.eye(128, dtype=torch.uint8)
    packed = identity[:, 0::2] | identity[:, 1::2] << 4
    dense = second(torch.ones(2, 128).double(), packed, unsigned=False).T
    signed, unsigned = lost(unsigned=False, shift=0.0), lost(unsigned=True, shift=0.171875)
    assert unsigned < 0.75 * signed < 0.2
    assert lost(unsigned=True, shift=0.0) > 1.2 * unsigned
    assert lost(unsigned=True, shift=0.343750) > 1.2 * unsigned


def one_everywhere() -> Tensor:
    return torch.full((1, 64), 0x11, dtype=torch.uint8)
