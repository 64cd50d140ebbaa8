"""The reference is evaluated on the kernel's bits; what is right passes for every bundled op."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness import Expected, kernel, op, output, registry, size, tensor
from harness.case import Case
from harness.compare import InvalidReference
from harness.execute import Observation, build
from harness.judge import judge
from harness.launches import Launch
from harness.reference import Truth, dtype_of, evaluate
from harness.values import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.declare import Op

CPU = torch.device("cpu")
LAUNCH = Launch("triton", "impostor", __name__, None, (1,), {})
registry.load_all(["references", "kernels"])
BUNDLED = [
    (kernel.name, dtype) for kernel in registry.kernels() for dtype in registry.op(kernel.op).dtypes
]

OPTIONAL = [
    (name, dtype, group)
    for name, dtype in BUNDLED
    for group in registry.op(registry.kernel(name).op).groups
]
PARAMETRIZED = [
    (name, dtype) for name, dtype in BUNDLED if registry.op(registry.kernel(name).op).params
]


def case_of(name: str, dtype: str, labels: Mapping[str, str]) -> Case:
    declared = registry.op(registry.kernel(name).op)
    sizes = {
        axis: max(
            size.smallest, 2 * size.multiple_of, -(-48 // size.multiple_of) * size.multiple_of
        )
        for axis, size in declared.domain.sizes.items()
    }
    return Case(
        kernel=name, sizes=tuple(sizes.items()), dtype=dtype, params=tuple(labels.items()), seed=5
    )


def cases(name: str, dtype: str) -> Iterator[Case]:
    """The case with every parameter's first value, then one for each other value of each."""
    of = registry.op(registry.kernel(name).op)
    yield case_of(name, dtype, of.first_labels)
    for param, labels in of.params.items():
        for label in list(labels)[1:]:
            yield case_of(name, dtype, of.first_labels | {param: label})


def judged_by(case: Case) -> dict[str, Truth]:
    inputs = build(case.op(), case, CPU).tensors
    return evaluate(case.op(), registry.kernel(case.kernel), case, inputs)


truths_of = functools.cache(judged_by)


def passes(case: Case, outputs: Mapping[str, Tensor], truths: Mapping[str, Truth]) -> bool:
    seen = Observation(outputs, None, (LAUNCH,), "", "nan")
    return not judge(case.op(), seen, truths).problems


@pytest.mark.parametrize(("name", "dtype"), BUNDLED)
def test_the_rounded_reference_passes(name: str, dtype: str) -> None:
    for case in cases(name, dtype):
        truths = truths_of(case)
        assert passes(case, {key: truth.rounded for key, truth in truths.items()}, truths)


@pytest.mark.parametrize(("name", "dtype"), BUNDLED)
def test_the_rounded_reference_passes_with_values_of_every_family(name: str, dtype: str) -> None:
    """Its magnitude bounds something too: it is finite wherever the expected value is."""
    case = next(cases(name, dtype))
    for family in FAMILIES:
        if family not in case.op().excludes:
            truths = truths_of(replace(case, values=family))
            assert passes(case, {key: truth.rounded for key, truth in truths.items()}, truths)


@pytest.mark.parametrize(("name", "dtype", "group"), OPTIONAL)
def test_an_optional_input_changes_the_result(name: str, dtype: str, group: str) -> None:
    case = next(cases(name, dtype))
    without = truths_of(replace(case, without=(group,)))
    outputs = {key: truth.rounded for key, truth in without.items()}
    assert passes(case, outputs, without)
    assert not passes(case, outputs, truths_of(case))


