"""Checks of the arguments of SVDQuant's activation quantizer: every backend refuses the same calls.

They read metadata only, so a kernel and its fake run the same checks. What one backend alone
needs, it checks itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels import contract
from kernels.svdq.domain import DTYPES, GROUP, MAX_K, MAX_M, MAX_R

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor


def check_quantize(
    x: Tensor,
    lora_down: Tensor,
    smooth: Tensor,
    precision: str,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError, ValueError or NotImplementedError for a call outside the op's contract."""
    if precision != "int4":
        msg = f"precision={precision!r} is not implemented in this backend; it has 'int4'"
        raise NotImplementedError(msg)
    contract.require_dtype("x", x, DTYPES)
    contract.require_dtype("lora_down", lora_down, (x.dtype,))
    contract.require_dtype("smooth", smooth, (x.dtype,))
    contract.require_shape("x", x, ("m", "k"))
    m, k = x.shape
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("k", k, min=GROUP, max=MAX_K, multiple_of=GROUP)
    contract.require_shape("lora_down", lora_down, ("k", "r"), k=k)
    contract.require_size("r", lora_down.shape[1], min=16, max=MAX_R, multiple_of=16)
    contract.require_shape("smooth", smooth, ("k",), k=k)
    contract.require_one_device(x=x, lora_down=lora_down, smooth=smooth)
    contract.require_config(config, configs)
