"""Nunchaku checkpoints to and from SVDQW4A4Linear's state: names, values, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from kernels.svdq import nunchaku, nunchaku_layouts
from kernels.svdq.linear import SVDQW4A4Linear
from suites.module.svdq_layers import bits, same_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

N, K, R = 256, 384, 32
MODULE_KEYS = [
    "qweight",
    "wscales",
    "smooth_factor",
    "smooth_factor_orig",
    "proj_down",
    "proj_up",
    "bias",
    "wcscales",
]
LOADER_KEYS = [
    "qweight",
    "wscales",
    "smooth",
    "smooth_orig",
    "lora_down",
    "lora_up",
    "bias",
    "wcscales",
]


def state(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """A state with no two parts alike; codes reach -8, as upstream's may."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) + 0.5).to(dtype)

    return {
        "qweight": torch.randint(256, (N, K // 2), generator=generator, dtype=torch.uint8),
        "wscales": uniform(K // 64, N),
        "smooth": uniform(K),
        "lora_down": uniform(K, R),
        "lora_up": uniform(N, R),
        "bias": uniform(N),
        "wcscales": uniform(N),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("names", ["module", "loader"])
def test_a_state_survives_the_round_trip(
    names: Literal["module", "loader"], dtype: torch.dtype
) -> None:
    raw = nunchaku.state_dict_to_nunchaku(state(dtype), names=names)
    assert list(raw) == (MODULE_KEYS if names == "module" else LOADER_KEYS)
    assert raw["qweight"].dtype == torch.int8
    assert same_state(nunchaku.state_dict_from_nunchaku(raw), state(dtype))


def test_a_checkpoint_survives_the_round_trip() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    again = nunchaku.state_dict_to_nunchaku(nunchaku.state_dict_from_nunchaku(raw))
    assert same_state(again, raw)


def test_the_original_smoothing_is_dropped() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    raw["smooth_factor_orig"] = raw["smooth_factor_orig"] * 3
    assert same_state(nunchaku.state_dict_from_nunchaku(raw), state())


def test_every_packed_tensor_differs_from_its_logical_one() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state(), names="loader")
    assert all(
        raw[key].shape == value.shape and not torch.equal(bits(raw[key]), bits(value))
        for key, value in state().items()
    )


def test_the_layer_of_a_checkpoint_is_the_layer_packed() -> None:
    generator = torch.Generator().manual_seed(1)
    source = torch.nn.Linear(K, N, device="meta", dtype=torch.bfloat16)
    for name, shape in (("weight", (N, K)), ("bias", (N,))):
        value = torch.randn(shape, generator=generator).bfloat16()
        setattr(source, name, torch.nn.Parameter(value))
    layer = SVDQW4A4Linear.from_linear(source, activations=torch.linspace(0.5, 4, K))
    raw = nunchaku.state_dict_to_nunchaku(layer.state_dict())
    again = SVDQW4A4Linear.from_state_dict(nunchaku.state_dict_from_nunchaku(raw))
    assert torch.equal(again.dequantized_weight(), layer.dequantized_weight())


@pytest.mark.parametrize("absent", [("bias",), ("wcscales",), ("bias", "wcscales")])
def test_optional_parts_may_be_absent(absent: tuple[str, ...]) -> None:
    expected = {key: value for key, value in state().items() if key not in absent}
    raw = nunchaku.state_dict_to_nunchaku(expected)
    assert same_state(nunchaku.state_dict_from_nunchaku(raw), expected)


def test_no_low_rank_branch_is_a_branch_of_zeros() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    del raw["proj_down"], raw["proj_up"]
    layer = SVDQW4A4Linear.from_state_dict(nunchaku.state_dict_from_nunchaku(raw))
    assert layer.rank == 16
    assert torch.equal(layer.dequantized_weight(), layer.residual_weight() / layer.smooth.double())


@pytest.mark.parametrize("one", [1.0, torch.ones(1), torch.ones((), dtype=torch.bfloat16)])
def test_a_global_scale_of_one_is_accepted(one: Tensor | float) -> None:
    raw: dict[str, Any] = {**nunchaku.state_dict_to_nunchaku(state()), "wtscale": one}
    assert same_state(nunchaku.state_dict_from_nunchaku(raw), state())


@pytest.mark.parametrize("has_bias", ["bias", "no bias"])
def test_a_shift_moves_into_the_bias(has_bias: str) -> None:
    """Upstream: residual @ ((x + shift) / smooth) + branch @ x + bias; figures without rounding."""
    shifted = state()
    generator = torch.Generator().manual_seed(2)
    for key, low, high in (("wscales", 0, 1), ("smooth", -1, 1), ("wcscales", 0, 1)):
        powers = torch.randint(low, high + 1, shifted[key].shape, generator=generator)
        shifted[key] = (2.0**powers).bfloat16()
    shifted["qweight"] = shifted["qweight"] & 0x11  # codes 0 and 1
    shifted["lora_down"] = shifted["lora_down"].round()
    shifted["lora_up"] = shifted["lora_up"].round()
    shifted["bias"] = (shifted["bias"] * 4).round() / 4
    if has_bias == "no bias":
        del shifted["bias"]
    before = SVDQW4A4Linear.from_state_dict(shifted)
    raw = nunchaku.state_dict_to_nunchaku(shifted)
    after = SVDQW4A4Linear.from_state_dict(nunchaku.state_dict_from_nunchaku(raw, shift=0.25))
    assert torch.equal(after.dequantized_weight(), before.dequantized_weight())
    x = torch.randint(-4, 5, (3, K), generator=generator).double()
    branch = x @ before.lora_down.double() @ before.lora_up.double().t()
    upstream = (x + 0.25) / before.smooth.double() @ before.residual_weight().t() + branch
    upstream = upstream + (0.0 if before.bias is None else before.bias.double())
    assert after.bias is not None
    moved = upstream - x @ after.dequantized_weight().t()
    assert torch.equal(moved.bfloat16(), after.bias.expand(3, N))


def test_the_shift_of_upstreams_gelu_is_exact_in_both_halves() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.tensor(nunchaku.GELU_SHIFT, dtype=dtype).item() == 11 / 64


def changed(key: str, change: Callable[[Tensor], Any]) -> dict[str, Any]:
    raw: dict[str, Any] = dict(nunchaku.state_dict_to_nunchaku(state()))
    raw[key] = change(raw[key])
    return raw


def zero_in_the_middle(packed: Tensor) -> Tensor:
    return packed.index_fill(0, torch.tensor([130]), 0)


@pytest.mark.parametrize(
    ("key", "change", "error", "says"),
    [
        ("qweight", lambda t: t.view(torch.uint8), TypeError, "uint8.*int8"),
        ("qweight", lambda t: t.view(torch.int32), TypeError, "int32.*AWQ"),
        ("qweight", lambda t: t.flatten(), ValueError, "qweight.*2 axes"),
        ("qweight", lambda t: t[:200], ValueError, "out_features=200 .*128"),
        ("qweight", lambda t: t[:, :160], ValueError, "in_features=320 .*128"),
        ("qweight", lambda t: t[:128], ValueError, r"wscales.*\(6, 256\).*\(6, 128\)"),
        ("wscales", lambda t: t.float(), TypeError, "float32.*bfloat16"),
        ("wscales", lambda t: t.t(), ValueError, r"wscales.*\(256, 6\).*\(6, 256\)"),
        ("wscales", lambda t: t.to(torch.float8_e4m3fn), TypeError, "nvfp4.*int4"),
        ("wcscales", lambda t: t.to(torch.float8_e4m3fn), TypeError, "nvfp4.*int4"),
        ("smooth_factor", lambda t: t[:128], ValueError, r"smooth.*\(128,\).*\(384,\)"),
        ("smooth_factor", lambda t: t.half(), TypeError, "smooth.*float16.*bfloat16"),
        ("smooth_factor", zero_in_the_middle, ValueError, r"smooth\[\d+\]=0.0 \(1 such"),
        ("proj_down", lambda t: t[:, :24], ValueError, "rank=24 .*16"),
        ("proj_down", lambda t: t.t(), ValueError, "rank=384 .*256"),
        ("proj_up", lambda t: t[:, :16], ValueError, r"lora_up.*\(256, 16\).*\(256, 32\)"),
        ("bias", lambda t: t[:-1], ValueError, r"bias.*\(255,\).*\(256,\)"),
    ],
)
def test_a_broken_checkpoint_is_refused(
    key: str, change: Callable[[Tensor], Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        nunchaku.state_dict_from_nunchaku(changed(key, change))


@pytest.mark.parametrize("key", ["qweight", "wscales", "smooth_factor", "proj_down", "proj_up"])
def test_a_missing_key_is_named(key: str) -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    del raw[key]
    ours = {"smooth_factor": "smooth", "proj_down": "lora_down", "proj_up": "lora_up"}
    with pytest.raises(ValueError, match=f"missing keys .'{ours.get(key, key)}'"):
        nunchaku.state_dict_from_nunchaku(raw)


def test_an_unknown_key_is_named() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state()) | {"wzeros": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"unknown keys \['wzeros'\]"):
        nunchaku.state_dict_from_nunchaku(raw)


def test_a_prefix_is_named() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    with pytest.raises(ValueError, match=r"attn\.to_qkv\.qweight.*prefix removed"):
        nunchaku.state_dict_from_nunchaku({f"attn.to_qkv.{k}": v for k, v in raw.items()})


def test_two_names_of_one_tensor_are_refused() -> None:
    raw = nunchaku.state_dict_to_nunchaku(state())
    with pytest.raises(ValueError, match="'lora_up' and 'proj_up'"):
        nunchaku.state_dict_from_nunchaku(raw | {"lora_up": raw["proj_up"]})


@pytest.mark.parametrize("scale", [torch.tensor([0.5]), torch.ones(2), 2.0])
def test_another_global_scale_is_refused(scale: Tensor | float) -> None:
    raw: dict[str, Any] = {**nunchaku.state_dict_to_nunchaku(state()), "wtscale": scale}
    with pytest.raises(ValueError, match=r"wtscale.*\[1.0\]"):
        nunchaku.state_dict_from_nunchaku(raw)


@pytest.mark.parametrize(
    ("out_features", "in_features", "says"),
    [(192, 128, "out_features=192 .*128"), (128, 192, "in_features=192 .*128")],
)
def test_sizes_that_upstream_pads_are_refused(
    out_features: int, in_features: int, says: str
) -> None:
    layer = SVDQW4A4Linear(in_features, out_features)
    with pytest.raises(ValueError, match=says):
        nunchaku.state_dict_to_nunchaku(layer.state_dict())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"names='cache_dit'.*'module'.*'loader'"):
        nunchaku.state_dict_to_nunchaku(state(), names="cache_dit")  # type: ignore[arg-type]


@pytest.mark.parametrize("swapped", ["as nunchaku", "as cache-dit"])
def test_nvfp4_scales_are_told_apart_by_dtype(swapped: str) -> None:
    groups = (torch.arange(N * K // 16) % 97 + 1).reshape(K // 16, N).to(torch.float8_e4m3fn)
    channels = state()["wcscales"]
    raw = {
        "wscales": nunchaku_layouts.pack_nvfp4_wscales(groups),
        "wcscales": nunchaku_layouts.pack_channels(channels),
    }
    if swapped == "as cache-dit":
        raw["wscales"], raw["wcscales"] = raw["wcscales"], raw["wscales"]
    found_groups, found_channels = nunchaku.nvfp4_scales_from_nunchaku(raw)
    assert torch.equal(bits(found_groups), bits(groups))
    assert found_channels is not None
    assert torch.equal(found_channels, channels)


def test_an_int4_layer_has_no_nvfp4_scales() -> None:
    with pytest.raises(TypeError, match="float8_e4m3fn once"):
        nunchaku.nvfp4_scales_from_nunchaku(nunchaku.state_dict_to_nunchaku(state()))
