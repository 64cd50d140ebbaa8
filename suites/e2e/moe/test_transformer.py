"""The committed transformer routes unfairly, its recipe is the layers', and faults are named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from harness.compare import Comparison
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.moe import NVFP4MoE
from suites.e2e.evaluate import HalfLayer
from suites.e2e.moe import evaluate, judge, model, recipe
from suites.e2e.moe.judge import MoEResult, Part
from suites.e2e.moe.model import Block, Experts, Transformer
from suites.e2e.moe.runs import led_and_free, replaced, replaced_layers, run
from suites.e2e.moe.simulation import Simulated
from suites.e2e.recipe import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

BF16 = torch.bfloat16
halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
VALUE, EXPERTS = "blocks.1.attention.value", "blocks.1.experts"


def simulated() -> Transformer:
    """The transformer in float32 whose layers are right, without a kernel."""
    made = evaluate.setting(BF16)
    return replaced(made.dense, lambda name, _: Simulated(made.states[name]), BF16)


def judged(candidate: Transformer, dtype: torch.dtype = BF16) -> MoEResult:
    made = evaluate.setting(dtype)
    observed = evaluate.observe(candidate, made.tokens, made.beside)
    return evaluate.judged(observed, made, made.states)


def layer(candidate: Transformer, name: str) -> nn.Module:
    return replaced_layers(candidate)[name].inner


def replace_inner(candidate: Transformer, name: str, inner: nn.Module) -> None:
    candidate.set_submodule(name, HalfLayer(inner, BF16))


def test_routing_is_unfair_and_each_block_has_its_own() -> None:
    made = evaluate.setting(BF16)
    counts = torch.stack([ids.flatten().bincount(minlength=8) for ids in made.ids])

    assert counts.sum(1).tolist() == [56] * 3
    assert bool(((counts == 0).sum(1) >= 2).all()), "experts without a token"
    assert bool((counts.amax(1) == 28).all()), "one that every token goes to"
    assert bool(((counts > 0) & (counts < 5)).any(1).all()), "some with a handful"
    assert len({tuple(row) for row in counts.tolist()}) == 3


def test_the_same_seed_is_the_same_transformer() -> None:
    first, again, other = (Transformer(seed=seed).state_dict() for seed in (6, 6, 7))

    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not any(torch.equal(value, other[key]) for key, value in first.items())
    assert not torch.equal(model.tokens(), model.tokens(model.CALIBRATION_SEED))


def test_a_token_does_not_see_what_comes_after_it() -> None:
    made, x = evaluate.setting(BF16), model.tokens().double()
    changed = x.clone()
    changed[:, 9:] = 1.0

    assert torch.equal(made.twin(changed)[:, :9], made.twin(x)[:, :9])


def test_experts_are_what_their_formula_says() -> None:
    made = evaluate.setting(BF16)
    call, dense = made.beside.calls[EXPERTS], made.twin.get_submodule(EXPERTS)
    x, weights, ids = (part.flatten(0, -2) for part in call.args)
    gate, up, down = (dense.get_parameter(name)[ids] for name in ("gate", "up", "down"))
    column = x[:, None, :, None]
    made_of = down @ (nn.functional.silu(gate @ column) * (up @ column))
    expected = (weights[..., None] * made_of.squeeze(-1)).sum(1)

    assert float((call.output.flatten(0, -2) - expected).abs().max()) < 1e-12


@halves
def test_layers_hold_what_the_recipe_says(dtype: torch.dtype) -> None:
    """Byte for byte; the intermediates' scales alone are computed in another precision."""
    made = evaluate.setting(dtype)
    held = replaced_layers(evaluate.quantize(made, backend="triton"))

    for name, expected in made.states.items():
        state = held[name].inner.state_dict()
        assert set(state) == set(expected)
        assert isinstance(held[name].inner, NVFP4MoE if "experts" in name else NVFP4Linear)
        calibrated = recipe.calibrated_as(expected, state)
        for key, value in state.items():
            assert torch.equal(value.view(torch.uint8), calibrated[key].view(torch.uint8)), key


def test_a_wrong_scale_of_intermediates_is_not_taken_over() -> None:
    state = evaluate.setting(BF16).states[EXPERTS]
    key = "intermediate_global_encode_scale"
    near, far = state[key] * (1 + 2**-20), state[key].roll(1)

    assert torch.equal(recipe.calibrated_as(state, {key: near})[key], near)
    assert torch.equal(recipe.calibrated_as(state, {key: far})[key], state[key])


