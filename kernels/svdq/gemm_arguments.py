"""Checks of the arguments of SVDQuant's W4A4 GEMM: every backend refuses the same calls.

They read metadata only, so a kernel and its fake run the same checks. What one backend alone
needs, it checks itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels import contract
from kernels.svdq.domain import DTYPES, GROUP, MAX_K, MAX_M, MAX_N, MAX_R

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor


def check_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    lora_act: Tensor | None,
    lora_up: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    wcscales: Tensor | None,
    act_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
    out_dtype: torch.dtype | None,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError or ValueError for a call outside the op's contract."""
    _check_operands(codes, wcodes, ascales, wscales)
    m, n = codes.shape[0], wcodes.shape[0]
    for name, vector in (("bias", bias), ("wcscales", wcscales)):
        if vector is not None:
            contract.require_dtype(name, vector, (ascales.dtype,))
            contract.require_shape(name, vector, ("n",), n=n)
    _check_lora(lora_act, lora_up, ascales.dtype, m, n)
    contract.require_one_device(
        codes=codes,
        wcodes=wcodes,
        ascales=ascales,
        wscales=wscales,
        lora_act=lora_act,
        lora_up=lora_up,
        bias=bias,
        wcscales=wcscales,
    )
    contract.require_number("alpha", alpha)
    contract.require_flag("act_unsigned", act_unsigned)
    if out_dtype is not None and out_dtype not in DTYPES:
        msg = f"out_dtype={out_dtype} is not supported; use torch.float16, torch.bfloat16 or None"
        raise TypeError(msg)
    contract.require_config(config, configs)


def _check_operands(codes: Tensor, wcodes: Tensor, ascales: Tensor, wscales: Tensor) -> None:
    contract.require_dtype("codes", codes, (torch.uint8,))
    contract.require_dtype("wcodes", wcodes, (torch.uint8,))
    contract.require_dtype("ascales", ascales, DTYPES)
    contract.require_dtype("wscales", wscales, (ascales.dtype,))
    contract.require_shape("codes", codes, ("m", "k/2"))
    m, k = codes.shape[0], codes.shape[1] * 2
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("k", k, min=GROUP, max=MAX_K, multiple_of=GROUP)
    contract.require_shape("wcodes", wcodes, ("n", "k/2"), **{"k/2": k // 2})
    n = wcodes.shape[0]
    contract.require_size("n", n, min=8, max=MAX_N, multiple_of=8)
    contract.require_shape("ascales", ascales, ("k/64", "m"), m=m, **{"k/64": k // GROUP})
    contract.require_shape("wscales", wscales, ("k/64", "n"), n=n, **{"k/64": k // GROUP})


def _check_lora(
    lora_act: Tensor | None, lora_up: Tensor | None, dtype: torch.dtype, m: int, n: int
) -> None:
    if lora_act is None and lora_up is None:
        return
    if lora_act is None or lora_up is None:
        missing, given = ("lora_act", "lora_up") if lora_act is None else ("lora_up", "lora_act")
        msg = f"{missing}=None, but {given} is given; pass both or neither"
        raise ValueError(msg)
    contract.require_dtype("lora_act", lora_act, (torch.float32,))
    contract.require_dtype("lora_up", lora_up, (dtype,))
    contract.require_shape("lora_act", lora_act, ("m", "r"), m=m)
    r = lora_act.shape[1]
    contract.require_size("r", r, min=16, max=MAX_R, multiple_of=16)
    contract.require_shape("lora_up", lora_up, ("n", "r"), n=n, r=r)
