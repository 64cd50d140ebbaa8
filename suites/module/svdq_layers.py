"""Dense layers, quantized states and inputs for the tests of SVDQW4A4Linear, and their equality.

Exact states and inputs lie on the int4 grid with power-of-two scales, so that every step is exact
and the layer must equal its dequantized weight bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kernels.svdq import decompose

if TYPE_CHECKING:
    from kernels.svdq.linear import SVDQW4A4Linear

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
