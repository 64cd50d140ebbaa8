"""What SVDQW4A4Linear computes: on exact input its dequantized weight, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from harness import device
from harness.emulation import emulate
from harness.launches import capture_launches
from kernels.svdq.linear import SVDQW4A4Linear
from suites.module.svdq_layers import (
    HALVES,
    exact_input,
    exact_state,
    expected_output,
    same_bits,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulate():
        yield


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,), (2, 0, 3)])
def test_on_exact_input_the_layer_is_its_dequantized_weight(
    dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(40, 128, dtype))
    x = exact_input(layer.smooth, *leading)
    assert same_bits(layer(x), expected_output(layer, x))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("absent", ["bias", "wcscales"])
def test_an_absent_optional_part_is_left_out(absent: str) -> None:
    state = exact_state(40, 128, torch.float16)
    del state[absent]
    layer = SVDQW4A4Linear.from_state_dict(state)
    x = exact_input(layer.smooth, 3)
    assert same_bits(layer(x), expected_output(layer, x))


@pytest.mark.usefixtures("emulated")
def test_a_strided_input_is_its_contiguous_copy() -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(40, 128, torch.float16))
    wide = exact_input(layer.smooth, 4, 3).repeat(1, 1, 2)
    x = wide.transpose(0, 1)[..., :128]
    assert not x.is_contiguous()
    assert same_bits(layer(x), layer(x.contiguous()))


@pytest.mark.usefixtures("emulated")
def test_torch_compile_traces_the_layer_whole() -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(40, 128, torch.bfloat16))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((3,), (2, 3), (2, 5)):
        x = exact_input(layer.smooth, *leading)
        assert same_bits(compiled(x), layer(x))


@pytest.mark.usefixtures("emulated")
def test_a_gradient_is_refused_rather_than_zero() -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(40, 128, torch.float16))
    x = exact_input(layer.smooth, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="autograd"):
        layer(x).sum().backward()


def test_the_cuda_backend_launches_its_kernels_from_the_same_state() -> None:
    layer = SVDQW4A4Linear.from_state_dict(exact_state(40, 128, torch.bfloat16), backend="cuda")
    x = exact_input(layer.smooth, 2, 3)
    with device.pretend("sm90"), capture_launches() as launches, torch.no_grad():
        y = layer(x)
    assert (y.shape, y.dtype) == ((2, 3, 40), torch.bfloat16)
    assert {launch.backend for launch in launches} == {"cuda"}
    first, *_ = launches
    last = launches[-1]
    assert first.arguments["lora_down"] is layer.lora_down
    assert last.arguments["lora_up"] is layer.lora_up
