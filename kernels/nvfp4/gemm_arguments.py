"""Checks of the arguments of NVFP4's GEMM: every backend refuses the same calls.

They read metadata only, so a kernel and its fake run the same checks. What one backend alone
needs, it checks itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels import contract
from kernels.nvfp4.domain import BLOCK, DTYPES, K_STEP, MAX_K, MAX_M, MAX_N, SCALE_DTYPE
from kernels.nvfp4.scale_layout import padded_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor


def check_gemm(
    codes: Tensor,
    wcodes: Tensor,
    ascales: Tensor,
    wscales: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError or ValueError for a call outside the op's contract."""
    contract.require_dtype("codes", codes, (torch.uint8,))
    contract.require_dtype("wcodes", wcodes, (torch.uint8,))
    contract.require_shape("codes", codes, ("m", "k/2"))
    m, k = codes.shape[0], codes.shape[1] * 2
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("k", k, min=K_STEP, max=MAX_K, multiple_of=K_STEP)
    contract.require_shape("wcodes", wcodes, ("n", "k/2"), **{"k/2": k // 2})
    n = wcodes.shape[0]
    contract.require_size("n", n, min=8, max=MAX_N, multiple_of=8)
    check_scales("ascales", ascales, {"m": m}, {"k": k})
    check_scales("wscales", wscales, {"n": n}, {"k": k})
    contract.require_dtype("alpha", alpha, (torch.float32,))
    contract.require_shape("alpha", alpha, ("1",), **{"1": 1})
    if bias is not None:
        contract.require_dtype("bias", bias, DTYPES)
        contract.require_shape("bias", bias, ("n",), n=n)
    contract.require_one_device(
        codes=codes, wcodes=wcodes, ascales=ascales, wscales=wscales, alpha=alpha, bias=bias
    )
    if out_dtype not in DTYPES:
        msg = f"out_dtype={out_dtype!r} is not supported; use torch.float16 or torch.bfloat16"
        raise TypeError(msg)
    contract.require_config(config, configs)


def check_scales(
    name: str,
    scales: Tensor,
    rows: Mapping[str, int],
    along: Mapping[str, int],
    *,
    experts: int | None = None,
) -> None:
    """Raise TypeError or ValueError unless ``scales`` lie in tiles of 128 rows by 4 blocks.

    ``rows`` and ``along`` are one axis each, by its name; with ``experts``, each has tiles of its
    own. Of the shape nothing but the size is left.
    """
    ((row, height),), ((axis, length),) = rows.items(), along.items()
    batch = {} if experts is None else {"e": experts}
    contract.require_dtype(name, scales, (SCALE_DTYPE,))
    high, wide = padded_shape(height, length // BLOCK)
    lead = tuple(batch.values())
    if tuple(scales.shape) == (*lead, height, length // BLOCK) != (*lead, high, wide):
        msg = (
            f"{name} has shape {list(scales.shape)}, {row} by {axis}/16 as they are; the layout "
            f"128x4 has {[*lead, high, wide]}: pass swizzle_scales({name})"
        )
        raise ValueError(msg)
    sizes = batch | {f"{row} to 128": high, f"{axis}/16 to 4": wide}
    contract.require_shape(name, scales, tuple(sizes), **sizes)
    contract.require_contiguous(name, scales)
