"""NVFP4's GEMM: the product of two exactly dequantized operands, times alpha, plus bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import Expected, op, output, size, tensor
from harness.values import Family
from references.nvfp4_format import BLOCK, Padding, decode_e2m1, linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor


def out_dtype_of(dtype: torch.dtype, params: Mapping[str, object]) -> torch.dtype:
    """The dtype that the parameter names."""
    chosen = params["out_dtype"]
    return chosen if isinstance(chosen, torch.dtype) else dtype


def every_scale(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Block scales of every positive byte that is a number, subnormal ones among them."""
    del name, role
    if dtype is not torch.float8_e4m3fn:
        return None
    drawn = torch.randint(0, 0x7F, shape, generator=generator, dtype=torch.uint8)
    return drawn.view(dtype).float()


def special(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """A NaN for about one block scale in 256, in the padding too, where it must do no harm."""
    made = every_scale(name, role, shape, dtype, generator)
    if made is None:
        return None
    return torch.where(torch.rand(shape, generator=generator) < 1 / 256, torch.nan, made)


@op(
    inputs={
        "codes": tensor("m k//2", dtype="uint8", role="code"),
        "wcodes": tensor("n k//2", dtype="uint8", role="code"),
        "ascales": tensor(
            "(m+127)//128*128 (k//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("m", "k//16"),
        ),
        "wscales": tensor(
            "(n+127)//128*128 (k//16+3)//4*4",
            dtype="float8_e4m3fn",
            role="scale",
            unread=Padding("n", "k//16"),
        ),
        "alpha": tensor("1", dtype="float32", role="scale"),
        "bias": tensor("n", role="weight", optional="bias"),
    },
    outputs={"y": output("m n", dtype=out_dtype_of, sums_over="k")},
    domain={
        "m": size(0, 2**20),
        "n": size(8, 65536, multiple_of=8),
        "k": size(32, 65536, multiple_of=32),
    },
    dtypes=("float16", "bfloat16"),
    params={"out_dtype": {"bfloat16": torch.bfloat16, "float16": torch.float16}},
    families={"every_scale": Family(make=every_scale), "special": Family(make=special)},
    # Codes are multiples of 1/2, scales integers and in a probe, as alpha is, multiples of 1/2.
    exact={"exact": 1 / 4, "probe": 1 / 32},
    independent=("m", "n"),
    refuses={"out_dtype": (torch.float32, torch.int8, "bfloat16", None)},
)
def nvfp4_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Expected:
    """``alpha * sum_k (qa_k as_k) (qw_k ws_k) + bias``, alpha being ``1 / (g_a g_w)``.

    Scales lie in the layout 128x4; what lies in their padding counts for nothing. Every product of
    two dequantized numbers is a term of the sum.
    """
    del out_dtype
    a = dequantized(codes, ascales)
    w = dequantized(wcodes, wscales).T
    value = alpha * (a @ w)
    magnitude = alpha.abs() * (a.abs() @ w.abs())
    squares = alpha.square() * (a.square() @ w.square())
    if bias is not None:
        value, magnitude = value + bias, magnitude + bias.abs()
        squares += bias.square()
    return Expected(value, magnitude, squares)


def dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """The matrix that codes and scales in the layout 128x4 stand for, but for its global scale."""
    values: Tensor = decode_e2m1(codes).unflatten(1, (-1, BLOCK))
    return (values * linear(scales, *values.shape[:2]).unsqueeze(2)).flatten(1)
