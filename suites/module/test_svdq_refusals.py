"""What SVDQW4A4Linear refuses: broken states, layers, inputs; each in words that help."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels.module_backends import Backend
from kernels.svdq import linear, nunchaku
from kernels.svdq.linear import SVDQW4A4Linear
from suites.module.svdq_layers import (
    dense,
    exact_state,
    sample,
)


def broken(key: str, change: str) -> dict[str, Any]:
    state: dict[str, Any] = exact_state(72, 128, torch.float16)
    value = state[key]
    changed = {
        "wide": value.float(),
        "signed": value.view(torch.int8),
        "short": value[:-1],
        "flat": value.flatten(),
        "other_half": value.bfloat16(),
    }
    if change == "missing":
        return {k: v for k, v in state.items() if k != key}
    return state | {key: changed[change]}


@pytest.mark.parametrize(
    ("key", "change", "error", "says"),
    [
        ("smooth", "missing", ValueError, r"missing keys \['smooth'\].*prefix"),
        ("qweight", "signed", TypeError, "int8.*state_dict_from_nunchaku"),
        ("qweight", "flat", ValueError, "qweight.*2 axes"),
        ("wscales", "short", ValueError, r"wscales.*\(1, 72\).*\(2, 72\)"),
        ("wscales", "wide", TypeError, "wscales.*float32.*bfloat16"),
        ("lora_up", "short", ValueError, r"lora_up.*\(71, 16\).*\(72, 16\)"),
        ("bias", "other_half", TypeError, "bias.*bfloat16.*float16"),
        ("wcscales", "short", ValueError, r"wcscales.*\(71,\).*\(72,\)"),
    ],
)
def test_a_broken_state_is_refused(
    key: str, change: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        SVDQW4A4Linear.from_state_dict(broken(key, change))


def test_an_unknown_key_is_refused() -> None:
    state = exact_state(72, 128, torch.float16) | {"wtscale": torch.ones(1)}
    with pytest.raises(ValueError, match=r"unknown keys \['wtscale'\]"):
        SVDQW4A4Linear.from_state_dict(state)


def test_swapped_scales_are_refused() -> None:
    state = exact_state(72, 128, torch.float16)
    state["wscales"], state["wcscales"] = state["wcscales"], state["wscales"]
    with pytest.raises(ValueError, match=r"wscales.*2 axes"):
        SVDQW4A4Linear.from_state_dict(state)


@pytest.mark.parametrize("strict", [False, True])
def test_a_packed_checkpoint_is_never_loaded_as_it_is(*, strict: bool) -> None:
    state = SVDQW4A4Linear.from_linear(dense(128, 128, torch.bfloat16)).state_dict()
    packed = nunchaku.state_dict_to_nunchaku(state, names="loader")
    layer = SVDQW4A4Linear(128, 128)
    assert all(packed[key].shape == value.shape for key, value in layer.state_dict().items())
    with pytest.raises(RuntimeError, match="state_dict_from_nunchaku"):
        layer.load_state_dict(packed, strict=strict)
    assert not layer.qweight.any()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"in_features": 100}, ValueError, "in_features=100 .*64"),
        ({"in_features": 0}, ValueError, "in_features=0 .*64"),
        ({"out_features": 12}, ValueError, "out_features=12 .*8"),
        ({"rank": 0}, ValueError, "rank=0 .*16"),
        ({"rank": 24}, ValueError, "rank=24 .*16"),
        ({"rank": 272}, ValueError, "rank=272 .*256"),
        ({"dtype": torch.float32}, TypeError, "float32.*bfloat16"),
        ({"backend": "cutlass"}, ValueError, "'cutlass'.*'triton'"),
    ],
)
def test_a_layer_that_no_kernel_takes_is_refused(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        SVDQW4A4Linear(**({"in_features": 128, "out_features": 64} | arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"linear": nn.Identity()}, TypeError, "Identity.*Linear"),
        ({"linear": dense(72, 100, torch.float16)}, ValueError, "in_features=100 .*64"),
        ({"linear": dense(70, 128, torch.float16)}, ValueError, "out_features=70 .*8"),
        ({"linear": dense(72, 128, torch.float32)}, TypeError, "linear.weight.dtype.*float32"),
        ({"rank": 8}, ValueError, "rank=8 .*16"),
        ({"smooth_alpha": 1.5}, ValueError, r"smooth_alpha=1.5 .*\[0, 1\]"),
        ({"activations": torch.ones(64)}, ValueError, r"activations.shape=\(64,\).*128"),
        ({"activations": torch.ones(0, 128)}, ValueError, r"activations.shape=\(0, 128\).*one row"),
        ({"activations": torch.tensor(1.0)}, ValueError, r"activations.shape=\(\)"),
        ({"backend": "cute"}, ValueError, "'cute'.*'triton', 'cuda'"),
    ],
)
def test_from_linear_refuses_what_it_cannot_quantize(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    call: dict[str, Any] = {
        "linear": dense(72, 128, torch.float16),
        "activations": sample(128),
    } | arguments
    with pytest.raises(error, match=says):
        SVDQW4A4Linear.from_linear(call.pop("linear"), **call)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    source = dense(72, 128, torch.float16)
    with torch.no_grad():
        source.weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match="1 elements that are not finite"):
        SVDQW4A4Linear.from_linear(source)


def test_a_weight_that_the_dtype_cannot_hold_is_refused() -> None:
    source = dense(72, 128, torch.bfloat16)
    with torch.no_grad():
        source.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"lora_up reaches .* 65504.*bfloat16"):
        SVDQW4A4Linear.from_linear(source, dtype=torch.float16)
    assert torch.isfinite(SVDQW4A4Linear.from_linear(source).dequantized_weight()).all()


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.zeros(3, 128), TypeError, "float32.*bfloat16"),
        (torch.zeros(3, 128, dtype=torch.float16), TypeError, "float16.*bfloat16"),
        (torch.zeros(3, 64, dtype=torch.bfloat16), ValueError, r"\(3, 64\).*128"),
        (torch.zeros((), dtype=torch.bfloat16), ValueError, r"\(\).*128"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    x: Tensor, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        SVDQW4A4Linear(128, 64)(x)


def test_a_layer_left_in_float32_is_refused_with_the_way_out() -> None:
    layer = SVDQW4A4Linear(128, 64).float()
    with pytest.raises(TypeError, match=r"float32.*\.to\(torch\.bfloat16\)"):
        layer(torch.zeros(3, 128))


def test_a_backend_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_absent() -> tuple[linear.Quantize, linear.Gemm]:
        msg = "No module named 'absent'"
        raise ModuleNotFoundError(msg)

    monkeypatch.setitem(linear.BACKENDS, "absent", Backend(load_absent, "pip install absent"))
    layer = SVDQW4A4Linear(128, 64, backend="absent")
    with pytest.raises(ImportError, match=r"'absent'.*pip install absent") as caught:
        layer(torch.zeros(3, 128, dtype=torch.bfloat16))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
