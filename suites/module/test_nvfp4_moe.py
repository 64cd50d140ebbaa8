"""What NVFP4MoE computes and keeps: on exact input its dequantized weights, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import silu

from harness.emulation import emulate
from harness.launches import record_launches
from kernels.nvfp4 import moe_checkpoints, weights
from kernels.nvfp4.moe import NVFP4MoE
from kernels.nvfp4.moe_state import FORMATS
from kernels.nvfp4.scale_layout import unswizzle_scales
from references.nvfp4_recipes import vllm
from suites.module.svdq_layers import HALVES, draw, same_bits, same_state

if TYPE_CHECKING:
    from collections.abc import Iterator

E, K, I, H = 4, 96, 64, 40  # noqa: E741 - the axes' names


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulate():
        yield


def dense(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, up and down; up is a third as large, and experts differ."""
    sizes = 2.0 ** torch.arange(E)[:, None, None] / 16
    gate, up, down = (
        (draw(E, *shape, seed=seed + n) * sizes).float()
        for n, shape in enumerate(((I, K), (I, K), (H, I)))
    )
    return gate, up / 3, down


def routed(*leading: int, top_k: int = 2, experts: int = E) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(leading))
    ids = torch.randint(0, experts, (*leading, top_k), generator=generator)
    return torch.rand(*leading, top_k, generator=generator), ids


def sample(*leading: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return draw(*leading, K, seed=9).to(dtype)


def densely(module: NVFP4MoE, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
    """In float64, with nothing quantized but the weights."""
    gate, up, down = module.dequantized_weights()
    wide = x.double()[..., None, :, None]
    between = silu(gate[topk_ids] @ wide) * (up[topk_ids] @ wide)
    parts = (down[topk_ids] @ between).squeeze(-1)
    return (topk_weights.double()[..., None] * parts).sum(-2)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", HALVES)
def test_it_is_near_the_dense_experts(dtype: torch.dtype) -> None:
    """Two operands of each product are quantized: of Gaussian data 0.13, and here twice."""
    module = NVFP4MoE.from_experts(*dense(), activations=sample(64))
    x, (given, ids) = sample(2, 9, dtype=dtype), routed(2, 9)
    y = module(x, given, ids)
    assert (y.shape, y.dtype) == ((2, 9, H), dtype)
    expected = densely(module, x, given, ids)
    assert float((y.double() - expected).norm() / expected.norm()) < 0.25


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,), (2, 0, 3)])
def test_tokens_of_any_shape_are_their_rows(leading: tuple[int, ...]) -> None:
    module = NVFP4MoE.from_experts(*dense())
    x, (given, ids) = sample(*leading), routed(*leading)
    y = module(x, given, ids)
    rows = module(x.reshape(-1, K), given.reshape(-1, 2), ids.reshape(-1, 2))
    assert same_bits(y, rows.reshape(*leading, H))


@pytest.mark.usefixtures("emulated")
def test_the_same_result_is_not_written_twice_to_one_place() -> None:
    module = NVFP4MoE.from_experts(*dense())
    x, (given, ids) = sample(3), routed(3)
    first = module(x, given, ids)
    kept = first.clone()
    module(-x, given, ids)
    assert same_bits(first, kept)


@pytest.mark.usefixtures("emulated")
def test_torch_compile_traces_it_whole() -> None:
    module = NVFP4MoE.from_experts(*dense())
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((3,), (2, 3), (2, 5)):
        x, (given, ids) = sample(*leading), routed(*leading)
        assert same_bits(compiled(x, given, ids), module(x, given, ids))
        with pytest.raises(ValueError, match=r"topk_ids has \d at"):
            compiled(x, given, ids + E)


@pytest.mark.usefixtures("emulated")
def test_weights_in_half_are_converted() -> None:
    module = NVFP4MoE.from_experts(*dense())
    x, (given, ids) = sample(5), routed(5)
    half = given.bfloat16()
    assert same_bits(module(x, half, ids), module(x, half.float(), ids))


