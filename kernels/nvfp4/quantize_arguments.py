"""Checks of the arguments of the NVFP4 quantizer: every backend refuses the same calls.

They read metadata only, so a kernel and its fake run the same checks. What one backend alone
needs, it checks itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels import contract
from kernels.nvfp4.domain import DTYPES, K_STEP, MAX_K, MAX_M, RECIPES

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor


def check_quantize(
    x: Tensor,
    global_encode_scale: Tensor,
    recipe: str,
    config: str | None,
    *,
    configs: Collection[str],
) -> None:
    """Raise TypeError, ValueError or NotImplementedError for a call outside the op's contract."""
    if recipe not in RECIPES:
        known = ", ".join(map(repr, RECIPES))
        msg = f"recipe={recipe!r} is not implemented in this backend; it has {known}"
        raise NotImplementedError(msg)
    contract.require_dtype("x", x, DTYPES)
    contract.require_dtype("global_encode_scale", global_encode_scale, (torch.float32,))
    contract.require_shape("x", x, ("m", "k"))
    m, k = x.shape
    contract.require_size("m", m, max=MAX_M)
    contract.require_size("k", k, min=K_STEP, max=MAX_K, multiple_of=K_STEP)
    contract.require_shape("global_encode_scale", global_encode_scale, ("1",), **{"1": 1})
    contract.require_one_device(x=x, global_encode_scale=global_encode_scale)
    contract.require_config(config, configs)
