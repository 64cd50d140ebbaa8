"""The committed transformer routes unfairly; its layers hold the recipe, which the judge takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from harness.compare import Comparison
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.moe import NVFP4MoE
from suites.e2e.moe import evaluate, judge, model, recipe, verdict
from suites.e2e.moe.judge import MoEResult, Part
from suites.e2e.moe.model import Transformer
from suites.e2e.moe.observe import setting
from suites.e2e.moe.rehearsal import DTYPE, rehearse, simulated
from suites.e2e.moe.runs import led_and_free, replaced_layers, run
from suites.e2e.recipe import relative_error

halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
EXPERTS = "blocks.1.experts"


def test_routing_is_unfair_and_each_block_has_its_own() -> None:
    made = setting(DTYPE)
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
    made, x = setting(DTYPE), model.tokens().double()
    changed = x.clone()
    changed[:, 9:] = 1.0

    assert torch.equal(made.twin(changed)[:, :9], made.twin(x)[:, :9])


def test_experts_are_what_their_formula_says() -> None:
    made = setting(DTYPE)
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
    made = setting(dtype)
    held = replaced_layers(evaluate.quantize(made, backend="triton"))

    for name, expected in made.states.items():
        state = held[name].inner.state_dict()
        assert set(state) == set(expected)
        assert isinstance(held[name].inner, NVFP4MoE if "experts" in name else NVFP4Linear)
        calibrated = recipe.calibrated_as(expected, state)
        for key, value in state.items():
            assert torch.equal(value.view(torch.uint8), calibrated[key].view(torch.uint8)), key


def test_a_wrong_scale_of_intermediates_is_not_taken_over() -> None:
    state = setting(DTYPE).states[EXPERTS]
    key = "intermediate_global_encode_scale"
    near, far = state[key] * (1 + 2**-20), state[key].roll(1)

    assert torch.equal(recipe.calibrated_as(state, {key: near})[key], near)
    assert torch.equal(recipe.calibrated_as(state, {key: far})[key], state[key])


@halves
def test_the_format_costs_what_it_should(dtype: torch.dtype) -> None:
    """Of Gaussian data 0.134 a product; of experts three operands more, and two are multiplied."""
    made = setting(dtype)
    result = verdict.judged(made.simulated, made, made.states)

    assert result.passed, str(result)
    for part in result.parts:
        least, most = (0.17, 0.3) if not part.name.count("attention") else (0.11, 0.16)
        found = [error.value for error in part.errors if "input" in error.name]
        assert all(least < value < most for value in found), (part.name, found)
    assert 0.2 < result.figures["result, led by the twin's router"] < 0.4


def test_few_tokens_have_slack() -> None:
    """A code near a rounding may be either, and blurs all of its token's results."""
    made = setting(DTYPE)
    for name in model.blocks(made.dense):
        x, weights, ids = (
            part.flatten(0, -2) for part in made.beside.calls[f"{name}.experts"].args
        )
        state = made.states[f"{name}.experts"]
        expected = recipe.expected_output(state, x.to(DTYPE), weights.float(), ids)
        assert expected.near_ties is not None
        assert int((expected.near_ties > 0).any(1).sum()) <= 2  # tokens of 28


def test_halves_of_a_batch_are_runs_of_their_own() -> None:
    made = setting(DTYPE)
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
    result = rehearse(simulated())

    assert result.passed, str(result)
    assert [part.name for part in result.parts][4:7] == [
        "blocks.0.experts",
        "blocks.0",
        "blocks.1.attention.query",
    ]


def test_figures_hold_every_part() -> None:
    figures = rehearse(simulated()).figures

    kinds = ("on its own input", "on the twin's input", "after all before it")
    for name in (*setting(DTYPE).states, *(f"blocks.{i}" for i in range(3))):
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
