"""What NVFP4's wrappers refuse, before a launch, saying what is wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness import device
from harness.launches import capture_launches
from kernels.nvfp4.cutedsl_block_scaled import nvfp4_gemm_block_scaled_cutedsl
from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
from kernels.nvfp4.domain import MAX_M
from kernels.nvfp4.scale_layout import padded_shape, swizzle_scales
from kernels.nvfp4.triton_gemm import nvfp4_gemm
from kernels.nvfp4.triton_quantize import nvfp4_quantize

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

E4M3 = torch.float8_e4m3fn
# Every GEMM, on an arch that it is for.
GEMMS: dict[Callable[..., Tensor], str] = {
    nvfp4_gemm: "sm90",
    nvfp4_gemm_cutedsl: "sm90",
    nvfp4_gemm_block_scaled_cutedsl: "sm100",
    nvfp4_gemm_warp_scaled_cutedsl: "sm120",
}


def octets(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def scales(rows: int, k: int) -> Tensor:
    return octets(*padded_shape(rows, k // 16)).view(E4M3)


def operands(m: int = 5, n: int = 16, k: int = 96) -> dict[str, Any]:
    return {
        "codes": octets(m, k // 2),
        "wcodes": octets(n, k // 2),
        "ascales": scales(m, k),
        "wscales": scales(n, k),
        "alpha": torch.ones(1),
        "bias": torch.zeros(n, dtype=torch.bfloat16),
    }


def activations(m: int = 5, k: int = 96) -> dict[str, Any]:
    return {
        "x": torch.zeros(m, k, dtype=torch.bfloat16),
        "global_encode_scale": torch.ones(1),
    }


# What replaces arguments of a legal call, the exception, and what its message says.
Refusal = tuple[dict[str, Any], type[Exception], str]
GEMM: dict[str, Refusal] = {
    "k of 48": (
        operands(k=48),
        ValueError,
        "k=48 is not a multiple of 32; pad the tensors along k",
    ),
    "odd k": (
        {"codes": octets(5, 48)[:, :47], "wcodes": octets(16, 48)[:, :47]},
        ValueError,
        "k=94 is not a multiple of 32",
    ),
    "no k": (operands(k=0), ValueError, r"k=0 is outside 32\.\.65536"),
    "codes of three axes": (
        {"codes": octets(1, 5, 48)},
        ValueError,
        r"codes has shape \[1, 5, 48\], of rank 3; reshape it to \[m, k/2\]",
    ),
    "m beyond the last": (
        {"codes": octets(1, 48).expand(MAX_M + 1, -1)},
        ValueError,
        r"m=1048577 is outside 0\.\.1048576; split",
    ),
    "n of 12": (operands(n=12), ValueError, "n=12 is not a multiple of 8"),
    "operands of two k": (
        {"wcodes": octets(16, 32), "wscales": scales(16, 64)},
        ValueError,
        r"wcodes has shape \[16, 32\]; .* \[n, k/2=48\]",
    ),
    "scales as they are": (
        {"ascales": octets(5, 6).view(E4M3)},
        ValueError,
        r"ascales has shape \[5, 6\], m by k/16 .* \[128, 8\]: pass swizzle_scales\(ascales\)",
    ),
    "weight scales as they are": (
        {"wscales": octets(16, 6).view(E4M3)},
        ValueError,
        r"wscales has shape \[16, 6\], n by k/16 .*swizzle_scales\(wscales\)",
    ),
    "scales of other rows": (
        {"ascales": scales(129, 96)},
        ValueError,
        r"ascales has shape \[256, 8\]; .* \[m to 128=128, k/16 to 4=8\]",
    ),
    "scales of another k": (
        {"wscales": scales(16, 32)},
        ValueError,
        r"wscales has shape \[128, 4\]; .*\[n to 128=128, k/16 to 4=8\]",
    ),
    "scales in one row": (
        {"wscales": scales(16, 96).reshape(-1)},
        ValueError,
        r"wscales has shape \[1024\], of rank 1",
    ),
    "scales that are strided": (
        {"ascales": octets(8, 128).T.view(E4M3)},
        ValueError,
        r"ascales has strides \[1, 128\].*ascales\.contiguous\(\)",
    ),
    "scales that are bytes": (
        {"wscales": scales(16, 96).view(torch.uint8)},
        TypeError,
        "wscales.dtype=torch.uint8 .*convert wscales to torch.float8_e4m3fn",
    ),
    "scales of e8m0": (
        {"ascales": scales(5, 96).view(torch.float8_e8m0fnu)},
        TypeError,
        "ascales.dtype=torch.float8_e8m0fnu is not supported",
    ),
    "codes of int8": (
        {"codes": octets(5, 48).view(torch.int8)},
        TypeError,
        "codes.dtype=torch.int8 is not supported; convert codes to torch.uint8",
    ),
    "codes that are floats": (
        {"wcodes": torch.zeros(16, 48)},
        TypeError,
        "wcodes.dtype=torch.float32 is not supported",
    ),
    "a bf16 global scale": (
        {"alpha": torch.ones(1, dtype=torch.bfloat16)},
        TypeError,
        "alpha.dtype=torch.bfloat16 is not supported; convert alpha to torch.float32",
    ),
    "a global scale a row": (
        {"alpha": torch.ones(5)},
        ValueError,
        r"alpha has shape \[5\]; the other tensors need \[1=1\]",
    ),
    "a global scale that is a float": (
        {"alpha": 1.0},
        TypeError,
        r"alpha=1\.0 is a float; pass a torch\.Tensor",
    ),
    "a bias of float32": (
        {"bias": torch.zeros(16)},
        TypeError,
        "bias.dtype=torch.float32 is not supported",
    ),
    "a bias of another n": (
        {"bias": torch.zeros(24).half()},
        ValueError,
        r"bias has shape \[24\]; the other tensors need \[n=16\]",
    ),
    "an output of float32": (
        {"out_dtype": torch.float32},
        TypeError,
        "out_dtype=torch.float32 is not supported; use torch.float16 or torch.bfloat16",
    ),
    "an unknown tiling": (
        {"config": "m1n1"},
        ValueError,
        r"config='m1n1' is unknown; use None or one of m\d+n\d+, ",
    ),
    "an operand without data": (
        {"bias": torch.zeros(16, dtype=torch.bfloat16, device="meta")},
        ValueError,
        "bias is on device 'meta'",
    ),
}
QUANTIZE: dict[str, Refusal] = {
    "k of 48": (activations(k=48), ValueError, "k=48 is not a multiple of 32"),
    "odd k": (activations(k=95), ValueError, "k=95 is not a multiple of 32"),
    "no k": (activations(k=0), ValueError, r"k=0 is outside 32\.\.65536"),
    "m beyond the last": (
        {"x": torch.zeros(1, 96).half().expand(MAX_M + 1, -1)},
        ValueError,
        r"m=1048577 is outside 0\.\.1048576; split",
    ),
    "x of float32": (
        {"x": torch.zeros(5, 96)},
        TypeError,
        "x.dtype=torch.float32 is not supported; convert x to torch.float16 or torch.bfloat16",
    ),
    "x of three axes": (
        {"x": torch.zeros(2, 5, 96).half()},
        ValueError,
        r"x has shape \[2, 5, 96\], of rank 3; reshape it to \[m, k\]",
    ),
    "a bf16 global scale": (
        {"global_encode_scale": torch.ones(1).bfloat16()},
        TypeError,
        "global_encode_scale.dtype=torch.bfloat16 is not supported; convert .* torch.float32",
    ),
    "a global scale a row": (
        {"global_encode_scale": torch.ones(5)},
        ValueError,
        r"global_encode_scale has shape \[5\]; the other tensors need \[1=1\]",
    ),
    "a global scale that is a float": (
        {"global_encode_scale": 2.0},
        TypeError,
        r"global_encode_scale=2\.0 is a float; pass a torch\.Tensor",
    ),
    "another recipe": (
        {"recipe": "te"},
        NotImplementedError,
        "recipe='te' is not implemented in this backend; it has 'vllm'",
    ),
    "an unknown tiling": ({"config": "b"}, ValueError, "config='b' is unknown; use None or one of"),
}


def check(
    call: Callable[..., object], legal: dict[str, Any], refusal: Refusal, arch: str = "sm90"
) -> None:
    replaced, error, words = refusal
    with device.pretend(arch), capture_launches() as launches:
        with pytest.raises(error, match=words):
            call(**(legal | replaced))
        assert not launches
        call(**legal)
        assert len(launches) == 1


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("name", GEMM)
def test_the_gemm_refuses(name: str, gemm: Callable[..., Tensor]) -> None:
    check(gemm, operands(), GEMM[name], GEMMS[gemm])


@pytest.mark.parametrize("name", QUANTIZE)
def test_the_quantizer_refuses(name: str) -> None:
    check(nvfp4_quantize, activations(), QUANTIZE[name])


@pytest.mark.parametrize(
    ("call", "legal", "moved"),
    [(gemm, operands, name) for gemm in GEMMS for name in operands() if name != "codes"]
    + [(nvfp4_quantize, activations, "global_encode_scale")],
)
def test_tensors_of_two_devices_are_refused(
    call: Callable[..., object], legal: Callable[[], dict[str, Any]], moved: str
) -> None:
    with FakeTensorMode():
        given = legal()
        given[moved] = given[moved].to("cuda:0")
        with pytest.raises(ValueError, match=rf"{moved} is on device 'cuda:0' and "):
            call(**given)


def test_scales_that_need_no_padding_are_taken_as_laid_out() -> None:
    """Their shape is the same before and after: only whoever made them knows."""
    legal = operands(128, 128, 64)
    assert swizzle_scales(legal["ascales"]).shape == legal["ascales"].shape
    with device.pretend("sm90"), capture_launches() as launches:
        nvfp4_gemm(**legal)
    assert len(launches) == 1


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("m", [0, 1, 127, 129])
def test_any_number_of_rows_is_taken(m: int, gemm: Callable[..., Tensor]) -> None:
    with device.pretend(GEMMS[gemm]), capture_launches() as launches:
        codes, made = nvfp4_quantize(**activations(m))
        y = gemm(**operands(m), out_dtype=torch.float16)
    assert (codes.shape, made.shape) == ((m, 48), padded_shape(m, 6))
    assert (y.shape, y.dtype) == ((m, 16), torch.float16)
    assert len(launches) == (2 if m else 0)
