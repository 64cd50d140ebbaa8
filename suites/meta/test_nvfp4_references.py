"""NVFP4's references against other implementations of the formats, recipes and layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

from kernels.nvfp4.scale_layout import padded_shape, swizzle_scales, unswizzle_scales
from references.nvfp4_format import (
    Padding,
    decode_e2m1,
    encode_e2m1,
    linear,
    nearest_e4m3,
    places,
    swizzled,
)
from references.nvfp4_recipes import RECIPES, te, torchao, vllm

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Array = np.ndarray[Any, Any]

SHAPES = [(1, 1), (1, 2), (31, 3), (32, 4), (33, 5), (128, 4), (129, 6), (300, 17), (0, 2)]
NUMBERS = torch.arange(2**15, dtype=torch.int16)  # every positive bit pattern of 16 bits


def nibbles(packed: Tensor) -> Tensor:
    return torch.stack((packed & 0xF, packed >> 4), dim=2).flatten(1)


def around(values: Array) -> Tensor:
    """fp32 numbers, what lies between them, and their neighbours on both sides."""
    middle = (values[:-1] + values[1:]) / 2
    every = np.concatenate((values, middle)).astype(np.float32)
    low, high = (np.nextafter(every, np.float32(to)) for to in (-np.inf, np.inf))
    return torch.from_numpy(np.concatenate((low, every, high)))


def test_e2m1_is_decoded_as_ml_dtypes_does() -> None:
    every = torch.arange(256, dtype=torch.uint8)[None]
    codes = nibbles(every)[0].numpy()
    expected = codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    assert torch.equal(decode_e2m1(every)[0], torch.from_numpy(expected))


def test_e2m1_is_encoded_as_ml_dtypes_does() -> None:
    e2m1 = np.arange(8, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    halves = NUMBERS.view(torch.bfloat16).float()
    positive = torch.cat((around(e2m1).abs(), halves[halves.isfinite()]))
    values = torch.cat((positive, -positive))
    values = values[: len(values) // 2 * 2]
    expected = values.numpy().astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    actual = nibbles(encode_e2m1(values.double()[None]))[0]
    assert torch.equal(actual, torch.from_numpy(expected))


def test_what_is_no_number_has_a_code_too() -> None:
    values = torch.tensor([[torch.inf, -torch.inf, torch.nan, -torch.nan, -0.0, 0.0]])
    assert nibbles(encode_e2m1(values)).tolist() == [[7, 15, 0, 0, 8, 0]]


def test_e4m3_is_rounded_as_ml_dtypes_does() -> None:
    e4m3 = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = around(e4m3).abs()
    expected = values.numpy().clip(max=448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert torch.equal(nearest_e4m3(values), torch.from_numpy(expected))
    beyond = torch.tensor([448.0, 463.9, 464.0, 1e9, torch.inf])
    assert nearest_e4m3(beyond).tolist() == [448.0] * 5
    assert bool(nearest_e4m3(torch.tensor([torch.nan])).isnan())


# The recipes once more, in numpy's fp32 and ml_dtypes' rounding to e4m3 and e2m1.


def _e4m3(values: Array) -> Array:
    return values.clip(max=np.float32(448)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def _numpy_te(x: Array, g: Array) -> tuple[Array, Array]:
    sixth = np.float32(1) / np.float32(6)
    scale = _e4m3(np.abs(x).max(2) * (g * sixth))
    factor = np.minimum(1 / (scale * (1 / g)), np.finfo(np.float32).max)
    return x * factor[..., None], scale


def _numpy_vllm(x: Array, g: Array) -> tuple[Array, Array]:
    sixth = np.float32(1) / np.float32(6)
    scale = _e4m3(g * (np.abs(x).max(2) * sixth))
    decode = scale * (1 / g)
    factor = np.where(decode == 0, np.float32(0), 1 / decode)
    return x * factor[..., None], scale


def _numpy_torchao(x: Array, p: Array) -> tuple[Array, Array]:
    scale = _e4m3(((np.abs(x).max(2) / np.float32(6)) / p).clip(min=np.float32(2.0**-6)))
    return x * ((1 / p) / scale)[..., None], scale


OTHERS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "te": _numpy_te,
    "vllm": _numpy_vllm,
    "torchao": _numpy_torchao,
}


def sample(dtype: torch.dtype, seed: int) -> Tensor:
    """Gaussian rows, each of its own size from far below to far above what a scale reaches."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(512, 256, generator=generator)
    size = 2.0 ** torch.randint(-16, 12, (512, 1), generator=generator)
    values = (values * size).to(dtype)
    values[5] = 0
    values[6, 32:64] = -0.0
    return values


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("amax", [1.0, 5.3, 3000.0, 1e-3])
def test_a_recipe_gives_the_bytes_of_fp32_arithmetic(
    recipe: str, dtype: torch.dtype, amax: float
) -> None:
    x = sample(dtype, seed=int(amax * 1000))
    encode = torch.tensor([2688 / amax])
    given = encode.reciprocal() if recipe == "torchao" else encode
    codes, scales = RECIPES[recipe](x.double(), given.double())
    with np.errstate(all="ignore"):
        scaled, expected = OTHERS[recipe](
            x.float().numpy().reshape(512, -1, 16), given.numpy().astype(np.float32)
        )
    assert scaled.dtype == expected.dtype == np.float32
    assert torch.equal(scales, torch.from_numpy(expected).double())
    flat = scaled.reshape(512, -1).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    assert torch.equal(nibbles(codes), torch.from_numpy(flat))


