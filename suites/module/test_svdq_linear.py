"""SVDQW4A4Linear: its state, its making from a dense layer, what it refuses, what it computes.

Inputs of the laws that run kernels lie on the int4 grid with power-of-two scales, so that every
step is exact and the layer must equal its dequantized weight bit for bit.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.emulation import emulate
from kernels.svdq import decompose, linear, nunchaku
from kernels.svdq.linear import SVDQW4A4Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = ["qweight", "wscales", "smooth", "lora_down", "lora_up", "bias", "wcscales"]
SHAPES = [(8, 64), (72, 192), (40, 256), (256, 128)]
HALVES = [torch.float16, torch.bfloat16]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(
    out_features: int, in_features: int, dtype: torch.dtype, *, bias: bool = True, seed: int = 0
) -> nn.Linear:
    """A dense layer with outlier input channels, drawn without the global generator."""
    layer = nn.Linear(in_features, out_features, bias=bias, device="meta", dtype=dtype)
    outliers = torch.where(torch.arange(in_features) % 13 == 0, 8.0, 1.0)
    weight = draw(out_features, in_features, seed=seed) * outliers / in_features**0.5
    layer.weight = nn.Parameter(weight.to(dtype))
    if bias:
        layer.bias = nn.Parameter(draw(out_features, seed=seed + 1).to(dtype))
    return layer


def sample(in_features: int, seed: int = 7) -> Tensor:
    return draw(2, 9, in_features, seed=seed) * torch.linspace(0.1, 3.0, in_features)


def bits(value: Tensor) -> Tensor:
    return value.contiguous().flatten().view(torch.uint8)


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    same_kind = (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    return same_kind and torch.equal(bits(actual), bits(expected))


def same_state(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(actual) == list(expected) and all(
        same_bits(actual[key], expected[key]) for key in expected
    )


def exact_state(
    out_features: int, in_features: int, dtype: torch.dtype, rank: int = 16
) -> dict[str, Tensor]:
    """A state of small integers and powers of two: sums of its products are exact in any order."""
    generator = torch.Generator().manual_seed(out_features + in_features)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    codes = integers(-7, 7, out_features, in_features).to(torch.int8)
    return {
        "qweight": decompose.pack_nibbles(codes),
        "wscales": (2.0 ** integers(-2, 0, in_features // 64, out_features)).to(dtype),
        "smooth": (2.0 ** integers(-1, 1, in_features)).to(dtype),
        "lora_down": integers(-1, 1, in_features, rank).to(dtype),
        "lora_up": integers(-1, 1, out_features, rank).to(dtype),
        "bias": integers(-8, 8, out_features).to(dtype),
        "wcscales": (2.0 ** integers(-1, 1, out_features)).to(dtype),
    }


def exact_input(smooth: Tensor, *leading: int) -> Tensor:
    """Activations that quantize without error: x / smooth are integers whose groups reach 7."""
    generator = torch.Generator().manual_seed(len(leading))
    codes = torch.randint(-3, 4, (*leading, len(smooth)), generator=generator)
    codes[..., ::64] = 7
    return codes * smooth


def expected_output(layer: SVDQW4A4Linear, x: Tensor) -> Tensor:
    """What exact arithmetic and one rounding give."""
    bias = 0.0 if layer.bias is None else layer.bias.double()
    return (x.double() @ layer.dequantized_weight().t() + bias).to(x.dtype)


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulate():
        yield


# The state


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


# From a dense layer


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


# What is refused


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
        ({"backend": "cuda"}, ValueError, "'cuda'.*'triton'"),
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

    monkeypatch.setitem(
        linear.BACKENDS, "absent", linear.Backend(load_absent, "pip install absent")
    )
    layer = SVDQW4A4Linear(128, 64, backend="absent")
    with pytest.raises(ImportError, match=r"'absent'.*pip install absent") as caught:
        layer(torch.zeros(3, 128, dtype=torch.bfloat16))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# What is computed


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
