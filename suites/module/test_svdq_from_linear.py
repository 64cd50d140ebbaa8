"""SVDQW4A4Linear from a dense layer: smoothing, the low-rank branch, the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kernels.svdq import decompose
from kernels.svdq.linear import SVDQW4A4Linear
from suites.module.svdq_layers import (
    HALVES,
    SHAPES,
    dense,
    draw,
    exact_state,
    same_bits,
    same_state,
    sample,
)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize("smooths", [False, True])
def test_parts_rebuild_the_weight_within_half_a_step(
    out_features: int, in_features: int, dtype: torch.dtype, *, smooths: bool
) -> None:
    source = dense(out_features, in_features, dtype)
    activations = sample(in_features) if smooths else None
    layer = SVDQW4A4Linear.from_linear(source, rank=16, activations=activations)
    smooth = layer.smooth.double()
    error = (layer.dequantized_weight() - source.weight.double()) * smooth
    step = layer.wscales.double().t().repeat_interleave(64, dim=1)
    assert (error.abs() <= step * (0.5 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("activations", [None, sample(192)], ids=["plain", "smoothed"])
def test_a_weight_of_the_rank_of_the_branch_leaves_no_residual(activations: Tensor | None) -> None:
    source = dense(72, 192, torch.bfloat16)
    source.weight = nn.Parameter((draw(72, 16) @ draw(16, 192, seed=1)).bfloat16())
    layer = SVDQW4A4Linear.from_linear(source, rank=16, activations=activations)
    residual = layer.residual_weight() / layer.smooth.double()
    assert residual.norm() < 0.02 * source.weight.double().norm()


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_the_factors_are_the_best_of_their_rank(out_features: int, in_features: int) -> None:
    weight = draw(out_features, in_features)
    down, up = decompose.low_rank(weight, 16)
    kept = min(16, out_features)
    assert (down.shape, up.shape) == ((in_features, 16), (out_features, 16))
    values = torch.linalg.svdvals(weight)
    left_over = torch.linalg.svdvals(weight - up @ down.t())
    beyond = torch.nn.functional.pad(values[kept:], (0, kept))
    assert (left_over - beyond).abs().max() < 1e-9 * values[0]
    orthonormal = (down.t() @ down)[:kept, :kept] - torch.eye(kept, dtype=torch.float64)
    assert orthonormal.abs().max() < 1e-9
    assert not down[:, kept:].any()


def test_a_larger_rank_leaves_less() -> None:
    source = dense(256, 128, torch.bfloat16)
    left = [
        (
            SVDQW4A4Linear.from_linear(source, rank=rank).dequantized_weight()
            - source.weight.double()
        )
        .norm()
        .item()
        for rank in (16, 32, 64)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.9 * left[0]


def test_from_linear_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    source, activations = dense(72, 192, torch.bfloat16), sample(192)
    before = torch.get_rng_state()
    first = SVDQW4A4Linear.from_linear(source, activations=activations)
    second = SVDQW4A4Linear.from_linear(source, activations=activations)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(dict(second.state_dict()), dict(first.state_dict()))


def test_from_linear_changes_neither_the_layer_nor_the_sample() -> None:
    source, activations = dense(72, 192, torch.float16), sample(192)
    weight, values = source.weight.detach().clone(), activations.clone()
    SVDQW4A4Linear.from_linear(source, activations=activations)
    assert same_bits(source.weight.detach(), weight)
    assert same_bits(activations, values)


def test_smoothing_is_the_ratio_of_powers() -> None:
    span = torch.tensor([4.0, 9.0], dtype=torch.float64)
    weight = torch.tensor([[0.25, -1.0], [-1.0, 4.0]], dtype=torch.float64)
    for alpha, expected in ((0.5, [2.0, 1.5]), (1.0, [4.0, 9.0]), (0.0, [1.0, 0.25])):
        smooth = decompose.smoothing(span, weight, alpha=alpha, dtype=torch.bfloat16)
        assert smooth.tolist() == expected


@pytest.mark.parametrize("dtype", HALVES)
def test_smoothing_of_zero_and_infinite_columns_is_one(dtype: torch.dtype) -> None:
    inf, nan = torch.inf, torch.nan
    span = torch.tensor([0.0, inf, nan, 0.0, 3.0, 1e-30, 1e30, 4.0], dtype=torch.float64)
    peak = torch.tensor([2.0, 2.0, 2.0, 0.0, 0.0, 1e30, 1e-30, 1.0], dtype=torch.float64)
    smooth = decompose.smoothing(span, peak.repeat(3, 1), alpha=0.5, dtype=dtype)
    assert smooth[[0, 1, 2, 3, 4, 7]].tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]
    extreme = smooth[[5, 6]]
    assert (torch.isfinite(extreme) & (extreme > 0)).all()
    assert dtype == torch.bfloat16 or extreme.tolist() == [1.0, 1.0]


def test_dead_and_infinite_channels_still_make_a_finite_layer() -> None:
    source = dense(72, 192, torch.float16)
    with torch.no_grad():
        source.weight[:, 5] = 0
    activations = sample(192)
    activations[..., 6] = 0
    activations[0, 0, 7] = torch.inf
    layer = SVDQW4A4Linear.from_linear(source, activations=activations)
    assert layer.smooth[[5, 6, 7]].tolist() == [1.0, 1.0, 1.0]
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


def test_a_span_and_its_sample_make_the_same_layer() -> None:
    source, activations = dense(72, 192, torch.bfloat16), sample(192)
    span = activations.abs().amax(dim=(0, 1))
    by_sample = SVDQW4A4Linear.from_linear(source, activations=activations)
    by_span = SVDQW4A4Linear.from_linear(source, activations=span)
    assert same_state(dict(by_span.state_dict()), dict(by_sample.state_dict()))


@pytest.mark.parametrize("dtype", HALVES)
def test_codes_are_the_nearest_and_ties_go_to_even(dtype: torch.dtype) -> None:
    row = torch.zeros(128, dtype=torch.float64)
    row[:8] = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7.0])
    codes, scales = decompose.quantize_int4(row.unsqueeze(0), dtype)
    assert scales.tolist() == [[1.0], [0.0]]
    assert decompose.unpack_nibbles(codes)[0, :8].tolist() == [7, 0, 2, 2, 0, -2, -2, -7]
    assert not codes[0, 4:].any()


def test_nibbles_hold_even_k_low_and_every_code() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).reshape(1, 16)
    packed = decompose.pack_nibbles(codes)
    assert packed[0, :2].tolist() == [0x98, 0xBA]
    assert torch.equal(decompose.unpack_nibbles(packed), codes)


def test_dequantized_weight_is_what_scalars_give() -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(8, 128, torch.float16))
    actual = layer.dequantized_weight()
    state = {key: value.double().tolist() for key, value in layer.state_dict().items()}
    for n in range(8):
        for k in range(128):
            byte = int(state["qweight"][n][k // 2])
            code = byte >> 4 if k % 2 else byte & 15
            code -= 16 * (code > 7)
            residual = code * state["wscales"][k // 64][n] * state["wcscales"][n]
            branch = sum(
                a * b for a, b in zip(state["lora_down"][k], state["lora_up"][n], strict=True)
            )
            assert actual[n, k].item() == residual / state["smooth"][k] + branch
