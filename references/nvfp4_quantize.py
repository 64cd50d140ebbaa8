"""The NVFP4 quantizer: E2M1 codes and E4M3 block scales in the layout 128x4, both exact."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch

from harness import op, output, size, tensor
from harness.values import Family
from references.nvfp4_format import BLOCK, E2M1, swizzled
from references.nvfp4_recipes import RECIPES

if TYPE_CHECKING:
    from torch import Generator, Tensor

_MIDPOINTS: Final = tuple((a + b) / 2 for a, b in pairwise(E2M1))


def _ties(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor:
    """Midpoints of E2M1 in blocks that reach 6, times a power of two; so is the global scale.

    Every scale is then a power of two, and every product with the multiplier a midpoint.
    """
    del name, dtype
    if role == "scale":
        return 2.0 ** torch.randint(-2, 3, shape, generator=generator)
    drawn = torch.randint(0, len(_MIDPOINTS), shape, generator=generator)
    values = torch.tensor(_MIDPOINTS)[drawn] * _signs(shape, generator)
    return _in_blocks(values, 2.0 ** torch.randint(-8, 9, _blocks(shape), generator=generator))


def _scale_ties(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor:
    """Block maxima of 6 times a midpoint of E4M3, subnormal ones too; the global scale is 1."""
    del name, dtype
    if role == "scale":
        return torch.ones(shape)
    blocks = _blocks(shape)
    odd = 2 * torch.randint(0, 8, blocks, generator=generator) + 1
    normal = (16 + odd) / 16 * 2.0 ** torch.randint(-6, 9, blocks, generator=generator)
    subnormal = odd * 2.0**-10
    largest = torch.where(torch.rand(blocks, generator=generator) < 1 / 2, normal, subnormal)
    values = torch.randint(-5, 6, shape, generator=generator).float()
    return _in_blocks(values, largest)


def _recipe_ties(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor:
    """Block maxima whose scale is nearly a midpoint of E4M3: the order of products decides."""
    del name, dtype
    if role == "scale":
        return torch.full(shape, 2688 / 4.375)
    blocks = _blocks(shape)
    odd = 2 * torch.randint(8, 16, blocks, generator=generator) + 1
    largest = 5 * odd / 32 * 2.0 ** torch.randint(-8, 1, blocks, generator=generator)
    values = torch.randint(-5, 6, shape, generator=generator).float()
    return _in_blocks(values, largest / 6)


def _small_scales(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Scales from far below the smallest of E4M3 to above its subnormal numbers."""
    del name, dtype
    if role == "scale":
        return None
    values = torch.rand(shape, generator=generator) * _signs(shape, generator)
    exponents = torch.randint(-13, -2, _blocks(shape), generator=generator)
    return _times(values, 2.0**exponents)


def _blocks(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1] // BLOCK


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1


def _in_blocks(values: Tensor, largest: Tensor) -> Tensor:
    """``values`` times a factor a block, one of each block being 6."""
    reaching = values.clone()
    reaching[:, 3::BLOCK] = 6.0
    return _times(reaching, largest)


def _times(values: Tensor, factors: Tensor) -> Tensor:
    """``values`` times a factor a block."""
    grouped: Tensor = values.unflatten(1, (-1, BLOCK))
    return (grouped * factors.unsqueeze(2)).flatten(1)


@op(
    inputs={
        "x": "m k",
        "global_encode_scale": tensor("1", dtype="float32", role="scale"),
    },
    outputs={
        "codes": output("m k//2", dtype="uint8", exact=True),
        "scales": output("(m+127)//128*128 (k//16+3)//4*4", dtype="float8_e4m3fn", exact=True),
    },
    domain={"m": size(0, 2**20), "k": size(32, 65536, multiple_of=32)},
    dtypes=("float16", "bfloat16"),
    params={"recipe": ("vllm",)},
    families={
        "ties": Family(make=_ties),
        "scale_ties": Family(make=_scale_ties),
        "recipe_ties": Family(make=_recipe_ties),
        "small_scales": Family(make=_small_scales),
    },
    independent=("m",),
    refuses={"recipe": ("te", "torchao", "", None)},
)
def nvfp4_quantize(x: Tensor, global_encode_scale: Tensor, recipe: str) -> dict[str, Tensor]:
    """Per row and block of 16, by ``recipe``: a scale S in E4M3 and codes of ``x * g / S``.

    ``global_encode_scale`` is ``g = 2688 / amax``, so that ``x = e2m1 * S / g``. Padding of the
    scales is zero. A block with a NaN has a NaN for its scale; an infinity saturates.
    """
    codes, scales = RECIPES[recipe](x, global_encode_scale)
    return {"codes": codes, "scales": swizzled(scales)}
