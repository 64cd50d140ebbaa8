"""The PTX of the DSL's NVFP4 GEMM, interpreted: every tiling computes what the reference says.

With no GPU. It shows indices, masks, roundings, the order of copies and barriers, and that each
product of a code and a scale is exact; it says nothing of ptxas or of a device. Scales are small
integers and ``alpha`` is a power of two, so that every sum is exact and results are equal to the
last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness import device
from harness.launches import capture_launches
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
from kernels.nvfp4.cutedsl_policy import CONFIGS
from kernels.nvfp4.scale_layout import swizzle_scales
from references.nvfp4_gemm import nvfp4_gemm
from suites.meta.scale_cutedsl import require_compiler
from suites.numeric.ptx import interpret

if TYPE_CHECKING:
    from torch import Tensor

NAN = 0x7F
# Several tiles are walked alike whatever their size: one with a slice, and two with several.
CASES = [
    *((config, False) for config in CONFIGS),
    *((config, True) for config in ("m16n32", "m64n128", "m128n128")),
]


def operands(m: int, n: int, k: int, *, bias: torch.dtype | None, row: int = 0) -> dict[str, Any]:
    """Rows of activations lie ``row`` bytes apart, if that is given."""
    random = torch.Generator().manual_seed(m + n + k)

    def codes(rows: int, apart: int) -> Tensor:
        whole = torch.randint(0, 256, (rows, apart), generator=random, dtype=torch.uint8)
        return whole[:, : k // 2]

    def scales(rows: int) -> Tensor:
        drawn = torch.randint(-8, 9, (rows, k // 16), generator=random)
        octets = drawn.float().to(torch.float8_e4m3fn).view(torch.uint8)
        octets[1] = 0  # results are zeros of either sign
        octets[rows // 2, -1] = NAN
        made = swizzle_scales(octets.view(torch.float8_e4m3fn)).view(torch.uint8)
        padding = swizzle_scales(torch.ones(octets.shape).to(torch.float8_e4m3fn))
        made[padding.view(torch.uint8) == 0] = NAN  # which nothing may read
        return made.view(torch.float8_e4m3fn)

    return {
        "codes": codes(m, row or k // 2),
        "wcodes": codes(n, k // 2),
        "ascales": scales(m),
        "wscales": scales(n),
        "alpha": torch.tensor([-(2.0**-10)]),
        "bias": None if bias is None else torch.randn(2 * n, generator=random).to(bias)[::2],
    }


def interpreted(given: dict[str, Any], *, config: str, dtype: torch.dtype, seed: int) -> Tensor:
    with device.pretend("sm80"), capture_launches() as launches:
        y = nvfp4_gemm_cutedsl(**given, out_dtype=dtype, config=config)
    (launch,) = launches
    made = launch.function.source.compile("sm80", folder=None)
    assert interpret(launch, made.ptx, written="y", seed=seed) > 0
    return y


def expected(given: dict[str, Any], dtype: torch.dtype) -> Tensor:
    values = {name: given[name].double() for name in ("ascales", "wscales", "alpha")}
    bias = None if given["bias"] is None else given["bias"].double()
    codes = {name: given[name] for name in ("codes", "wcodes")}
    value = nvfp4_gemm(**codes, **values, bias=bias, out_dtype=dtype).value
    # As the kernel has it: exact in fp32 but for the bias, whose addition is the first rounding.
    return value.float().to(dtype)


@pytest.mark.parametrize(("config", "ragged"), CASES)
def test_the_code_computes_the_product(config: str, *, ragged: bool) -> None:
    require_compiler()
    tile = CONFIGS[config]
    dtype, bias = torch.bfloat16, torch.float16
    if ragged:  # several tiles, a part of a step
        given = operands(tile.rows + 1, tile.columns + 8, 160, bias=None, row=112)
    else:  # every stage is used twice, and the last step is not whole
        k = 128 * tile.spans * tile.slices * (tile.stages + 1) + 32
        given = operands(tile.rows - 3, tile.columns, k, bias=bias)
        dtype = torch.float16
    actual = interpreted(given, config=config, dtype=dtype, seed=7)
    wanted = expected(given, dtype)
    assert torch.equal(actual.isnan(), wanted.isnan())
    assert wanted.isnan().sum() == sum(wanted.shape) - 1  # a row and a column
    bits = (each.nan_to_num().view(torch.int16) for each in (actual, wanted))
    assert torch.equal(*bits)  # which tell a zero from a negative one
