"""The code of NVFP4's kernels rounds where the recipe does, and keeps subnormal numbers.

The interpreter cannot show a flush to zero, a contraction or an approximate quotient.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from harness import compilation, registry
from harness.probes import base_case

QUANTIZE = "nvfp4_quantize"
GEMM = "nvfp4_gemm"
UP = "nvfp4_moe_up"
ARCHS = ["sm80", "sm90", "sm100", "sm120"]


@cache
def ptx_of(op: str, arch: str) -> str:
    """The code of the kernel's default tiling."""
    registry.load_all(("references", "kernels"))
    declared, kernel = registry.op(op), registry.kernel(f"{op}.triton")
    case = replace(base_case(declared, kernel), dtype="bfloat16")
    (artifact,) = compilation.compile_case(declared, kernel, case, arch).artifacts
    return artifact.ptx


def instructions(ptx: str, pattern: str) -> set[str]:
    return set(re.findall(rf"^\s*(?:@!?%\w+\s+)?({pattern}[\w.]*)", ptx, re.MULTILINE))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_quantizer_divides_and_multiplies_as_ieee_does(arch: str) -> None:
    ptx = ptx_of(QUANTIZE, arch)
    assert instructions(ptx, "div") - {"div.s32", "div.u32", "div.s64"} == {"div.rn.f32"}
    assert instructions(ptx, "mul.*f32") <= {"mul.f32", "mul.rn.f32", "mul.f32x2", "mul.rn.f32x2"}
    assert not instructions(ptx, "fma|mad.*f32|add.*f32|sub.*f32|rcp|ex2|cvt.*e4m3|cvt.*e2m1")


@pytest.mark.parametrize("arch", ARCHS)
def test_the_experts_quantize_as_the_quantizer_does(arch: str) -> None:
    """The other quotient and the exponential are SiLU's; a product may not be contracted."""
    ptx = ptx_of(UP, arch)
    assert instructions(ptx, "div.*f32") == {"div.rn.f32", "div.full.f32"}
    assert not instructions(ptx, "cvt.*e4m3|cvt.*e2m1|fma.*f32")


@pytest.mark.parametrize("op", [QUANTIZE, GEMM, UP])
@pytest.mark.parametrize("arch", ARCHS)
def test_subnormal_numbers_are_not_flushed(op: str, arch: str) -> None:
    assert ".ftz" not in ptx_of(op, arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gemm_needs_no_conversion_that_an_arch_may_lack(arch: str) -> None:
    ptx = ptx_of(GEMM, arch)
    assert not instructions(ptx, "cvt.*(?:e4m3|e2m1|e5m2)")
    assert instructions(ptx, "mul.*f16|fma.*f16")  # what scales a code
