"""What NVFP4Linear computes and keeps: on exact input its dequantized weight, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from harness import device
from harness.emulation import emulate
from harness.launches import capture_launches
from kernels.nvfp4 import weights
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales
from kernels.nvfp4.state import FORMATS
from references.nvfp4_format import swizzled
from references.nvfp4_recipes import vllm
from suites.module.svdq_layers import HALVES, dense, draw, same_bits, same_state

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulate():
        yield


def exact_state(out_features: int, in_features: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Codes of any kind, scales and global scales of powers of two: sums of products are exact."""
    generator = torch.Generator().manual_seed(out_features + in_features)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    scales = 2.0 ** integers(-1, 1, out_features, in_features // 16)
    return {
        "weight_codes": integers(0, 255, out_features, in_features // 2).to(torch.uint8),
        "weight_scales": swizzle_scales(scales.to(torch.float8_e4m3fn)),
        "weight_global_encode_scale": torch.tensor([4.0]),
        "input_global_encode_scale": torch.tensor([2.0]),
        "bias": integers(-8, 8, out_features).to(dtype),
    }


def exact_input(in_features: int, dtype: torch.dtype, *leading: int) -> Tensor:
    """Activations that quantize without error: E2M1 numbers, a 6 in each block, by two's powers."""
    generator = torch.Generator().manual_seed(len(leading))
    known = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = known[torch.randint(0, 8, (*leading, in_features), generator=generator)]
    values[..., ::16] = -6
    blocks = 2.0 ** torch.randint(-1, 2, (*leading, in_features // 16), generator=generator)
    return (values * blocks.repeat_interleave(16, -1)).to(dtype)


def encode_of(values: Tensor) -> Tensor:
    """2688 by the largest. torch makes ``2688 / tensor`` a product with the reciprocal."""
    return torch.tensor([2688.0]) / values.abs().amax().float()


def expected_output(layer: NVFP4Linear, x: Tensor) -> Tensor:
    """What exact arithmetic and one rounding give."""
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return (x.double() @ layer.dequantized_weight().t() + bias).to(x.dtype)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,), (2, 0, 3)])
def test_on_exact_input_the_layer_is_its_dequantized_weight(
    dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, dtype))
    x = exact_input(96, dtype, *leading)
    assert same_bits(layer(x), expected_output(layer, x))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", HALVES)
def test_the_dtype_of_the_input_is_that_of_the_output(dtype: torch.dtype) -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, torch.bfloat16))
    assert layer(exact_input(96, dtype, 2)).dtype is dtype


@pytest.mark.usefixtures("emulated")
def test_an_absent_bias_is_left_out() -> None:
    state = exact_state(40, 96, torch.float16)
    del state["bias"]
    layer = NVFP4Linear.from_state_dict(state)
    x = exact_input(96, torch.float16, 3)
    assert same_bits(layer(x), expected_output(layer, x))


@pytest.mark.usefixtures("emulated")
def test_a_strided_input_is_its_contiguous_copy() -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, torch.float16))
    x = exact_input(96, torch.float16, 4, 3).repeat(1, 1, 2).transpose(0, 1)[..., :96]
    assert not x.is_contiguous()
    assert same_bits(layer(x), layer(x.contiguous()))


@pytest.mark.usefixtures("emulated")
def test_torch_compile_traces_the_layer_whole() -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, torch.bfloat16))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((3,), (2, 3), (2, 5)):
        x = exact_input(96, torch.bfloat16, *leading)
        assert same_bits(compiled(x), layer(x))


@pytest.mark.usefixtures("emulated")
def test_a_gradient_is_refused_rather_than_zero() -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, torch.float16))
    x = exact_input(96, torch.float16, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="autograd"):
        layer(x).sum().backward()


