"""What the CuTe DSL's NVFP4 GEMM launches for operands of every layout, and where it cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels
from harness import device
from harness.arch import UnsupportedArch
from harness.launches import capture_launches
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
from kernels.nvfp4.cutedsl_policy import CONFIGS, choose_path, tile_of
from suites.boundary.test_nvfp4 import E4M3, octets, operands

if TYPE_CHECKING:
    from torch import Tensor

    from harness.launches import Launch

STORAGE: Final = octets(40 * 128)


def launched(arch: str = "sm90", **arguments: Any) -> Launch:  # noqa: ANN401
    with device.pretend(arch), capture_launches() as launches:
        nvfp4_gemm_cutedsl(**(operands() | arguments))
    (launch,) = launches
    return launch


@pytest.mark.parametrize(
    ("codes", "copied"),
    [
        (STORAGE[: 5 * 48].view(5, 48), False),
        (STORAGE.view(40, 128)[:5, 16:64], False),
        (STORAGE[:48].expand(5, 48), False),
        (STORAGE[1 : 5 * 48 + 1].view(5, 48), True),
        (STORAGE[: 5 * 56].view(5, 56)[:, :48], True),
        (STORAGE[: 5 * 48].view(48, 5).T, True),
        (STORAGE[: 5 * 96].view(5, 96)[:, ::2], True),
    ],
    ids=["dense", "rows", "one row", "misaligned", "odd rows", "transposed", "every second"],
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


def test_scales_and_bias_are_handed_over_as_bytes_and_strides() -> None:
    scales = octets(128 * 8 + 1)[1:].view(128, 8).view(E4M3)
    bias = torch.zeros(32, dtype=torch.float16)[::2]
    launch = launched(ascales=scales, bias=bias)
    assert launch.arguments["ascales"].dtype is torch.uint8
    assert launch.arguments["ascales"].data_ptr() % 4 == 0
    assert launch.arguments["bias"].data_ptr() == bias.data_ptr()
    given = [launch.arguments[name] for name in ("bias_column", "has_bias", "bias_bf16", "y_bf16")]
    assert given == [2, 1, 0, 1]
    assert launched(bias=None).arguments["has_bias"] == 0


@pytest.mark.parametrize("arch", ["sm80", "sm89", "sm90"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_tiling_launches_a_block_a_tile(config: str, arch: str) -> None:
    tile = tile_of(config, choose_path(arch)[0])
    launch = launched(arch, **operands(tile.rows + 1, tile.columns + 8, 96), config=config)
    assert launch.function.source.constants == tile.constants()
    assert launch.function.source.specific is (config == "m128" and arch == "sm90")
    assert launch.grid == (4,)
    assert launch.options["block"] == (tile.threads,)
    assert launch.options["shared_bytes"] == tile.shared_bytes


@pytest.mark.parametrize("arch", ["sm75", "sm100", "sm120"])
def test_an_arch_without_a_path_is_refused(arch: str) -> None:
    with device.pretend(arch), capture_launches() as launches:
        with pytest.raises(UnsupportedArch, match=f"arch='{arch}' is not supported"):
            nvfp4_gemm_cutedsl(**operands())
        assert not launches


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device='cpu' is not a CUDA device; move .*\.cuda"):
        nvfp4_gemm_cutedsl(**operands())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_fake_says_what_comes_back(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        fake = nvfp4_gemm_cutedsl(**operands(7), out_dtype=dtype)
    with device.pretend("sm90"), capture_launches():
        real = nvfp4_gemm_cutedsl(**operands(7), out_dtype=dtype)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


WITHOUT: Final = """
import sys
sys.modules["cutlass"] = None
import kernels
from harness import backends
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
assert backends.load_error("cutedsl") is None, "asked for before it was needed"
errors = []
for _ in range(2):
    try:
        kernels.nvfp4_gemm_cutedsl
    except ImportError as error:
        errors.append(error)
assert errors[0] is errors[1] is backends.load_error("cutedsl"), errors
print(errors[0])
"""


def test_without_the_dsl_imports_work_and_the_error_says_what_to_install() -> None:
    root = Path(kernels.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "backend 'cutedsl' cannot be imported" in done.stdout
    assert "pip install 'nvidia-cutlass-dsl[cu13]>=4.8,<4.9'" in done.stdout
