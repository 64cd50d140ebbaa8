"""What the block-scaled NVFP4 GEMM launches for operands of every layout, and where it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness import device
from harness.arch import UnsupportedArch
from harness.launches import capture_launches
from kernels.nvfp4.block_scaled_policy import CONFIGS
from kernels.nvfp4.cutedsl_block_scaled import nvfp4_gemm_block_scaled_cutedsl
from suites.boundary.test_nvfp4 import E4M3, octets, operands

if TYPE_CHECKING:
    from torch import Tensor

    from harness.launches import Launch

STORAGE: Final = octets(40 * 128)


def launched(**arguments: Any) -> Launch:  # noqa: ANN401 - whatever a kernel takes
    with device.pretend("sm100"), capture_launches() as launches:
        nvfp4_gemm_block_scaled_cutedsl(**(operands() | arguments))
    (launch,) = launches
    return launch


@pytest.mark.parametrize(
    ("codes", "copied"),
    [
        (STORAGE[: 5 * 48].view(5, 48), False),
        (STORAGE.view(40, 128)[:5, 16:64], True),
        (STORAGE[1 : 5 * 48 + 1].view(5, 48), True),
        (STORAGE[: 5 * 48].view(48, 5).T, True),
    ],
    ids=["dense", "rows", "misaligned", "transposed"],
)
def test_codes_are_copied_where_tma_cannot_read_them(codes: Tensor, *, copied: bool) -> None:
    given = launched(codes=codes).arguments["codes"]
    assert (given.data_ptr() != codes.data_ptr()) is copied
    assert given.data_ptr() % 16 == 0
    assert given.is_contiguous()
    assert torch.equal(given, codes)


def test_scales_and_bias_are_copied_where_they_are_misaligned() -> None:
    scales = octets(128 * 8 + 4)[4:].view(128, 8).view(E4M3)
    bias = torch.arange(32, dtype=torch.float16)[::2]
    given = launched(ascales=scales, bias=bias).arguments
    assert given["ascales"].data_ptr() % 16 == given["bias"].data_ptr() % 16 == 0
    assert torch.equal(given["ascales"], scales.view(torch.uint8))
    assert torch.equal(given["bias"], bias)
    assert given["bias"].is_contiguous()


def test_dtypes_and_a_missing_bias_are_other_kernels() -> None:
    bias = torch.zeros(16, dtype=torch.float16)
    made = [
        launched(bias=None).function,
        launched(bias=None, out_dtype=torch.float16).function,
        launched(bias=bias).function,
        launched(bias=bias.bfloat16()).function,
    ]
    assert len({id(each) for each in made}) == 4
    assert launched(bias=bias).function is made[2]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_tiling_launches_a_block_a_tile(config: str) -> None:
    tile = CONFIGS[config]
    launch = launched(**operands(129, tile.columns + 8, 96), config=config)
    assert launch.grid == (2, 2)
    assert launch.options["block"] == (192,)
    assert launch.options["shared_bytes"] == tile.shared_bytes
    assert [launch.arguments[name] for name in "mnk"] == [129, tile.columns + 8, 96]


@pytest.mark.parametrize("arch", ["sm90", "sm120"])
def test_an_arch_without_tensor_memory_is_refused(arch: str) -> None:
    with device.pretend(arch), capture_launches() as launches:
        with pytest.raises(UnsupportedArch, match=f"arch='{arch}' is not supported"):
            nvfp4_gemm_block_scaled_cutedsl(**operands())
        assert not launches


def test_the_fake_says_what_comes_back() -> None:
    with FakeTensorMode():
        fake = nvfp4_gemm_block_scaled_cutedsl(**operands(7), out_dtype=torch.float16)
    with device.pretend("sm103"), capture_launches():
        real = nvfp4_gemm_block_scaled_cutedsl(**operands(7), out_dtype=torch.float16)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
