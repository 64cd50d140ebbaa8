"""What NVFP4's mixture of experts is judged by: its references against others, planted faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness import Expected, registry
from harness.case import Case
from harness.execute import build
from harness.judge import compare_with
from harness.reference import evaluate
from references.nvfp4_format import decode_e2m1, encode_e2m1, swizzled
from references.nvfp4_gemm import nvfp4_gemm
from references.nvfp4_moe_down import nvfp4_moe_down
from references.nvfp4_moe_up import nvfp4_moe_up
from references.nvfp4_recipes import te, vllm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

UP, DOWN = "nvfp4_moe_up", "nvfp4_moe_down"
CPU = torch.device("cpu")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SIZES = {"m": 33, "t": 3, "e": 5, "i": 96, "h": 40, "k": 160}


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    registry.load_all(("references", "kernels"))


def case_of(op: str, *, values: str = "normal", seed: int = 6, **params: str) -> Case:
    declared = registry.op(op)
    return Case(
        kernel=f"{op}.triton",
        sizes=tuple((axis, SIZES[axis]) for axis in declared.domain.sizes),
        dtype="bfloat16",
        params=tuple({**declared.first_labels, **params}.items()),
        values=values,
        seed=seed,
    )


def inputs_of(case: Case) -> dict[str, Any]:
    made = build(case.op(), case, CPU).tensors
    return {
        n: t.double() if t is not None and t.is_floating_point() else t for n, t in made.items()
    }


def sums_of(given: Mapping[str, Any]) -> Tensor:
    """Gate and up of each slot, by the GEMM's reference, an expert and half at a time."""
    ids = given["topk_ids"]
    slots, half = ids.numel(), given["wcodes"].shape[1] // 2
    made = torch.zeros(slots, 2 * half, dtype=torch.float64)
    for slot, expert in enumerate(ids.flatten().tolist()):
        whole = nvfp4_gemm(
            given["codes"],
            given["wcodes"][expert],
            given["ascales"],
            given["wscales"][expert],
            torch.ones(1, dtype=torch.float64),
            None,
            out_dtype=torch.float16,
        )
        alpha = given["alphas"][expert].repeat_interleave(half)
        made[slot] = alpha * whole.value[slot // ids.shape[1]]
    return made


def quantized(y: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    g = given["next_global_encode_scale"][given["topk_ids"].flatten().long()]
    return vllm(y, g[:, None])


@pytest.mark.parametrize("half", HALVES)
def test_the_first_half_is_the_quantizer_s_reference_on_the_gemm_s(half: str) -> None:
    given = inputs_of(case_of(UP))
    gate, up = sums_of(given).chunk(2, 1)
    y = (torch.nn.functional.silu(gate) * up).to(HALVES[half]).double()
    codes, scales = quantized(y, given)
    found = nvfp4_moe_up(**given, intermediate_dtype=HALVES[half])
    assert torch.equal(found["next_codes"].value.flatten(0, 1), codes)
    assert torch.equal(found["next_scales"].value, swizzled(scales))


def test_the_second_half_is_the_weighted_sum_of_the_gemm_s() -> None:
    given = inputs_of(case_of(DOWN))
    ids, codes = given["topk_ids"], given["codes"].flatten(0, 1)
    parts: dict[str, list[Tensor]] = {"value": [], "magnitude": [], "squares": []}
    for slot, expert in enumerate(ids.flatten().tolist()):
        whole = nvfp4_gemm(
            codes,
            given["wcodes"][expert],
            given["ascales"],
            given["wscales"][expert],
            given["alphas"][expert].reshape(1),
            None,
            out_dtype=torch.float16,
        )
        for name, kept in parts.items():
            kept.append(getattr(whole, name)[slot])
    weights = given["topk_weights"][:, :, None]
    found = nvfp4_moe_down(**given, out_dtype=torch.float16)
    factors = {"value": weights, "magnitude": weights.abs(), "squares": weights.square()}
    for name, factor in factors.items():
        expected = (factor * torch.stack(parts[name]).unflatten(0, ids.shape)).sum(1)
        apart = (getattr(found, name) - expected).abs().max()
        assert float(apart) <= 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize("half", HALVES)
def test_nearly_every_code_and_scale_has_one_right_value(half: str) -> None:
    case = case_of(UP, intermediate_dtype=half)
    truths = evaluate(
        case.op(), registry.kernel(case.kernel), case, build(case.op(), case, CPU).tensors
    )
    for name, share in (("next_codes", 1 / 50), ("next_scales", 1 / 100)):
        within = truths[name].within
        assert within is not None
        steps = within.high - within.low
        assert float((steps > 0).double().mean()) < share
        assert float(steps.max()) <= 1


@pytest.mark.parametrize("values", ["special", "zero", "mixed", "huge", "tiny"])
def test_what_is_right_lies_within_its_own_range(values: str) -> None:
    for seed in range(4):
        case = case_of(UP, values=values, seed=seed, intermediate_dtype="float16")
        found = nvfp4_moe_up(**inputs_of(case), intermediate_dtype=torch.float16)
        for name, expected in found.items():
            assert expected.within is not None
            target = torch.uint8 if name == "next_codes" else torch.float8_e4m3fn
            read = expected.within.read(expected.value.to(target))
            assert bool(((read >= expected.within.low) & (read <= expected.within.high)).all())


# Faults: the references' model of a kernel, with one thing wrong


def first_half(given: dict[str, Any], fault: str) -> dict[str, Tensor]:
    if fault == "an expert's neighbour":
        given = given | {"topk_ids": (given["topk_ids"] + 1) % SIZES["e"]}
    if fault == "gate's scale for up":
        given = given | {"alphas": given["alphas"][:, :1].expand(-1, 2)}
    gate, up = sums_of(given).chunk(2, 1)
    if fault == "gate and up exchanged":
        gate, up = up, gate
    if fault == "sums rounded first":
        gate, up = gate.bfloat16().double(), up.bfloat16().double()
    y = SILUS.get(fault, torch.nn.functional.silu)(gate) * up
    y = y if fault == "not rounded" else y.bfloat16().double()
    g = given["next_global_encode_scale"]
    if fault == "one global scale for all":
        g = g[:1].expand_as(g)
    g = g[given["topk_ids"].flatten().long()][:, None]
    codes, scales = (te if fault == "another recipe" else vllm)(y, g)
    if fault == "zeros lose their sign":
        codes = encode_e2m1(decode_e2m1(codes) + 0.0)
    codes = codes.unflatten(0, given["topk_ids"].shape)
    if fault == "slots by expert":
        order = given["topk_ids"].flatten().sort(stable=True).indices
        codes = codes.flatten(0, 1)[order].view_as(codes)
    laid_out = swizzled(scales)
    if fault == "scales in rows":
        laid_out = torch.zeros_like(laid_out)
        laid_out[: len(scales), : scales.shape[1]] = scales
    return {"next_codes": codes, "next_scales": laid_out.to(torch.float8_e4m3fn)}


SILUS: dict[str, Callable[[Tensor], Tensor]] = {
    "no activation": lambda v: v,
    "gelu": torch.nn.functional.gelu,
    "sigmoid alone": torch.sigmoid,
    "a short exponential": lambda v: v / (1 + (-v).exp().bfloat16().double()),
}
CODES, SCALES = "next_codes", "next_scales"
FAULTS = {
    "none": set[str](),
    **{name: {CODES, SCALES} for name in ("no activation", "gelu", "sigmoid alone")},
    "a short exponential": {CODES, SCALES},
    "an expert's neighbour": {CODES, SCALES},
    "gate's scale for up": {CODES, SCALES},
    "gate and up exchanged": {CODES, SCALES},
    "sums rounded first": {CODES, SCALES},
    "not rounded": {CODES, SCALES},
    "one global scale for all": {CODES, SCALES},
    "zeros lose their sign": {CODES},
    "slots by expert": {CODES},
    "scales in rows": {SCALES},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_first_half_is_rejected(fault: str) -> None:
    case = case_of(UP)
    given = inputs_of(case)
    truths = evaluate(
        case.op(), registry.kernel(case.kernel), case, build(case.op(), case, CPU).tensors
    )
    made = first_half(given, fault)
    rejected = {name for name in made if not compare_with(made[name], truths[name]).passed}
    assert rejected == FAULTS[fault]


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda w: w,
    "rounded to bf16": lambda w: w.bfloat16().double(),
    "of the other expert": lambda w: w.flip(1),
    "normalized": lambda w: w / w.sum(1, keepdim=True),
    "left out": torch.ones_like,
    "the last expert forgotten": lambda w: torch.cat((w[:, :-1], w[:, -1:] * 0), 1),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_other_weights_of_experts_are_rejected(fault: str) -> None:
    case = case_of(DOWN)
    given = inputs_of(case)
    truths = evaluate(
        case.op(), registry.kernel(case.kernel), case, build(case.op(), case, CPU).tensors
    )
    given["topk_weights"] = WEIGHTS[fault](given["topk_weights"])
    made = nvfp4_moe_down(**given, out_dtype=torch.bfloat16)
    assert isinstance(made, Expected)
    passed = compare_with(made.value.bfloat16(), truths["y"]).passed
    assert passed is (fault == "none")
