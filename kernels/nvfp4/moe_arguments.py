"""Checks of the arguments of NVFP4's mixture of experts: every backend refuses the same calls.

All but `check_ids` read metadata only, so a kernel and its fake run the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness import device
from kernels import contract
from kernels.nvfp4.domain import (
    DTYPES,
    ID_DTYPES,
    K_STEP,
    MAX_EXPERTS,
    MAX_INTERMEDIATE,
    MAX_K,
    MAX_M,
    MAX_N,
    MAX_TOP_K,
)
from kernels.nvfp4.gemm_arguments import check_scales

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor


def check_up(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    alphas: Tensor,
    next_global_encode_scale: Tensor,
    intermediate_dtype: torch.dtype,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError or ValueError for a call outside the contract of ``nvfp4_moe_up``."""
    contract.require_dtype("codes", codes, (torch.uint8,))
    contract.require_shape("codes", codes, ("m", "k/2"))
    m, k = codes.shape[0], codes.shape[1] * 2
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("k", k, min=K_STEP, max=MAX_K, multiple_of=K_STEP)
    contract.require_dtype("wcodes", wcodes, (torch.uint8,))
    contract.require_shape("wcodes", wcodes, ("e", "2i", "k/2"), **{"k/2": k // 2})
    e, rows = wcodes.shape[:2]
    contract.require_size("e", e, min=1, max=MAX_EXPERTS)
    contract.require_size(
        "2i", rows, min=2 * K_STEP, max=2 * MAX_INTERMEDIATE, multiple_of=2 * K_STEP
    )
    check_scales("ascales", ascales, {"m": m}, {"k": k})
    check_scales("wscales", wscales, {"2i": rows}, {"k": k}, experts=e)
    _check_routing(topk_ids, m=m)
    _check_globals("alphas", alphas, {"e": e, "2": 2})
    _check_globals("next_global_encode_scale", next_global_encode_scale, {"e": e})
    contract.require_one_device(
        codes=codes,
        wcodes=wcodes,
        ascales=ascales,
        wscales=wscales,
        topk_ids=topk_ids,
        alphas=alphas,
        next_global_encode_scale=next_global_encode_scale,
    )
    _check_half("intermediate_dtype", intermediate_dtype)
    contract.require_config(config, configs)


def check_down(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    alphas: Tensor,
    out_dtype: torch.dtype,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError or ValueError for a call outside the contract of ``nvfp4_moe_down``."""
    contract.require_dtype("codes", codes, (torch.uint8,))
    contract.require_shape("codes", codes, ("m", "t", "i/2"))
    m, t, octets = codes.shape
    i = 2 * octets
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("t", t, min=1, max=MAX_TOP_K)
    contract.require_size("i", i, min=K_STEP, max=MAX_INTERMEDIATE, multiple_of=K_STEP)
    contract.require_dtype("wcodes", wcodes, (torch.uint8,))
    contract.require_shape("wcodes", wcodes, ("e", "h", "i/2"), **{"i/2": octets})
    e, h = wcodes.shape[:2]
    contract.require_size("e", e, min=1, max=MAX_EXPERTS)
    contract.require_size("h", h, min=8, max=MAX_N, multiple_of=8)
    check_scales("ascales", ascales, {"m*t": m * t}, {"i": i})
    check_scales("wscales", wscales, {"h": h}, {"i": i}, experts=e)
    _check_routing(topk_ids, m=m, t=t)
    contract.require_dtype("topk_weights", topk_weights, (torch.float32,))
    contract.require_shape("topk_weights", topk_weights, ("m", "t"), m=m, t=t)
    _check_globals("alphas", alphas, {"e": e})
    contract.require_one_device(
        codes=codes,
        wcodes=wcodes,
        ascales=ascales,
        wscales=wscales,
        topk_ids=topk_ids,
        topk_weights=topk_weights,
        alphas=alphas,
    )
    _check_half("out_dtype", out_dtype)
    contract.require_config(config, configs)


def check_ids(topk_ids: Tensor, experts: int) -> None:
    """Raise ValueError for an expert that there is not, naming the first and where it is.

    It reads the ids, so the host waits for the device. While a CUDA graph is captured nothing can
    be read, and nothing is refused.
    """
    if device.is_capturing():
        return
    wrong = (topk_ids < 0) | (topk_ids >= experts)
    if not bool(wrong.any()):
        return
    place = [int(index) for index in wrong.nonzero()[0]]
    msg = (
        f"topk_ids has {int(topk_ids[tuple(place)])} at {place}; with e={experts} experts an id is "
        f"in 0..{experts - 1}: route to these, or pass the weights of all experts"
    )
    raise ValueError(msg)


def _check_routing(topk_ids: Tensor, **sizes: int) -> None:
    contract.require_dtype("topk_ids", topk_ids, ID_DTYPES)
    contract.require_shape("topk_ids", topk_ids, ("m", "t"), **sizes)
    contract.require_size("t", topk_ids.shape[1], min=1, max=MAX_TOP_K)


def _check_globals(name: str, value: Tensor, sizes: dict[str, int]) -> None:
    contract.require_dtype(name, value, (torch.float32,))
    contract.require_shape(name, value, tuple(sizes), **sizes)
    contract.require_contiguous(name, value)


def _check_half(name: str, dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        msg = f"{name}={dtype!r} is not supported; use torch.float16 or torch.bfloat16"
        raise TypeError(msg)
