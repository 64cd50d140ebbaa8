"""What sm120's NVFP4 GEMM launches for operands of every layout, and where it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness import device
from harness.arch import UnsupportedArch
from harness.launches import capture_launches
from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
from kernels.nvfp4.warp_scaled_policy import CONFIGS, choose_config
from suites.boundary.test_nvfp4 import E4M3, octets, operands

if TYPE_CHECKING:
    from torch import Tensor

    from harness.launches import Launch

STORAGE: Final = octets(40 * 128)


def launched(**arguments: Any) -> Launch:  # noqa: ANN401 - whatever a kernel takes
    with device.pretend("sm120"), capture_launches() as launches:
        nvfp4_gemm_warp_scaled_cutedsl(**(operands() | arguments))
    (launch,) = launches
    return launch


@pytest.mark.parametrize(
    ("codes", "copied"),
    [
        (STORAGE[: 5 * 48].view(5, 48), False),
        (STORAGE.view(40, 128)[:5, 16:64], False),
        (STORAGE[1 : 5 * 48 + 1].view(5, 48), True),
        (STORAGE[: 5 * 48].view(48, 5).T, True),
        (STORAGE[: 5 * 96].view(5, 96)[:, ::2], True),
    ],
    ids=["dense", "rows", "misaligned", "transposed", "every second"],
)
def test_codes_are_copied_only_where_16_bytes_at_once_cannot_be(
    codes: Tensor, *, copied: bool
) -> None:
    launch = launched(codes=codes)
    given = launch.arguments["codes"]
    assert (given.data_ptr() != codes.data_ptr()) is copied
    assert given.data_ptr() % 16 == given.stride(0) % 16 == 0
    assert launch.arguments["codes_row"] == given.stride(0)
    assert torch.equal(given, codes)


@pytest.mark.parametrize("name", ["ascales", "wscales"])
def test_scales_are_copied_where_they_are_misaligned(name: str) -> None:
    """Those of a tile of 128 rows are copied 16 bytes at once."""
    scales = octets(128 * 8 + 4)[4:].view(128, 8).view(E4M3)
    given = launched(**{name: scales}).arguments[name]
    assert given.data_ptr() % 16 == 0
    assert torch.equal(given, scales.view(torch.uint8))


def test_a_bias_is_handed_over_as_it_is() -> None:
    bias = torch.zeros(32, dtype=torch.float16)[::2]
    launch = launched(bias=bias, out_dtype=torch.float16)
    assert launch.arguments["bias"].data_ptr() == bias.data_ptr()
    names = ("bias_column", "has_bias", "bias_bf16", "y_bf16")
    assert [launch.arguments[name] for name in names] == [2, 1, 0, 0]
    assert launched(bias=None).arguments["has_bias"] == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_a_tiling_launches_a_block_a_tile(config: str) -> None:
    tile = CONFIGS[config]
    launch = launched(**operands(tile.rows + 1, tile.columns + 8, 96), config=config)
    assert launch.grid == (4,)
    assert launch.options["block"] == (tile.threads,)
    assert launch.options["shared_bytes"] == tile.shared_bytes


def test_the_policy_chooses_where_nobody_names_a_tiling() -> None:
    with device.pretend("sm120"):
        processors = device.multiprocessors(torch.device("cpu"))
    for m in (1, 17, 300):
        tile = CONFIGS[choose_config(m, 64, processors)[0]]
        launch = launched(**operands(m, 64, 96))
        assert launch.grid == (tile.tiles(m, 64),)
        assert launch.options["shared_bytes"] == tile.shared_bytes


@pytest.mark.parametrize("arch", ["sm90", "sm100", "sm103"])
def test_an_arch_without_such_products_is_refused(arch: str) -> None:
    with device.pretend(arch), capture_launches() as launches:
        with pytest.raises(UnsupportedArch, match=f"arch='{arch}' is not supported"):
            nvfp4_gemm_warp_scaled_cutedsl(**operands())
        assert not launches


def test_machine_code_is_of_that_arch_alone() -> None:
    """Block-scaled products are for sm_120a; without the letter the assembler refuses them."""
    assert launched().function.source.specific


def test_the_fake_says_what_comes_back() -> None:
    with FakeTensorMode():
        fake = nvfp4_gemm_warp_scaled_cutedsl(**operands(7), out_dtype=torch.float16)
    with device.pretend("sm120"), capture_launches():
        real = nvfp4_gemm_warp_scaled_cutedsl(**operands(7), out_dtype=torch.float16)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
