"""Correct variants are judged as kernels are, and the budget rejects none of the bundled ones."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness import op, registry, size, strategies, tensor, variants
from harness.case import Case
from harness.declare import InvalidDeclaration
from harness.explore import Search, explore
from harness.registry import DuplicateDeclaration, UnknownName
from harness.variants import variant

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")
OPS = (
    *("nvfp4_gemm", "nvfp4_quantize", "rms_norm", "silu_and_mul"),
    *("nvfp4_moe_up", "nvfp4_moe_down"),
    *("svdq_gemm_w4a4", "svdq_quantize_w4a4_act_fuse_lora"),
    *("svdq_gemm_w4a4_activated", "svdq_gemm_w4a4_requantized"),
)
SMALL = strategies.Limits(axis=200, elements=2**13)
EXAMPLES = 8  # cases an op and dtype; each is tried on every variant of the op
CASE = Case(kernel="", sizes=(("m", 3), ("n", 9)), dtype="float16", params=(("shift", "0.5"),))


@pytest.fixture
def summed() -> Iterator[None]:
    """A registry with one small op: sums of rows, shifted, with an optional weight."""
    with registry.scratch():

        @op(
            inputs={"x": "m n", "weight": tensor("n", optional="weight")},
            outputs={"y": "m"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float16",),
            sums_over="n",
            params={"shift": (0.5, 2.0)},
        )
        def summed(x: Tensor, weight: Tensor | None, shift: float) -> Tensor:
            return (x if weight is None else x * weight).sum(1) + shift

        yield


def _eager(x: Tensor, weight: Tensor | None, shift: float) -> Tensor:
    wide = x.float() if weight is None else x.float() * weight.float()
    return (wide.sum(1) + shift).to(x.dtype)


def _problems(case: Case = CASE) -> tuple[str, ...]:
    found = registry.op("summed")
    (only,) = variants.of("summed")
    return variants.judge_each(found, [only], case, CPU)[only].problems


@pytest.mark.usefixtures("summed")
@pytest.mark.parametrize("without", [(), ("weight",)], ids=str)
def test_a_correct_variant_passes_without_a_launch(without: tuple[str, ...]) -> None:
    variant(op="summed", name="eager")(_eager)
    assert not _problems(replace(CASE, without=without))


@pytest.mark.usefixtures("summed")
def test_a_wrong_variant_is_found() -> None:
    @variant(op="summed", name="last column dropped")
    def dropped(x: Tensor, weight: Tensor | None, shift: float) -> Tensor:
        return _eager(x[:, :-1], None if weight is None else weight[:-1], shift)

    (words,) = _problems()
    assert words.startswith("y: budget: ")


@pytest.mark.usefixtures("summed")
def test_an_exception_is_a_finding() -> None:
    @variant(op="summed", name="crashing")
    def crashing(x: Tensor, weight: Tensor | None, shift: float) -> Tensor:
        raise RuntimeError(f"{x.shape} {weight is None} {shift}")  # noqa: EM102, TRY003

    (words,) = _problems()
    assert "RuntimeError" in words


@pytest.mark.usefixtures("summed")
def test_a_changed_input_is_a_finding() -> None:
    @variant(op="summed", name="in place")
    def in_place(x: Tensor, weight: Tensor | None, shift: float) -> Tensor:
        y = _eager(x, weight, shift)
        x.zero_()
        return y

    (words,) = _problems()
    assert words.startswith("memory: x")


@pytest.mark.usefixtures("summed")
def test_a_parameter_called_dtype_receives_the_case_s() -> None:
    seen = []

    @variant(op="summed", name="typed")
    def typed(x: Tensor, weight: Tensor | None, shift: float, dtype: torch.dtype) -> Tensor:
        seen.append(dtype)
        return _eager(x, weight, shift)

    assert not _problems()
    assert seen == [torch.float16]


@pytest.mark.usefixtures("summed")
def test_variants_of_an_undeclared_op_are_refused() -> None:
    variant(op="nothing", name="eager")(_eager)
    (only,) = registry.variants()
    with pytest.raises(UnknownName, match="op 'nothing' is unknown; known: summed"):
        variants.of("nothing")
    with pytest.raises(UnknownName, match="nothing"):
        variants.judge_each(registry.op("summed"), [only], CASE, CPU)


@pytest.mark.usefixtures("summed")
def test_a_variant_of_another_op_is_refused() -> None:
    @op(inputs={"x": "m"}, outputs={"y": "m"}, domain={"m": size()}, dtypes=("float16",))
    def other(x: Tensor) -> Tensor:
        return x

    variant(op="other", name="eager")(other)
    (only,) = variants.of("other")
    with pytest.raises(InvalidDeclaration, match="'other: eager' was given for op='summed'"):
        variants.judge_each(registry.op("summed"), [only], CASE, CPU)


@pytest.mark.parametrize(
    "wrong", [{"accumulates": "fp16"}, {"devices": "tpu"}, {"excludes": ("prime",)}], ids=str
)
def test_an_unknown_word_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidDeclaration, match="is unknown; use "):
        variant(op="summed", name="eager", **wrong)


@pytest.mark.usefixtures("summed")
def test_a_variant_is_not_judged_on_families_that_it_excludes() -> None:
    variant(op="summed", name="eager", excludes=(CASE.values,))(lambda x: x)
    (only,) = variants.of("summed")
    assert not variants.judge_each(registry.op("summed"), [only], CASE, CPU)
    other = replace(CASE, values="zero")
    assert variants.judge_each(registry.op("summed"), [only], other, CPU)[only].findings


def test_a_second_variant_of_a_name_is_refused() -> None:
    with registry.scratch():
        variant(op="summed", name="eager")(_eager)
        with pytest.raises(DuplicateDeclaration, match="summed: eager"):
            variant(op="summed", name="eager")(lambda x: x)


@pytest.fixture(scope="module")
def bundled() -> None:
    registry.load_all(("references", "suites.variants"))
    assert not [module for module in registry.load_errors() if "variants" in module]


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", OPS)
def test_every_bundled_op_has_six_variants_that_run_anywhere(name: str) -> None:
    assert len([found for found in variants.of(name) if found.runs_on(CPU)]) >= 6


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", OPS)
def test_no_correct_result_is_rejected(name: str) -> None:
    found, results = registry.op(name), 0
    rejected: list[str] = []
    tried = [each for each in variants.of(name) if each.runs_on(CPU)]

    def check(case: Case) -> None:
        nonlocal results
        for each, judgement in variants.judge_each(found, tried, case, CPU).items():
            results += 1
            rejected.extend(f"{each} on {case.id}: {words}" for words in judgement.problems)

    for dtype in found.dtypes:
        explore(
            strategies.cases(found, tried[0].kernel, dtype=dtype, limits=SMALL),
            Search(check),
            examples=EXAMPLES,
            run_seed=zlib.crc32(f"{name}/{dtype}".encode()),
            scope="",
            database=None,
        )
    assert not rejected
    assert results > 100  # an op