@pytest.mark.parametrize(("name", "dtype"), PARAMETRIZED)
def test_every_parameter_changes_the_result(name: str, dtype: str) -> None:
    """In some output, in its dtype at least; eps only where the values are small."""
    first, *others = (replace(case, values="tiny") for case in cases(name, dtype))
    had = {str(truth.rounded.dtype).removeprefix("torch.") for truth in truths_of(first).values()}
    for case in others:
        outputs = {key: truth.rounded for key, truth in truths_of(case).items()}
        ((_, label),) = set(case.params) - set(first.params)
        same = label in had  # a dtype named that the first case's result has anyway
        assert passes(first, outputs, truths_of(first)) is same, case.id


# What evaluate itself promises, on ops of its own.


def evaluated(function: Callable[..., object], **declaration: Any) -> dict[str, Truth]:  # noqa: ANN401
    """Truths of an op over x [2, 3] whose values are -3..2, declared on the spot."""
    with registry.scratch():
        declared = declare(function, **declaration)
        case = Case(
            kernel=f"{declared.name}.triton",
            sizes=(("m", 2), ("n", 3)),
            dtype="float16",
            params=tuple(declared.first_labels.items()),
        )
        x = (torch.arange(6).reshape(2, 3) - 3).half()
        return evaluate(declared, registry.kernel(case.kernel), case, {"x": x})


def declare(function: Callable[..., object], **declaration: Any) -> Op:  # noqa: ANN401
    accumulates = declaration.pop("accumulates", "fp32")
    defaults: dict[str, Any] = {
        "inputs": {"x": "m n"},
        "outputs": {"y": "m n"},
        "domain": {"m": size(0, 8), "n": size(1, 8)},
        "dtypes": ("float16",),
    }
    op(**(defaults | declaration))(function)
    kernel(function.__name__, backend="triton", arch="sm90", accumulates=accumulates)(function)
    return registry.op(function.__name__)


def test_the_reference_sees_float64() -> None:
    def seen(x: Tensor) -> Tensor:
        assert x.dtype is torch.float64
        return x / 3

    (truth,) = evaluated(seen).values()
    assert truth.expected.dtype is torch.float64
    assert truth.budget is not None
    assert truth.budget.dtype is torch.float16


def test_integers_stay_as_they_are() -> None:
    def identity(codes: Tensor) -> Tensor:
        assert codes.dtype is torch.uint8
        return codes

    with registry.scratch():
        declared = declare(
            identity,
            inputs={"codes": tensor("m n", dtype="uint8", role="code")},
            outputs={"y": output("m n", dtype="uint8", exact=True)},
        )
        case = Case(kernel="identity.triton", sizes=(("m", 1), ("n", 2)), dtype="float16")
        codes = torch.tensor([[3, 255]], dtype=torch.uint8)
        truth = evaluate(declared, registry.kernel(case.kernel), case, {"codes": codes})["y"]
    assert truth.budget is None
    assert torch.equal(truth.expected, codes)


def test_the_magnitude_of_a_sum_is_the_sum_over_absolute_values() -> None:
    def total(x: Tensor) -> Tensor:
        return x.sum(1)

    truth = evaluated(total, outputs={"y": output("m", sums_over="n")})["y"]
    assert truth.expected.tolist() == [-6, 3]
    assert truth.scale.tolist() == [6, 3]
    truth = evaluated(lambda x: x - x.flip(1), outputs={"y": output("m n", sums_over="n")})["y"]
    assert truth.expected[0, 0] == -2
    assert truth.scale[0, 0] == 2


def test_the_magnitude_of_a_pointwise_value_is_its_absolute_value() -> None:
    truth = evaluated(lambda x: -x)["y"]
    assert torch.equal(truth.scale, truth.expected.abs())


def test_a_declared_magnitude_is_taken() -> None:
    def total(x: Tensor) -> Expected:
        return Expected(x.sum(1), 7 + x.abs().sum(1))

    truth = evaluated(total, outputs={"y": output("m", sums_over="n")})["y"]
    assert truth.scale.tolist() == [13, 10]


