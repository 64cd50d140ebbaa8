"""SVDQW4A4MLP with no GPU: what it refuses and launches, and its twin beside dense layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from harness import device
from harness.launches import capture_launches
from kernels.svdq.linear import SVDQW4A4Linear
from kernels.svdq.mlp import SVDQW4A4MLP
from suites.module.subjects import dense_mlp
from suites.module.svdq_layers import dense, draw

HALF = torch.float16


def layer(linear: nn.Linear, backend: str = "cuda") -> SVDQW4A4Linear:
    return SVDQW4A4Linear.from_linear(linear, rank=16, backend=backend)


def linears(features: int = 128) -> tuple[nn.Linear, nn.Linear]:
    return dense(features, 64, HALF, seed=3), dense(40, features, HALF, seed=5)


def test_what_does_not_fit_is_refused() -> None:
    first, second = linears()
    with pytest.raises(ValueError, match=r"first\.backend='triton' has no fused GEMM"):
        SVDQW4A4MLP(layer(first, "triton"), layer(second))
    with pytest.raises(ValueError, match=r"second\.in_features=128 must be first\.out_features=64"):
        SVDQW4A4MLP(layer(dense(64, 64, HALF)), layer(second))
    with pytest.raises(
        TypeError, match=r"second has dtype torch\.bfloat16 and first torch\.float16"
    ):
        SVDQW4A4MLP(layer(first), layer(second).to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"must end in in_features=64"):
        SVDQW4A4MLP(layer(first), layer(second))(torch.zeros(3, 128, dtype=HALF))


@pytest.mark.parametrize("unsigned", [False, True])
def test_both_ends_agree_on_signs(*, unsigned: bool) -> None:
    first, second = (layer(each) for each in linears())
    module = SVDQW4A4MLP.from_layers(first, second, activation="silu", unsigned=unsigned)
    with device.pretend("sm90"), capture_launches() as launches, torch.no_grad():
        y = module(torch.zeros(2, 3, 64, dtype=HALF))
    assert y.shape == (2, 3, 40)
    defines = [launch.function.source.defines for launch in launches]
    (requantizes,) = (each for each in defines if "EPILOGUE" in each)
    assert requantizes["NEXT_UNSIGNED"] == defines[-1]["UNSIGNED"] == str(int(unsigned))
    assert requantizes["ACTIVATION"] == "1"


def all_ones() -> SVDQW4A4Linear:
    """A layer whose whole weight is of codes of 1: rows of one sign, as a shift shows best."""
    state = dict(layer(linears()[1]).state_dict())
    state["qweight"] = torch.full_like(state["qweight"], 0x11)
    state["lora_up"] = torch.zeros_like(state["lora_up"])
    return SVDQW4A4Linear.from_state_dict(state, backend="cuda")


def error(module: SVDQW4A4MLP, x: Tensor) -> float:
    """Relative L2 to the first layer before it was quantized and the second as it is."""
    first, second = linears()[0].double(), all_ones()
    assert second.bias is not None
    with torch.no_grad():
        between = gelu(first(x.double()), approximate="tanh")
    known = between @ second.dequantized_weight().T + second.bias.double()
    return float((dense_mlp(module, x) - known).norm() / known.norm())


def test_the_shift_is_taken_back() -> None:
    first, second = layer(linears()[0]), all_ones()
    before = second.state_dict()["bias"].clone()
    x = draw(40, 64, seed=9).to(HALF)
    signed = error(SVDQW4A4MLP.from_layers(first, second, unsigned=False), x)
    unsigned = error(SVDQW4A4MLP.from_layers(first, second, unsigned=True), x)
    shifted = error(SVDQW4A4MLP(first, second, unsigned=True), x)
    assert max(unsigned, signed) < 0.05
    assert shifted > 3 * unsigned
    assert torch.equal(second.state_dict()["bias"], before), "the layer given is left alone"


def test_a_layer_without_bias_gets_one_for_the_shift() -> None:
    first, second = dense(128, 64, HALF), dense(40, 128, HALF, bias=False)
    module = SVDQW4A4MLP.from_layers(layer(first), layer(second))
    assert module.second.bias is not None
    assert SVDQW4A4MLP.from_layers(layer(first), layer(second), unsigned=False).second.bias is None
