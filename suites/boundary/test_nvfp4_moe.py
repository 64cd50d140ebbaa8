"""What the halves of NVFP4's mixture of experts refuse, before a launch, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness import device
from harness.launches import capture_launches
from kernels.nvfp4.domain import MAX_M
from kernels.nvfp4.moe import NVFP4MoE
from kernels.nvfp4.scale_layout import padded_shape
from kernels.nvfp4.triton_moe_down import nvfp4_moe_down
from kernels.nvfp4.triton_moe_up import nvfp4_moe_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

E4M3 = torch.float8_e4m3fn


def octets(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def scales(*shape: int) -> Tensor:
    """Of rows and columns along the last two axes; the others are experts."""
    *lead, rows, k = shape
    return octets(*lead, *padded_shape(rows, k // 16)).view(E4M3)


def ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def first(m: int = 5, t: int = 2, e: int = 3, i: int = 64, k: int = 96) -> dict[str, Any]:
    return {
        "codes": octets(m, k // 2),
        "wcodes": octets(e, 2 * i, k // 2),
        "ascales": scales(m, k),
        "wscales": scales(e, 2 * i, k),
        "topk_ids": ids(m, t),
        "alphas": torch.ones(e, 2),
        "next_global_encode_scale": torch.ones(e),
    }


def second(m: int = 5, t: int = 2, e: int = 3, h: int = 40, i: int = 64) -> dict[str, Any]:
    return {
        "codes": octets(m, t, i // 2),
        "wcodes": octets(e, h, i // 2),
        "ascales": scales(m * t, i),
        "wscales": scales(e, h, i),
        "topk_ids": ids(m, t),
        "topk_weights": torch.ones(m, t),
        "alphas": torch.ones(e),
    }


# What replaces arguments of a legal call, the exception, and what its message says.
Refusal = tuple[dict[str, Any], type[Exception], str]
UP: dict[str, Refusal] = {
    "k of 48": (first(k=48), ValueError, "k=48 is not a multiple of 32; pad the tensors along k"),
    "i of 48": (first(i=48), ValueError, "2i=96 is not a multiple of 64; pad the tensors along 2i"),
    "gate without up": (
        {"wcodes": octets(3, 32, 48), "wscales": scales(3, 32, 96)},
        ValueError,
        r"2i=32 is outside 64\.\.65536",
    ),
    "no expert": (first(e=0), ValueError, r"e=0 is outside 1\.\.256"),
    "experts beyond the last": (first(e=257), ValueError, r"e=257 is outside 1\.\.256; split"),
    "nine experts a token": ({"topk_ids": ids(5, 9)}, ValueError, r"t=9 is outside 1\.\.8"),
    "m beyond the last": (
        {"codes": octets(1, 48).expand(MAX_M + 1, -1)},
        ValueError,
        r"m=1048577 is outside 0\.\.1048576; split",
    ),
    "scales of experts in one matrix": (
        {"wscales": scales(3 * 128, 96)},
        ValueError,
        r"wscales has shape \[384, 8\], of rank 2; reshape it to \[e=3, 2i to 128=128, k/16 to 4=8",
    ),
    "scales as they are": (
        {"wscales": octets(3, 128, 6).view(E4M3)},
        ValueError,
        r"wscales has shape \[3, 128, 6\], 2i by k/16 .* \[3, 128, 8\]: pass swizzle_scales",
    ),
    "scales that are strided": (
        {"wscales": octets(3, 256, 8).view(E4M3)[:, :128]},
        ValueError,
        r"wscales has strides .*wscales\.contiguous\(\)",
    ),
    "alphas of other experts": (
        {"alphas": torch.ones(4, 2)},
        ValueError,
        r"alphas has shape \[4, 2\]; the other tensors need \[e=3, 2=2\]",
    ),
    "one alpha for gate and up": (
        {"alphas": torch.ones(3, 1).expand(3, 2)},
        ValueError,
        r"alphas has strides \[1, 0\].*alphas\.contiguous\(\)",
    ),
    "a bf16 global scale": (
        {"next_global_encode_scale": torch.ones(3).bfloat16()},
        TypeError,
        "next_global_encode_scale.dtype=torch.bfloat16 .*convert .* to torch.float32",
    ),
    "one global scale for all": (
        {"next_global_encode_scale": torch.ones(1)},
        ValueError,
        r"next_global_encode_scale has shape \[1\]; .*\[e=3\]",
    ),
    "ids that are floats": (
        {"topk_ids": torch.zeros(5, 2)},
        TypeError,
        "topk_ids.dtype=torch.float32 .*convert topk_ids to torch.int32 or torch.int64",
    ),
    "ids of other tokens": (
        {"topk_ids": ids(6, 2)},
        ValueError,
        r"topk_ids has shape \[6, 2\]; the other tensors need \[m=5, t\]",
    ),
    "a negative id": (
        {"topk_ids": ids(5, 2) - 1},
        ValueError,
        r"topk_ids has -1 at \[0, 0\]; with e=3 experts an id is in 0\.\.2: route to these",
    ),
    "an intermediate of float32": (
        {"intermediate_dtype": torch.float32},
        TypeError,
        "intermediate_dtype=torch.float32 is not supported; use torch.float16 or torch.bfloat16",
    ),
    "ids read by a number": ({"read_ids": 1}, TypeError, "read_ids=1 is a int; pass True or False"),
    "an unknown tiling": ({"config": "m1"}, ValueError, "config='m1' is unknown; use None or one"),
}
DOWN: dict[str, Refusal] = {
    "i of 48": (second(i=48), ValueError, "i=48 is not a multiple of 32; pad the tensors along i"),
    "h of 12": (second(h=12), ValueError, "h=12 is not a multiple of 8"),
    "no expert a token": (second(t=0), ValueError, r"t=0 is outside 1\.\.8"),
    "weights of half": (
        {"topk_weights": torch.ones(5, 2).half()},
        TypeError,
        "topk_weights.dtype=torch.float16 is not supported; convert .* to torch.float32",
    ),
    "weights of other tokens": (
        {"topk_weights": torch.ones(5, 3)},
        ValueError,
        r"topk_weights has shape \[5, 3\]; the other tensors need \[m=5, t=2\]",
    ),
    "codes of slots in one row": (
        {"codes": octets(10, 32)},
        ValueError,
        r"codes has shape \[10, 32\], of rank 2; reshape it to \[m, t, i/2\]",
    ),
    "scales of other slots": (
        {"ascales": scales(129, 64)},
        ValueError,
        r"ascales has shape \[256, 4\]; .*\[m\*t to 128=128, i/16 to 4=4\]",
    ),
    "alphas of other experts": (
        {"alphas": torch.ones(2)},
        ValueError,
        r"alphas has shape \[2\]; the other tensors need \[e=3\]",
    ),
    "an id beyond the last": (
        {"topk_ids": ids(5, 2) + 3},
        ValueError,
        r"topk_ids has 3 at \[0, 0\]; with e=3 experts an id is in 0\.\.2",
    ),
    "an output of float32": (
        {"out_dtype": torch.float32},
        TypeError,
        "out_dtype=torch.float32 is not supported; use torch.float16 or torch.bfloat16",
    ),
}


def check(
    call: Callable[..., object], legal: dict[str, Any], refusal: Refusal, launched: int
) -> None:
    replaced, error, words = refusal
    with device.pretend("sm90"), capture_launches() as launches:
        with pytest.raises(error, match=words):
            call(**(legal | replaced))
        assert not launches
        call(**legal)
        assert len(launches) == launched


@pytest.mark.parametrize("name", UP)
def test_the_first_half_refuses(name: str) -> None:
    check(nvfp4_moe_up, first(), UP[name], 1)


@pytest.mark.parametrize("name", DOWN)
def test_the_second_half_refuses(name: str) -> None:
    check(nvfp4_moe_down, second(), DOWN[name], 2)


@pytest.mark.parametrize(
    ("call", "legal", "moved"),
    [(nvfp4_moe_up, first, name) for name in first() if name != "codes"]
    + [(nvfp4_moe_down, second, name) for name in second() if name != "codes"],
)
def test_tensors_of_two_devices_are_refused(
    call: Callable[..., object], legal: Callable[[], dict[str, Any]], moved: str
) -> None:
    with FakeTensorMode():
        given = legal()
        given[moved] = given[moved].to("cuda:0")
        with pytest.raises(ValueError, match=rf"{moved} is on device 'cuda:0' and "):
            call(**given)


@pytest.mark.parametrize("m", [0, 1, 127, 129])
def test_any_number_of_tokens_is_taken(m: int) -> None:
    with device.pretend("sm90"), capture_launches() as launches:
        codes, made = nvfp4_moe_up(**first(m))
        y = nvfp4_moe_down(**second(m), out_dtype=torch.float16)
    assert (codes.shape, made.shape) == ((m, 2, 32), padded_shape(2 * m, 4))
    assert (y.shape, y.dtype) == ((m, 40), torch.float16)
    assert len(launches) == (3 if m else 0)


INPUT: dict[str, Refusal] = {
    "x of float32": (
        {"x": torch.zeros(2, 3, 96)},
        TypeError,
        "x.dtype=torch.float32 must be torch.float16 or torch.bfloat16",
    ),
    "x of another width": (
        {"x": torch.zeros(2, 3, 64).half()},
        ValueError,
        r"x.shape=\(2, 3, 64\) must end in in_features=96",
    ),
    "ids of other tokens": (
        {"topk_ids": ids(3, 2)},
        ValueError,
        r"topk_ids.shape=\(3, 2\) must be that of x, \(2, 3, 96\), but for the last axis",
    ),
    "ids of int8": (
        {"topk_ids": ids(2, 3, 2).to(torch.int8)},
        TypeError,
        "topk_ids.dtype=torch.int8 must be torch.int32 or torch.int64",
    ),
    "weights that are integers": (
        {"topk_weights": ids(2, 3, 2)},
        TypeError,
        "topk_weights.dtype=torch.int32 must be a float",
    ),
    "one weight a token": (
        {"topk_weights": torch.ones(2, 3, 1)},
        ValueError,
        r"topk_weights.shape=\(2, 3, 1\) must be that of topk_ids, \(2, 3, 2\)",
    ),
    "no expert a token": (
        {"topk_ids": ids(2, 3, 0), "topk_weights": torch.ones(2, 3, 0)},
        ValueError,
        r"top_k=0 is outside 1\.\.8",
    ),
    "an id beyond the last": (
        {"topk_ids": ids(2, 3, 2) + 3},
        ValueError,
        r"topk_ids has 3 at \[0, 0, 0\]; with e=3 experts",
    ),
}


@pytest.mark.parametrize("name", INPUT)
def test_the_module_refuses(name: str) -> None:
    legal = {
        "x": torch.zeros(2, 3, 96).half(),
        "topk_weights": torch.ones(2, 3, 2),
        "topk_ids": ids(2, 3, 2),
    }
    replaced, error, words = INPUT[name]
    module = NVFP4MoE(3, 96, 64, 40)
    with device.pretend("sm90"), capture_launches() as launches:
        with pytest.raises(error, match=words):
            module(**(legal | replaced))
        assert not launches
        assert module(**legal).shape == (2, 3, 40)
