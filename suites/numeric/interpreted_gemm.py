"""NVFP4's GEMM by interpreted PTX: operands whose sums are exact, and what both sides make of them.

Scales are small integers and ``alpha`` is a power of two, so that every sum is exact in fp32 and
results are equal to the last bit. All padding of scales is NaN, which nothing may use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from harness import device
from harness.launches import capture_launches
from kernels.nvfp4.scale_layout import swizzle_scales
from references.nvfp4_gemm import nvfp4_gemm
from suites.numeric.ptx_launch import Counts, interpret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

NAN: Final = 0x7F


def operands(
    m: int, n: int, k: int, *, bias: torch.dtype | None, row: int = 0, smallest: int = -8
) -> dict[str, Any]:
    """Rows of activations lie ``row`` bytes apart, if given; scales are from ``smallest`` to 8."""
    random = torch.Generator().manual_seed(m + n + k)

    def codes(rows: int, apart: int) -> Tensor:
        whole = torch.randint(0, 256, (rows, apart), generator=random, dtype=torch.uint8)
        return whole[:, : k // 2]

    def scales(rows: int) -> Tensor:
        drawn = torch.randint(smallest, 9, (rows, k // 16), generator=random)
        octets = drawn.float().to(torch.float8_e4m3fn).view(torch.uint8)
        octets[1:2] = 0  # results are zeros of either sign
        octets[rows // 2, -1] = NAN
        return padded_with_nan(octets.view(torch.float8_e4m3fn))

    return {
        "codes": codes(m, row or k // 2),
        "wcodes": codes(n, k // 2),
        "ascales": scales(m),
        "wscales": scales(n),
        "alpha": torch.tensor([-(2.0**-10)]),
        "bias": None if bias is None else torch.randn(2 * n, generator=random).to(bias)[::2],
    }


def padded_with_nan(scales: Tensor) -> Tensor:
    """Scales in the layout 128x4, the padding NaN."""
    made = swizzle_scales(scales).view(torch.uint8)
    padding = swizzle_scales(torch.ones(scales.shape).to(scales.dtype)).view(torch.uint8) == 0
    made[padding] = NAN
    return made.view(scales.dtype)


def interpreted(
    gemm: Callable[..., Tensor],
    arch: str,
    given: Mapping[str, Tensor | None],
    *,
    config: str,
    dtype: torch.dtype,
    seed: int,
) -> tuple[Tensor, Counts]:
    """What a kernel compiled for ``arch`` computes, and what it did for that."""
    with device.pretend(arch), capture_launches() as launches:
        y = gemm(**given, out_dtype=dtype, config=config)
    (launch,) = launches
    made = launch.function.source.compile(arch, folder=None)
    return y, interpret(launch, made.ptx, written="y", seed=seed)


def expected(given: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """As the kernels have it: exact in fp32 but for the bias, whose addition rounds first."""
    value: Tensor = reference(given, dtype).value
    return value.float().to(dtype)


def reference(given: dict[str, Any], dtype: torch.dtype) -> Any:  # noqa: ANN401 - what an op returns
    """What the op's reference says."""
    values = {name: given[name].double() for name in ("ascales", "wscales", "alpha")}
    bias = None if given["bias"] is None else given["bias"].double()
    codes = {name: given[name] for name in ("codes", "wcodes")}
    return nvfp4_gemm(**codes, **values, bias=bias, out_dtype=dtype)


def require_equal(actual: Tensor, wanted: Tensor) -> None:
    """Equal to the last bit, signs of zeros too; the row and the column of a NaN scale are NaN."""
    assert torch.equal(actual.isnan(), wanted.isnan())
    assert wanted.isnan().sum() == sum(wanted.shape) - 1
    bits = (each.nan_to_num().view(torch.int16) for each in (actual, wanted))
    assert torch.equal(*bits)
