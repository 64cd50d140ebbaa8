"""A fault in one block turns the transformer red, and the part where it is is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from suites.e2e.evaluate import HalfLayer
from suites.e2e.moe import model, recipe
from suites.e2e.moe.model import Block, Experts, Transformer
from suites.e2e.moe.observe import setting
from suites.e2e.moe.rehearsal import DTYPE, rehearse, simulated
from suites.e2e.moe.runs import replaced_layers
from suites.e2e.moe.simulation import Simulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from suites.e2e.moe.judge import Part

VALUE, EXPERTS = "blocks.1.attention.value", "blocks.1.experts"


def layer(candidate: Transformer, name: str) -> nn.Module:
    return replaced_layers(candidate)[name].inner


def replace_inner(candidate: Transformer, name: str, inner: nn.Module) -> None:
    candidate.set_submodule(name, HalfLayer(inner, DTYPE))


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
    dense = setting(DTYPE).dense.get_submodule(VALUE)
    replace_inner(candidate, VALUE, nn.Linear(96, 96).to(DTYPE))
    layer(candidate, VALUE).load_state_dict(dense.state_dict())


def key_and_value_exchanged(candidate: Transformer) -> None:
    key = "blocks.1.attention.key"
    first, second = layer(candidate, key), layer(candidate, VALUE)
    replace_inner(candidate, VALUE, first)
    replace_inner(candidate, key, second)


def swap_gate_and_up(candidate: Transformer) -> None:
    """A state that is wrong before any kernel runs."""
    made = setting(DTYPE)
    dense = Experts(made.dense.sizes, torch.Generator())
    gate, up, down = (
        made.dense.get_submodule(EXPERTS).get_parameter(name) for name in ("gate", "up", "down")
    )
    for name, weight in (("gate", up), ("up", gate), ("down", down)):
        dense.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    state = recipe.state_of(dense, made.samples[EXPERTS], DTYPE)
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

    result = rehearse(candidate)

    assert result.first_bad_part == FAULTS[fault], str(result)
    wrong = {part.name for part in result.parts if not _does_what_it_must(part)}
    assert wrong == {FAULTS[fault]} | ({VALUE} if fault is key_and_value_exchanged else set())


def _does_what_it_must(part: Part) -> bool:
    return all(comparison.passed for comparison in part.comparisons.values())


def test_a_router_of_its_own_mind_is_seen() -> None:
    candidate = simulated()
    block(candidate).router.bias[0] += 9

    result = rehearse(candidate)

    assert result.figures["blocks.1 routed alike"] < 0.5
    assert any(words.startswith("blocks.1 routed alike") for words in result.failures())
