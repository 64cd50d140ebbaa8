"""A layer of each scheme is held to its exact recipe, and a fault in its state or kernel shows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from suites.e2e import evaluate, svdq
from suites.e2e.judge import Layer, judge
from suites.e2e.nvfp4 import NVFP4
from suites.e2e.recipe import Scheme, compare_layer, relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, Tensor]
SVDQ = replace(svdq.SVDQ, make=partial(svdq.make, rank=16))  # 64 would be all of a small layer


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(scheme: Scheme, seed: int = 4) -> tuple[nn.Linear, State, Tensor]:
    """A dense layer, its quantized state, and an input."""
    dense = nn.Linear(192, 48).requires_grad_(requires_grad=False)
    dense.weight.copy_(normal(seed, 48, 192) / 14)
    dense.bias.copy_(normal(seed + 1, 48))
    x = normal(seed + 2, 40, 192).to(torch.bfloat16)
    spans = x.abs().amax(dim=0)
    return dense, scheme.make(dense, spans, dtype=torch.bfloat16, backend="triton").state_dict(), x


def output(scheme: Scheme, state: State, x: Tensor) -> Tensor:
    """What a right kernel returns for the layer that holds ``state``."""
    return scheme.expected(state, x).value.to(x.dtype)


def drop_low_rank(state: State) -> None:
    state["lora_up"].zero_()


def drop_bias(state: State) -> None:
    state["bias"].zero_()


def swap_nibbles(state: State) -> None:
    key = "qweight" if "qweight" in state else "weight_codes"
    state[key] = state[key] >> 4 | state[key] << 4


def skip_smoothing(state: State) -> None:
    state["smooth"].fill_(1)


def one_scale_up_one_ulp(state: State) -> None:
    state["wscales"][2, 7] *= 1 + 2**-7


def one_block_scale_up_one_step(state: State) -> None:
    state["weight_scales"].view(torch.uint8)[0, 7] += 1


def scales_left_in_rows(state: State) -> None:
    """The layout 128x4 taken for rows: the scales of other rows and blocks."""
    octets = state["weight_scales"].view(torch.uint8)
    tiles = octets.view(-1, 3, 32, 4, 4).permute(0, 3, 2, 1, 4)
    state["weight_scales"] = tiles.reshape(octets.shape).view(torch.float8_e4m3fn)


def weight_convention_swapped(state: State) -> None:
    state["weight_global_encode_scale"].reciprocal_()


def input_convention_swapped(state: State) -> None:
    state["input_global_encode_scale"].reciprocal_()


FAULTS: dict[str, tuple[Scheme, Callable[[State], None]]] = {
    **{
        f"svdq-{fault.__name__}": (SVDQ, fault)
        for fault in (drop_low_rank, drop_bias, swap_nibbles, skip_smoothing, one_scale_up_one_ulp)
    },
    **{
        f"nvfp4-{fault.__name__}": (NVFP4, fault)
        for fault in (
            *(drop_bias, swap_nibbles, one_block_scale_up_one_step, scales_left_in_rows),
            *(weight_convention_swapped, input_convention_swapped),
        )
    },
}
schemes = pytest.mark.parametrize("scheme", [SVDQ, NVFP4], ids=lambda each: each.judged_as)


@schemes
def test_right_layer_is_within_its_budget(scheme: Scheme) -> None:
    dense, state, x = quantized(scheme)

    comparison = compare_layer(scheme, state, x, output(scheme, state, x))

    assert comparison.passed, str(comparison)
    error = relative_error(
        output(scheme, state, x).float() - dense.bias,
        nn.functional.linear(x.float(), dense.weight),
    )
    assert scheme.limits.format_error.admits(error)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_leaves_the_budget(name: str) -> None:
    scheme, fault = FAULTS[name]
    _, state, x = quantized(scheme)
    damaged = {key: value.clone() for key, value in state.items()}
    fault(damaged)

    assert not compare_layer(scheme, state, x, output(scheme, damaged, x)).passed


@schemes
def test_misread_scale_is_named_first_bad_layer(scheme: Scheme) -> None:
    _, state, x = quantized(scheme)
    layer = nn.Module()
    for key, value in state.items():
        layer.register_buffer(key, value.clone())
    scheme.misread(layer)
    right = compare_layer(scheme, state, x, output(scheme, state, x))
    wrong = compare_layer(scheme, state, x, output(scheme, layer.state_dict(), x))
    names = ("0.query", "3.intermediate", "5.output")
    limit = scheme.limits.format_error
    layers = [Layer(name, wrong if "3" in name else right, 0.1, limit) for name in names]
    unchanged = normal(1, 32, 384)

    result = judge(layers, unchanged, unchanged, limits=scheme.limits)

    assert not result.passed
    assert result.first_bad_layer == "3.intermediate"
    assert str(result).startswith("first bad layer: 3.intermediate\n3.intermediate: budget:")


@schemes
def test_state_of_another_layer_shows_as_format_error(scheme: Scheme) -> None:
    dense, _, x = quantized(scheme)
    _, other, _ = quantized(scheme, seed=9)
    actual = output(scheme, other, x)

    assert compare_layer(scheme, other, x, actual).passed
    error = relative_error(actual.float(), nn.functional.linear(x.float(), dense.weight))
    assert not scheme.limits.format_error.admits(error)


def test_an_op_of_no_layer_is_refused() -> None:
    with pytest.raises(LookupError, match=r"op='rms_norm' is run by no layer.*nvfp4_gemm"):
        evaluate.scheme_of("rms_norm")
