"""Layers of compressed-tensors and of ModelOpt become the same state, by either convention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save

from kernels.nvfp4.checkpoints import (
    state_dict_from_compressed_tensors,
    state_dict_from_modelopt,
    state_dict_to_compressed_tensors,
)
from kernels.nvfp4.linear import NVFP4Linear
from references.nvfp4_format import swizzled
from suites.module.svdq_layers import draw, same_bits, same_state

if TYPE_CHECKING:
    from torch import Tensor

OUT, IN = 40, 96
ENCODE = (512.0, 2.0)  # of the weight and of the input: powers of two have exact reciprocals


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales as checkpoints have them, and a bias."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (OUT, IN // 2), generator=generator, dtype=torch.uint8)
    scales = torch.randint(0, 0x7F, (OUT, IN // 16), generator=generator, dtype=torch.uint8)
    return codes, scales.view(torch.float8_e4m3fn), draw(OUT).bfloat16()


def compressed_tensors() -> dict[str, Tensor]:
    codes, scales, bias = parts()
    return {
        "weight_packed": codes,
        "weight_scale": scales,
        "weight_global_scale": torch.tensor([ENCODE[0]]),
        "input_global_scale": torch.tensor([ENCODE[1]]),
        "bias": bias,
    }


def modelopt() -> dict[str, Tensor]:
    codes, scales, bias = parts()
    return {
        "weight": codes,
        "weight_scale": scales,
        "weight_scale_2": torch.tensor(1 / ENCODE[0]),
        "input_scale": torch.tensor(1 / ENCODE[1]),
        "bias": bias,
    }


def dequantized() -> Tensor:
    """``code * scale / g``, element by element, from the format's definition."""
    codes, scales, _ = parts()
    known = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    rows = [
        [
            (-1 if code > 7 else 1) * known[code % 8] * float(scales[row, k // 16]) / ENCODE[0]
            for k, code in enumerate(c for octet in octets for c in (octet & 15, octet >> 4))
        ]
        for row, octets in enumerate(codes.tolist())
    ]
    return torch.tensor(rows, dtype=torch.float64)


def test_both_libraries_layers_are_one_state() -> None:
    state = state_dict_from_compressed_tensors(compressed_tensors())
    assert same_state(state_dict_from_modelopt(modelopt()), state)
    codes, scales, bias = parts()
    assert same_bits(state["weight_codes"], codes)
    assert same_bits(state["weight_scales"].view(torch.uint8), swizzled(scales.view(torch.uint8)))
    assert same_bits(state["bias"], bias)
    globals_ = (state["weight_global_encode_scale"], state["input_global_encode_scale"])
    assert tuple(float(value) for value in globals_) == ENCODE


def test_the_layer_stands_for_the_weight_of_the_format() -> None:
    layer = NVFP4Linear.from_state_dict(state_dict_from_modelopt(modelopt()))
    assert torch.equal(layer.dequantized_weight(), dequantized())
    assert float(layer.alpha) == 1 / (ENCODE[0] * ENCODE[1])


def test_compressed_tensors_round_trip_byte_for_byte() -> None:
    written = save(compressed_tensors())
    state = state_dict_from_compressed_tensors(load(written))
    assert save(state_dict_to_compressed_tensors(load(save(state)))) == written


def test_a_layer_without_a_bias_has_none() -> None:
    layer = compressed_tensors()
    del layer["bias"]
    state = state_dict_from_compressed_tensors(layer)
    assert "bias" not in state
    assert same_state(state_dict_to_compressed_tensors(state), layer)


def scales_with(octet: int) -> Tensor:
    scales = parts()[1].view(torch.uint8).clone()
    scales[7, 2] = octet
    return scales.view(torch.float8_e4m3fn)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a NaN": (
        {"weight_scale": scales_with(0x7F)},
        ValueError,
        r"weight_scale has 1 scales that are NaN or negative, the first at \[7, 2\]",
    ),
    "a negative NaN": ({"weight_scale": scales_with(0xFF)}, ValueError, "NaN or negative"),
    "a negative scale": ({"weight_scale": scales_with(0xB8)}, ValueError, "NaN or negative"),
    "codes of int8": (
        {"weight_packed": parts()[0].view(torch.int8)},
        TypeError,
        "weight_packed.dtype=torch.int8 is not supported",
    ),
    "codes in one row": (
        {"weight_packed": parts()[0].flatten()},
        ValueError,
        r"weight_packed has shape \[1920\], of rank 1; reshape it to \[out, in/2\]",
    ),
    "k of 80": (
        {"weight_packed": parts()[0][:, :40], "weight_scale": parts()[1][:, :5]},
        ValueError,
        "in_features=80 is not a multiple of 32",
    ),
    "scales of bytes": (
        {"weight_scale": parts()[1].view(torch.uint8)},
        TypeError,
        "weight_scale.dtype=torch.uint8 is not supported",
    ),
    "scales of another k": (
        {"weight_scale": parts()[1][:, :4]},
        ValueError,
        r"weight_scale has shape \[40, 4\]; .*\[out=40, in/16=6\]",
    ),
    "a bf16 global scale": (
        {"weight_global_scale": torch.ones(1).bfloat16()},
        TypeError,
        "weight_global_scale.dtype=torch.bfloat16 is not supported",
    ),
    "unequal global scales": (
        {"weight_global_scale": torch.tensor([512.0, 256.0])},
        ValueError,
        r"weight_global_scale has the values \[512.0, 256.0\]; a layer has one",
    ),
    "a global scale of zero": (
        {"input_global_scale": torch.zeros(1)},
        ValueError,
        r"input_global_scale=0.0 is no encode \(2688 / amax\) scale",
    ),
    "a global scale that is NaN": (
        {"input_global_scale": torch.tensor([torch.nan])},
        ValueError,
        "input_global_scale has the values|input_global_scale=nan",
    ),
    "an unknown key": (
        {"input_scale": torch.ones(1)},
        ValueError,
        r"unknown keys \['input_scale'\].*the library that wrote them",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_faulty_layer_is_refused(name: str) -> None:
    replaced, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        state_dict_from_compressed_tensors(compressed_tensors() | replaced)


def test_equal_global_scales_of_fused_parts_are_one() -> None:
    fused = compressed_tensors() | {"weight_global_scale": torch.full((3,), ENCODE[0])}
    state = state_dict_from_compressed_tensors(fused)
    assert state["weight_global_encode_scale"].tolist() == [ENCODE[0]]


def test_the_other_librarys_layer_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"missing keys \['weight_packed'.*unknown keys \['weight'"
    ):
        state_dict_from_compressed_tensors(modelopt())
    with pytest.raises(
        ValueError, match=r"missing keys \['weight',.*unknown keys \['weight_packed'"
    ):
        state_dict_from_modelopt(compressed_tensors())


def test_a_decode_scale_that_has_no_reciprocal_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"weight_scale_2=1.4.*e-45 is no decode \(amax / 2688\) scale"
    ):
        state_dict_from_modelopt(modelopt() | {"weight_scale_2": torch.tensor(1e-45)})