def test_experts_are_quantized_to_the_bytes_of_the_recipe_each_by_itself() -> None:
    gate, up, down = dense()
    module = NVFP4MoE.from_experts(gate, list(up), down)
    scales = unswizzle_scales(module.gate_up_scales, 2 * I, K // 16)
    for expert in range(E):
        for part, weight in enumerate((gate[expert], up[expert])):
            encode = weights.global_encode_scale(weight.abs().amax())
            codes, expected = vllm(weight.double(), encode)
            rows = slice(part * I, (part + 1) * I)
            assert torch.equal(module.gate_up_codes[expert, rows], codes)
            assert torch.equal(scales[expert, rows].double(), expected)
            assert same_bits(module.gate_up_global_encode_scale[expert, part : part + 1], encode)
        encode = weights.global_encode_scale(down[expert].abs().amax())
        assert torch.equal(module.down_codes[expert], vllm(down[expert].double(), encode)[0])
        assert same_bits(module.down_global_encode_scale[expert : expert + 1], encode)
    for found, given in zip(module.dequantized_weights(), dense(), strict=True):
        error = (found - given.double()).flatten(1).norm(dim=1) / given.flatten(1).norm(dim=1)
        assert bool(((error > 0.05) & (error < 0.13)).all())  # Gaussian data have 0.095


def test_a_sample_sets_the_scales_of_input_and_intermediates() -> None:
    gate, up, down = dense()
    x = sample(64).float()
    module = NVFP4MoE.from_experts(gate, up, down, activations=x)
    assert same_bits(module.input_global_encode_scale, weights.global_encode_scale(x.abs().amax()))
    for expert in range(E):
        made = silu(x @ gate[expert].T) * (x @ up[expert].T)
        scale = 2688 / float(made.abs().amax())
        assert float(module.intermediate_global_encode_scale[expert]) == pytest.approx(scale)
    plain = NVFP4MoE.from_experts(gate, up, down)
    assert plain.intermediate_global_encode_scale.tolist() == [1.0] * E


def test_alphas_are_the_products_of_decode_scales() -> None:
    module = NVFP4MoE.from_experts(*dense(), activations=sample(64))
    state = {key: value.double() for key, value in module.state_dict().items()}
    first = 1 / (state["input_global_encode_scale"] * state["gate_up_global_encode_scale"])
    second = 1 / (state["intermediate_global_encode_scale"] * state["down_global_encode_scale"])
    assert same_bits(module.gate_up_alphas, first.float())
    assert same_bits(module.down_alphas, second.float())
    assert float(module.gate_up_alphas[0, 0]) != float(module.gate_up_alphas[0, 1])


def test_a_conversion_changes_nothing() -> None:
    module = NVFP4MoE.from_experts(*dense())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.to(torch.float16)
    assert same_state(module.state_dict(), before)
    assert module.gate_up_alphas.dtype is torch.float32


def test_the_state_is_stable_and_round_trips_through_safetensors() -> None:
    module = NVFP4MoE.from_experts(*dense())
    written = save(dict(module.state_dict()))
    again = NVFP4MoE.from_state_dict(load(written))
    assert tuple(again.state_dict()) == tuple(FORMATS)
    assert save(dict(again.state_dict())) == written
    assert repr(again) == repr(module)
    assert same_bits(again.gate_up_alphas, module.gate_up_alphas)


def state(**replaced: Tensor) -> dict[str, Tensor]:
    return dict(NVFP4MoE.from_experts(*dense()).state_dict()) | replaced


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an unknown key": (state(bias=torch.zeros(1)), ValueError, r"unknown keys \['bias'\]"),
    "a missing key": (
        {key: value for key, value in state().items() if key != "down_scales"},
        ValueError,
        r"missing keys \['down_scales'\]",
    ),
    "weights of other experts": (
        state(down_codes=torch.zeros(E + 1, H, I // 2, dtype=torch.uint8)),
        ValueError,
        r"down_codes has shape \(5, 40, 32\); it must be \(4, 40, 32\), for Sizes\(experts=4",
    ),
    "one global scale for gate and up": (
        state(gate_up_global_encode_scale=torch.ones(E)),
        ValueError,
        r"gate_up_global_encode_scale has shape \(4,\); it must be \(4, 2\)",
    ),
    "a bf16 global scale": (
        state(down_global_encode_scale=torch.ones(E).bfloat16()),
        TypeError,
        "down_global_encode_scale.dtype=torch.bfloat16 is not supported",
    ),
    "scales that are bytes": (
        state(down_scales=state()["down_scales"].view(torch.uint8)),
        TypeError,
        "down_scales.dtype=torch.uint8 is not supported",
    ),
    "gate without up": (
        state(gate_up_codes=torch.zeros(E, 32, K // 2, dtype=torch.uint8)),
        ValueError,
        "2i=32 is not a multiple of 64",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_faulty_state_is_refused(name: str) -> None:
    given, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        NVFP4MoE.from_state_dict(given)


def test_bytes_of_scales_are_not_loaded_by_value() -> None:
    module = NVFP4MoE.from_experts(*dense())
    given = state(down_scales=state()["down_scales"].view(torch.uint8))
    with pytest.raises(RuntimeError, match=r"down_scales has dtype torch.uint8, not .*moe_checkpo"):
        module.load_state_dict(given)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 96, 64), r"experts=0 is outside 1\.\.256"),
        ((257, 96, 64), r"experts=257 is outside"),
        ((4, 48, 64), "in_features=48 is not a multiple of 32"),
        ((4, 96, 48), "intermediate_features=48 is not a multiple of 32"),
        ((4, 96, 64, 12), "out_features=12 is not a multiple of 8"),
    ],
)
def test_sizes_that_the_ops_cannot_take_are_refused(sizes: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NVFP4MoE(*sizes, device="meta")


def test_dense_weights_that_do_not_fit_are_refused() -> None:
    gate, up, down = dense()
    with pytest.raises(ValueError, match=r"up has shape \[4, 64, 64\]; .*\[e=4, i=64, k=96\]"):
        NVFP4MoE.from_experts(gate, up[..., :64], down)
    with pytest.raises(ValueError, match=r"down has shape \[3, 40, 64\]; .*\[e=4, h, i=64\]"):
        NVFP4MoE.from_experts(gate, up, down[:3])
    with pytest.raises(ValueError, match="in_features=40 is not a multiple of 32"):
        NVFP4MoE.from_experts(gate[..., :40], up[..., :40], down)
    gate[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="gate has 1 elements that are not finite"):
        NVFP4MoE.from_experts(gate, up, down)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("by_id", [False, True])
def test_an_expert_that_there_is_not_is_refused_before_any_launch(*, by_id: bool) -> None:
    module = NVFP4MoE.from_experts(*dense())
    if by_id:
        module.use_runner("experts")
    x, (given, ids) = sample(2, 3), routed(2, 3)
    with record_launches() as launches, pytest.raises(ValueError, match=rf"has {E} at \[.*0\.\."):
        module(x, given, ids.fill_(E))
    assert launches == []
    module(x, given, ids.fill_(E - 1))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend='cuda' is not known; the known ones are"):
        NVFP4MoE(1, 32, 32, backend="cuda")


# Checkpoints


def published(*, modelopt: bool, names: tuple[str, ...] = moe_checkpoints.PROJECTIONS) -> Any:  # noqa: ANN401 - tensors by key
    """The module's experts as a checkpoint has them; each has an input scale of its own."""
    made: dict[str, Tensor] = {}
    keys = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")
    if modelopt:
        keys = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    for expert, parts in enumerate(zip(*dense(), strict=True)):
        for place, (name, weight) in enumerate(zip(names, parts, strict=True)):
            encode = torch.tensor([2.0 ** (3 * expert + place)])
            codes, scales = weights.quantize(weight, encode)
            given = torch.tensor([2.0 ** (expert - 1)])
            globals_ = (1 / encode, 1 / given) if modelopt else (encode, given)
            tensors = (codes, scales, *globals_)
            made |= {f"{expert}.{name}.{k}": t for k, t in zip(keys, tensors, strict=True)}
    return made


@pytest.mark.parametrize("modelopt", [False, True])
def test_published_experts_become_the_state(modelopt: bool) -> None:  # noqa: FBT001 - pytest's
    convert = (
        moe_checkpoints.state_dict_from_modelopt
        if modelopt
        else moe_checkpoints.state_dict_from_compressed_tensors
    )
    found = convert(published(modelopt=modelopt))
    assert found["input_global_encode_scale"].tolist() == [0.5]
    assert found["intermediate_global_encode_scale"].tolist() == [0.5, 1.0, 2.0, 4.0]
    assert found["gate_up_global_encode_scale"].tolist() == [
        [2.0 ** (3 * expert), 2.0 ** (3 * expert + 1)] for expert in range(E)
    ]
    module = NVFP4MoE.from_state_dict(found)
    given = published(modelopt=False)
    for name, whole in zip(moe_checkpoints.PROJECTIONS, module.dequantized_weights(), strict=True):
        for expert in range(E):
            of_layer = f"{expert}.{name}"
            plain = weights.dequantize(
                given[f"{of_layer}.weight_packed"],
                given[f"{of_layer}.weight_scale"],
                given[f"{of_layer}.weight_global_scale"],
            )
            assert torch.equal(whole[expert], plain)


def test_projections_may_have_other_names() -> None:
    names = ("w1", "w3", "w2")
    found = moe_checkpoints.state_dict_from_modelopt(
        published(modelopt=True, names=names), projections=names
    )
    expected = moe_checkpoints.state_dict_from_modelopt(published(modelopt=True))
    assert same_state(found, expected)


def without(key: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = published(modelopt=False)
    return {name: value for name, value in made.items() if not name.startswith(key)}


FAULTY: dict[str, tuple[dict[str, Tensor], str]] = {
    "an expert is missing": (without("1."), r"experts \[1\] have no tensors"),
    "no expert": ({}, r"experts \[0\] have no tensors"),
    "a projection is missing": (
        without("2.up_proj"),
        r"2\.up_proj: missing keys \['weight_packed'",
    ),
    "a tensor is missing": (without("0.gate_proj.weight_scale"), r"0\.gate_proj: missing keys"),
    "a prefix is left": (
        {f"experts.{key}": value for key, value in without("none").items()},
        r"key 'experts\.0\.gate_proj\.weight_packed' is not of the form '0\.gate_proj\.weight_scal",
    ),
    "a bias": (
        without("none") | {"3.down_proj.bias": torch.zeros(H)},
        r"3\.down_proj\.bias is there; experts with a bias are not supported",
    ),
    "another library's": (published(modelopt=True), r"0\.gate_proj: missing keys"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_experts_are_refused(name: str) -> None:
    given, words = FAULTY[name]
    with pytest.raises(ValueError, match=words):
        moe_checkpoints.state_dict_from_compressed_tensors(given)