@halves
def test_the_format_costs_what_it_should(dtype: torch.dtype) -> None:
    """Of Gaussian data 0.134 a product; of experts three operands more, and two are multiplied."""
    made = evaluate.setting(dtype)
    result = evaluate.judged(made.simulated, made, made.states)

    assert result.passed, str(result)
    for part in result.parts:
        least, most = (0.17, 0.3) if not part.name.count("attention") else (0.11, 0.16)
        found = [error.value for error in part.errors if "input" in error.name]
        assert all(least < value < most for value in found), (part.name, found)
    assert 0.2 < result.figures["result, led by the twin's router"] < 0.4


def test_few_tokens_have_slack() -> None:
    """A code near a rounding may be either, and blurs all of its token's results."""
    made = evaluate.setting(BF16)
    for name in model.blocks(made.dense):
        x, weights, ids = (
            part.flatten(0, -2) for part in made.beside.calls[f"{name}.experts"].args
        )
        state = made.states[f"{name}.experts"]
        expected = recipe.expected_output(state, x.to(BF16), weights.float(), ids)
        assert expected.near_ties is not None
        assert int((expected.near_ties > 0).any(1).sum()) <= 2  # tokens of 28


def test_halves_of_a_batch_are_runs_of_their_own() -> None:
    made = evaluate.setting(BF16)
    x, free = made.tokens.double(), run(made.twin, made.tokens.double())
    moved = [(ids + 1) % 8 for ids in made.ids]
    led, same = led_and_free(made.twin, x, moved)

    for found, expected in ((led, run(made.twin, x, moved)), (same, free)):
        assert relative_error(found.output, expected.output) < 1e-12
        for name in made.states:
            call, other = found.calls[name], expected.calls[name]
            pairs = zip((*call.args, call.output), (*other.args, other.output), strict=True)
            assert all(relative_error(*pair) < 1e-12 for pair in pairs)


def test_right_layers_pass() -> None:
    result = judged(simulated())

    assert result.passed, str(result)
    assert [part.name for part in result.parts][4:7] == [
        "blocks.0.experts",
        "blocks.0",
        "blocks.1.attention.query",
    ]


def swap_nibbles(candidate: Transformer) -> None:
    codes = layer(candidate, VALUE).get_buffer("weight_codes")
    codes.copy_(codes >> 4 | codes << 4)


def swap_nibbles_of_one_expert(candidate: Transformer) -> None:
    codes = layer(candidate, EXPERTS).get_buffer("down_codes")
    codes[5] = codes[5] >> 4 | codes[5] << 4


def one_block_scale_up_one_step(candidate: Transformer) -> None:
    layer(candidate, VALUE).get_buffer("weight_scales").view(torch.uint8)[0, 7] += 1


def miss_the_input_scale(candidate: Transformer) -> None:
    layer(candidate, VALUE).get_buffer("input_global_encode_scale").mul_(0.9)


def drop_the_bias(candidate: Transformer) -> None:
    layer(candidate, VALUE).get_buffer("bias").zero_()


def one_layer_left_dense(candidate: Transformer) -> None:
    dense = evaluate.setting(BF16).dense.get_submodule(VALUE)
    replace_inner(candidate, VALUE, nn.Linear(96, 96).to(BF16))
    layer(candidate, VALUE).load_state_dict(dense.state_dict())


def key_and_value_exchanged(candidate: Transformer) -> None:
    key = "blocks.1.attention.key"
    first, second = layer(candidate, key), layer(candidate, VALUE)
    replace_inner(candidate, VALUE, first)
    replace_inner(candidate, key, second)


def swap_gate_and_up(candidate: Transformer) -> None:
    """A state that is wrong before any kernel runs."""
    made = evaluate.setting(BF16)
    dense = Experts(made.dense.sizes, torch.Generator())
    gate, up, down = (
        made.dense.get_submodule(EXPERTS).get_parameter(name) for name in ("gate", "up", "down")
    )
    for name, weight in (("gate", up), ("up", gate), ("down", down)):
        dense.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    state = recipe.state_of(dense, made.samples[EXPERTS], BF16)
    replace_inner(candidate, EXPERTS, Simulated(state))


def another_experts_alpha(candidate: Transformer) -> None:
    scale = layer(candidate, EXPERTS).get_buffer("down_global_encode_scale")
    scale.copy_(scale.roll(1))


def another_experts_intermediate_scale(candidate: Transformer) -> None:
    scale = layer(candidate, EXPERTS).get_buffer("intermediate_global_encode_scale")
    scale.copy_(scale.roll(1))


def two_experts_exchanged(candidate: Transformer) -> None:
    for value in layer(candidate, EXPERTS).state_dict().values():
        if len(value) == 8:
            octets = value.view(torch.uint8)
            octets[[5, 7]] = octets[[7, 5]]