def test_each_recipe_has_its_own_treatment_of_small_blocks() -> None:
    x = torch.full((1, 32), 2.0**-14, dtype=torch.float64)
    x[0, 16:] = 0
    one = torch.ones(1, dtype=torch.float64)
    (te_codes, te_scales), (codes, scales), (ao_codes, ao_scales) = (
        recipe(x, one) for recipe in (te, vllm, torchao)
    )
    assert te_scales.tolist() == scales.tolist() == [[0.0, 0.0]]
    assert nibbles(te_codes)[0].tolist() == [7] * 16 + [0] * 16
    assert not codes.any()
    assert ao_scales.tolist() == [[2.0**-6, 2.0**-6]]
    assert not ao_codes.any()


def test_recipes_differ_by_one_step_in_few_scales() -> None:
    """At this amax, multiples of 7/32 lie on midpoints of E4M3: roundings before them decide."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 2048, generator=generator).bfloat16().double()
    encode = torch.tensor([2688 / 4.375])
    scales = {name: recipe(x, _scale_for(name, encode))[1] for name, recipe in RECIPES.items()}
    for name in ("te", "torchao"):
        steps = _steps(scales[name]) - _steps(scales["vllm"])
        assert int(steps.abs().max()) == 1, name
        assert 0.001 < float((steps != 0).double().mean()) < 0.03, name


def _scale_for(recipe: str, encode: Tensor) -> Tensor:
    return (encode.reciprocal() if recipe == "torchao" else encode).double()


def _steps(scales: Tensor) -> Tensor:
    return scales.to(torch.float8_e4m3fn).view(torch.uint8).int()


def test_the_layout_is_the_documented_one() -> None:
    where = places(300, 17, torch.device("cpu"))
    assert where.flatten().unique().numel() == 300 * 17
    known = {(0, 0): 0, (0, 1): 1, (1, 0): 16, (32, 0): 4, (127, 3): 511, (0, 4): 512}
    for (row, column), place in known.items():
        assert int(where[row, column]) == place
    assert int(where[128, 0]) == 5 * 512


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_scales_are_laid_out_as_the_reference_has_it_and_back(
    shape: tuple[int, int], batch: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    octets = torch.randint(1, 256, (*batch, *shape), generator=generator, dtype=torch.uint8)
    made = swizzle_scales(octets.view(torch.float8_e4m3fn))
    assert made.shape == (*batch, *padded_shape(*shape))
    parts = made.view(torch.uint8).flatten(0, -3) if batch else made.view(torch.uint8)[None]
    for actual, given in zip(parts, octets.view(len(parts), *shape), strict=True):
        assert torch.equal(actual, swizzled(given))  # zero where it is padded
        assert torch.equal(linear(actual, *shape), given)
    back = unswizzle_scales(made, *shape)
    assert back.is_contiguous()
    assert torch.equal(back.view(torch.uint8), octets)


def test_a_view_of_scales_is_laid_out_as_its_copy() -> None:
    octets = torch.arange(256, dtype=torch.uint8).reshape(8, 32)[:, ::2].T
    scales = octets.view(torch.float8_e4m3fn)
    assert not scales.is_contiguous()
    made = swizzle_scales(scales)
    assert torch.equal(made.view(torch.uint8), swizzled(octets.contiguous()))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (torch.zeros(2, 2), TypeError, "scales.dtype=torch.float32.*float8_e4m3fn"),
        (torch.zeros(2).to(torch.float8_e4m3fn), ValueError, r"scales has shape \[2\], of rank 1"),
        ("scales", TypeError, "scales='scales' is a str"),
    ],
)
def test_what_is_no_scales_is_refused(given: Any, error: type[Exception], words: str) -> None:  # noqa: ANN401
    with pytest.raises(error, match=words):
        swizzle_scales(given)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_padding_is_what_no_scale_lies_in(rows: int, columns: int) -> None:
    mask = Padding("m", "k//16")({"m": rows, "k": columns * 16})
    assert mask.shape == padded_shape(rows, columns)
    assert int((~mask).sum()) == rows * columns
    assert not bool(linear(mask, rows, columns).any())


def test_scales_of_another_size_are_not_unswizzled() -> None:
    made = swizzle_scales(torch.zeros(5, 6).to(torch.float8_e4m3fn))
    with pytest.raises(ValueError, match=r"\[128, 8\]; rows=129 and columns=6 .* \[256, 8\]"):
        unswizzle_scales(made, 129, 6)
    with pytest.raises(ValueError, match=r"strides.*contiguous\(\)"):
        unswizzle_scales(made.view(torch.uint8).T.contiguous().T.view(made.dtype), 5, 6)
