"""The state of SVDQW4A4Linear: its keys, its round trip, its copies and conversions."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load, save

from kernels.svdq.linear import SVDQW4A4Linear
from suites.module.svdq_layers import (
    HALVES,
    dense,
    same_bits,
    same_state,
    sample,
)

KEYS = ["qweight", "wscales", "smooth", "lora_down", "lora_up", "bias", "wcscales"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("wcscales", [False, True])
def test_state_keys_are_stable(*, bias: bool, wcscales: bool) -> None:
    layer = SVDQW4A4Linear(128, 72, rank=16, bias=bias, wcscales=wcscales)
    absent = {"bias": not bias, "wcscales": not wcscales}
    assert list(layer.state_dict()) == [key for key in KEYS if not absent.get(key, False)]
    assert list(layer.parameters()) == []


def test_state_shapes_and_dtypes_are_stable() -> None:
    state = SVDQW4A4Linear(128, 72, rank=32, wcscales=True, dtype=torch.float16).state_dict()
    half = torch.float16
    assert {key: (tuple(value.shape), value.dtype) for key, value in state.items()} == {
        "qweight": ((72, 64), torch.uint8),
        "wscales": ((2, 72), half),
        "smooth": ((128,), half),
        "lora_down": ((128, 32), half),
        "lora_up": ((72, 32), half),
        "bias": ((72,), half),
        "wcscales": ((72,), half),
    }


@pytest.mark.parametrize("dtype", HALVES)
def test_safetensors_round_trip_is_byte_for_byte(dtype: torch.dtype) -> None:
    layer = SVDQW4A4Linear.from_linear(dense(72, 192, dtype), activations=sample(192))
    stored = save(layer.state_dict())
    again = SVDQW4A4Linear.from_state_dict(dict(sorted(load(stored).items())))
    assert same_state(dict(again.state_dict()), dict(layer.state_dict()))
    assert save(again.state_dict()) == stored
    assert again.extra_repr() == layer.extra_repr()


def test_an_empty_layer_loads_a_state() -> None:
    layer = SVDQW4A4Linear.from_linear(dense(72, 192, torch.float16), rank=48)
    empty = SVDQW4A4Linear(192, 72, rank=48, dtype=torch.float16)
    assert not empty.dequantized_weight().any()
    empty.load_state_dict(layer.state_dict())
    assert same_state(dict(empty.state_dict()), dict(layer.state_dict()))


def test_a_copy_is_its_own() -> None:
    layer = SVDQW4A4Linear.from_linear(dense(8, 64, torch.bfloat16), rank=16)
    twin = copy.deepcopy(layer)
    twin.qweight.zero_()
    assert layer.qweight.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_dtype_conversion_leaves_the_codes_alone(dtype: torch.dtype) -> None:
    layer = SVDQW4A4Linear.from_linear(dense(40, 256, torch.bfloat16))
    codes = layer.qweight.clone()
    layer.to(dtype)
    assert same_bits(layer.qweight, codes)
    assert {value.dtype for key, value in layer.state_dict().items() if key != "qweight"} == {dtype}


def test_widening_and_back_changes_no_bit() -> None:
    layer = SVDQW4A4Linear.from_linear(dense(40, 256, torch.bfloat16))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert same_state(dict(layer.float().bfloat16().state_dict()), before)


def test_repr_names_what_makes_an_equal_layer() -> None:
    layer = SVDQW4A4Linear(128, 72, rank=48, bias=False, dtype=torch.float16)
    assert repr(layer) == (
        "SVDQW4A4Linear(in_features=128, out_features=72, rank=48, bias=False, wcscales=False, "
        "dtype=torch.float16, backend='triton')"
    )