def test_terms_are_counted_along_the_summed_axes() -> None:
    def total(x: Tensor) -> Tensor:
        return x.sum(1)

    for sums_over, count in (("n", 3), ("m n", 6), ("n*2+m", 8), (None, 1)):
        truth = evaluated(total, outputs={"y": output("m", sums_over=sums_over)})["y"]
        assert truth.budget is not None
        assert truth.budget.terms_summed == count
        assert not truth.budget.tensor_core


def test_only_sums_run_on_tensor_cores() -> None:
    def both(x: Tensor) -> dict[str, Tensor]:
        return {"scaled": 2 * x, "total": x.sum(1)}

    truths = evaluated(
        both,
        outputs={"total": output("m", sums_over="n"), "scaled": "m n"},
        accumulates="tensor_core",
    )
    budgets = {name: truth.budget for name, truth in truths.items()}
    assert {name: budget and budget.tensor_core for name, budget in budgets.items()} == {
        "total": True,
        "scaled": False,
    }


def test_an_output_has_a_fixed_dtype_or_one_by_rule() -> None:
    def three(x: Tensor, wide: bool) -> tuple[Tensor, Tensor, Tensor]:  # noqa: FBT001
        assert wide
        return x, x, x

    def rule(dtype: torch.dtype, params: Mapping[str, object]) -> torch.dtype:
        assert dtype is torch.float16
        return torch.float32 if params["wide"] else dtype

    truths = evaluated(
        three,
        outputs={"a": "m n", "b": output("m n", dtype="bfloat16"), "c": output("m n", dtype=rule)},
        params={"wide": (True, False)},
    )
    dtypes = [truth.budget.dtype for truth in truths.values() if truth.budget]
    assert dtypes == [torch.float16, torch.bfloat16, torch.float32]


def test_a_reference_may_ask_for_the_dtype_of_the_case() -> None:
    def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
        return (x / 3).to(dtype).double()

    truth = evaluated(rounded)["y"]
    assert torch.equal(truth.expected, truth.expected.half().double())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"returned y of shape \(1, 3\); declared m n = \(2, 3\) at <lambda>"),
        (lambda x: x.float(), "returned y as torch.float32; need float64"),
        (lambda x: x.long(), "returned y as torch.int64; need float64"),
        (lambda x: x.tolist(), "returned list for y; need a tensor"),
        (lambda x: None, "returned NoneType for y; need a tensor"),  # noqa: ARG005
        (lambda x: {"z": x}, r"returned \['z'\]; declared \['y'\]"),
        (lambda x: {"y": x, "z": x}, r"returned \['y', 'z'\]; declared \['y'\]"),
        (lambda x: (x, x), r"the reference of <lambda> returned .*; declared \['y'\]"),
    ],
)
def test_a_reference_that_breaks_its_declaration_is_named(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(InvalidReference, match=message):
        evaluated(function)


def test_a_magnitude_of_another_shape_is_refused() -> None:
    case_truth = evaluated(lambda x: Expected(x, x.abs().sum()))["y"]
    assert case_truth.budget is not None
    with pytest.raises(InvalidReference, match=r"magnitude has shape \(\), expected \(2, 3\)"):
        judge_alone(case_truth)


def test_a_magnitude_that_forgets_the_absolute_value_is_refused() -> None:
    truth = evaluated(lambda x: Expected(x, x))["y"]
    with pytest.raises(InvalidReference, match="magnitude has a negative value -3"):
        judge_alone(truth)


def judge_alone(truth: Truth) -> None:
    with registry.scratch():
        declared = declare(lambda x: x)
        seen = Observation({"y": truth.rounded}, None, (LAUNCH,), "", "nan")
        judge(declared, seen, {"y": truth})


@pytest.mark.parametrize("name", ["flaot16", "Tensor", "nn"])
def test_what_is_no_dtype_is_refused(name: str) -> None:
    with pytest.raises(InvalidReference, match=f"dtype='{name}' is no dtype of torch"):
        dtype_of(name)