@pytest.mark.parametrize("shape", [(8, 32), (72, 96), (256, 128)])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_dense_layer_is_quantized_to_the_bytes_of_the_recipe(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    linear = dense(*shape, dtype)
    layer = NVFP4Linear.from_linear(linear, activations=draw(3, shape[1]))
    encode = encode_of(linear.weight.detach())
    codes, scales = vllm(linear.weight.detach(), encode)
    assert same_bits(layer.weight_global_encode_scale, encode)
    assert torch.equal(layer.weight_codes, codes)
    assert torch.equal(layer.weight_scales.double(), swizzled(scales))
    assert same_bits(layer.input_global_encode_scale, encode_of(draw(3, shape[1])))
    assert layer.bias is not None
    assert same_bits(layer.bias, linear.bias.detach())
    weight = linear.weight.detach().double()
    error = (layer.dequantized_weight() - weight).norm() / weight.norm()
    assert 0.05 < float(error) < 0.13  # Gaussian data have 0.095


def test_wide_weights_are_quantized_like_the_reference_too() -> None:
    x = draw(64, 256) * 2.0 ** torch.arange(-40, 24)[:, None]
    x[3] = 0
    for encode in (1.0, 2688 / 3.3):
        given = torch.tensor([encode])
        codes, scales = weights.quantize(x.bfloat16(), given)
        expected_codes, expected = vllm(x.bfloat16(), given)
        assert torch.equal(codes, expected_codes)
        assert torch.equal(scales.double(), expected)


def test_a_weight_of_zeros_has_a_global_scale() -> None:
    linear = dense(8, 32, torch.bfloat16)
    linear.weight = nn.Parameter(torch.zeros_like(linear.weight))
    layer = NVFP4Linear.from_linear(linear)
    assert layer.weight_global_encode_scale.tolist() == layer.alpha.tolist() == [1.0]
    assert not layer.dequantized_weight().any()


def test_a_conversion_changes_the_bias_alone() -> None:
    layer = NVFP4Linear.from_state_dict(exact_state(40, 96, torch.bfloat16))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.to(torch.float16).half()
    after = layer.state_dict()
    assert after["bias"].dtype is torch.float16
    formats = {key: after[key] for key in FORMATS}
    assert same_state(formats, {key: before[key] for key in FORMATS})
    assert layer.alpha.dtype is torch.float32


def test_alpha_follows_the_state_that_is_loaded() -> None:
    layer = NVFP4Linear(96, 40)
    assert layer.alpha.tolist() == [1.0]
    state = exact_state(40, 96, torch.bfloat16)
    nn.ModuleDict({"inner": layer}).load_state_dict({f"inner.{k}": v for k, v in state.items()})
    assert layer.alpha.tolist() == [1 / 8]
    assert "alpha" not in layer.state_dict()


def test_the_state_survives_safetensors() -> None:
    state = exact_state(40, 96, torch.float16)
    layer = NVFP4Linear.from_state_dict(load(save(state)))
    assert same_state(layer.state_dict(), state)
    scales = unswizzle_scales(layer.weight_scales, 40, 6)
    assert same_bits(swizzle_scales(scales), state["weight_scales"])


@pytest.mark.parametrize("key", FORMATS)
def test_a_state_of_another_dtype_is_not_loaded(key: str) -> None:
    state = exact_state(40, 96, torch.bfloat16)
    state[key] = state[key].bfloat16()
    with pytest.raises(RuntimeError, match=f"{key} has dtype torch.bfloat16, not .*checkpoints"):
        NVFP4Linear(96, 40).load_state_dict(state)
    with pytest.raises(TypeError, match=f"{key}.dtype=torch.bfloat16 is not supported"):
        NVFP4Linear.from_state_dict(state)


CALLS: dict[str, tuple[Any, type[Exception], str]] = {
    "in_features": (lambda: NVFP4Linear(48, 8), ValueError, "in_features=48 is not a multiple"),
    "out_features": (lambda: NVFP4Linear(32, 4), ValueError, r"out_features=4 is outside 8\.\."),
    "dtype": (
        lambda: NVFP4Linear(32, 8, dtype=torch.float32),
        TypeError,
        "dtype=torch.float32 must be torch.float16 or torch.bfloat16",
    ),
    "backend": (
        lambda: NVFP4Linear(32, 8, backend="cuda"),
        ValueError,
        "backend='cuda' is not known; .*'triton'",
    ),
    "module": (
        lambda: NVFP4Linear.from_linear(nn.ReLU()),
        TypeError,
        "linear=ReLU must be a torch.nn.Linear",
    ),
    "infinite": (
        lambda: NVFP4Linear.from_linear(_with_infinity()),
        ValueError,
        "linear.weight has 1 elements that are not finite",
    ),
    "a sample with a NaN": (
        lambda: NVFP4Linear.from_linear(
            dense(8, 32, torch.float16), activations=torch.tensor([1.0, torch.nan])
        ),
        ValueError,
        "activations has 1 elements that are not finite",
    ),
    "keys": (
        lambda: NVFP4Linear.from_state_dict({"weight": torch.zeros(8, 16)}),
        ValueError,
        r"missing keys \['weight_codes', .*unknown keys \['weight'\].*checkpoints",
    ),
    "shape": (
        lambda: NVFP4Linear.from_state_dict(
            exact_state(40, 96, torch.float16) | {"bias": torch.zeros(8).half()}
        ),
        ValueError,
        r"bias has shape \(8,\); it must be \(40,\)",
    ),
    "rank": (
        lambda: NVFP4Linear.from_state_dict(
            exact_state(40, 96, torch.float16) | {"weight_codes": torch.zeros(8).byte()}
        ),
        ValueError,
        r"weight_codes has shape \[8\], of rank 1; reshape it to \[out, in/2\]",
    ),
    "x": (
        lambda: NVFP4Linear(32, 8)(torch.zeros(2, 64).half()),
        ValueError,
        r"x.shape=\(2, 64\) must end in in_features=32",
    ),
    "x of float32": (
        lambda: NVFP4Linear(32, 8)(torch.zeros(2, 32)),
        TypeError,
        "x.dtype=torch.float32 must be torch.float16 or torch.bfloat16",
    ),
}


def _with_infinity() -> nn.Linear:
    linear = dense(8, 32, torch.float16)
    with torch.no_grad():
        linear.weight[3, 5] = torch.inf
    return linear


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_layer_is_refused(name: str) -> None:
    call, error, words = CALLS[name]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("backend", "arch", "module"),
    [
        ("triton", "sm90", "triton_gemm"),
        ("cutedsl", "sm90", "cutedsl_gemm"),
        ("cutedsl.block_scaled", "sm100", "cutedsl_block_scaled"),
        ("cutedsl.warp_scaled", "sm120", "cutedsl_warp_scaled"),
    ],
)
def test_a_backend_runs_its_own_gemm(backend: str, arch: str, module: str) -> None:
    layer = NVFP4Linear.from_linear(dense(16, 64, torch.bfloat16), backend=backend)
    with torch.no_grad(), device.pretend(arch), capture_launches() as launches:
        layer(torch.ones(3, 64, dtype=torch.bfloat16))
    quantizer, gemm = (each.module.rpartition(".")[2] for each in launches)
    assert (quantizer, gemm) == ("triton_quantize", module)