class Misrouted(nn.Module):
    """Experts that are given another routing than the router's."""

    def __init__(
        self, inner: nn.Module, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.inner = inner
        self.change = change

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        result: Tensor = self.inner(x, *self.change(weights, ids))
        return result


def misroute(
    candidate: Transformer, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    replace_inner(candidate, EXPERTS, Misrouted(layer(candidate, EXPERTS), change))


def ignore_the_weights(candidate: Transformer) -> None:
    misroute(candidate, lambda weights, ids: (torch.full_like(weights, 1 / 2), ids))


def exchange_the_weights(candidate: Transformer) -> None:
    misroute(candidate, lambda weights, ids: (weights.flip(-1), ids))


def only_the_first_expert(candidate: Transformer) -> None:
    misroute(candidate, lambda weights, ids: (weights, ids[..., :1].expand_as(ids)))


def last_token_to_its_neighbours_experts(candidate: Transformer) -> None:
    def change(weights: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        moved = ids.clone()
        moved[-1, -1] = (moved[-1, -1] + 1) % 8
        return weights, moved

    misroute(candidate, change)


def scale_the_scores_by_another_width(candidate: Transformer) -> None:
    block(candidate).attention.scale = 96**-0.5


def drop_the_residual(candidate: Transformer) -> None:
    block(candidate).register_forward_hook(lambda _, args, out: out - args[0])


def scale_a_blocks_result(candidate: Transformer) -> None:
    block(candidate).register_forward_hook(lambda *call: call[2] * 1.001)


def scale_a_norm(candidate: Transformer) -> None:
    block(candidate).experts_norm.weight[3] *= 1.001


def shift_the_router(candidate: Transformer) -> None:
    block(candidate).router.bias[5] += 0.001


def block(candidate: Transformer) -> Block:
    return model.blocks(candidate)["blocks.1"]


FAULTS: dict[Callable[[Transformer], None], str] = {
    **dict.fromkeys(
        (
            *(swap_nibbles, one_block_scale_up_one_step, miss_the_input_scale, drop_the_bias),
            one_layer_left_dense,
        ),
        VALUE,
    ),
    key_and_value_exchanged: "blocks.1.attention.key",
    **dict.fromkeys(
        (
            *(swap_gate_and_up, swap_nibbles_of_one_expert, another_experts_alpha),
            *(another_experts_intermediate_scale, two_experts_exchanged),
            *(ignore_the_weights, exchange_the_weights, only_the_first_expert),
            last_token_to_its_neighbours_experts,
        ),
        EXPERTS,
    ),
    scale_the_scores_by_another_width: "blocks.1.attention.output",
    scale_a_norm: EXPERTS,
    shift_the_router: EXPERTS,
    drop_the_residual: "blocks.1",
    scale_a_blocks_result: "blocks.1",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_in_one_block_is_named(fault: Callable[[Transformer], None]) -> None:
    candidate = simulated()
    fault(candidate)

    result = judged(candidate)

    assert result.first_bad_part == FAULTS[fault], str(result)
    wrong = {part.name for part in result.parts if not _does_what_it_must(part)}
    assert wrong == {FAULTS[fault]} | ({VALUE} if fault is key_and_value_exchanged else set())


def _does_what_it_must(part: Part) -> bool:
    return all(comparison.passed for comparison in part.comparisons.values())


def test_a_router_of_its_own_mind_is_seen() -> None:
    candidate = simulated()
    block(candidate).router.bias[0] += 9

    result = judged(candidate)

    assert result.figures["blocks.1 routed alike"] < 0.5
    assert any(words.startswith("blocks.1 routed alike") for words in result.failures())


def test_figures_hold_every_part() -> None:
    figures = judged(simulated()).figures

    kinds = ("on its own input", "on the twin's input", "after all before it")
    for name in (*evaluate.setting(BF16).states, *(f"blocks.{i}" for i in range(3))):
        assert all(math.isfinite(figures[f"{name} {kind}"]) for kind in kinds)
    assert 0 < figures["worst element, in budgets"] <= 1


def test_nothing_replaced_is_no_pass() -> None:
    assert not MoEResult((), ()).passed


def test_figures_beyond_their_bounds_fail() -> None:
    good = Comparison("budget", 4, worst=0.9)
    far = judge.error("on its own input", 0.2, 0.134)
    part = Part("blocks.0.experts", {"on its own input": good}, (far,))

    (words,) = MoEResult((part,), ()).failures()
    assert words.startswith("blocks.0.experts: on its own input 0.2000, need <= 0.174 because 1.3")
    assert judge.error("e", math.nan, 0.134).failures()
    assert not judge.agreement("a", 0.9, 1.0, tokens=10).failures()
    assert judge.agreement("a", 0.89, 1.0, tokens=10).failures()
