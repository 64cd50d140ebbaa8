"""Checks of what SVDQuant's fused GEMMs take beside the arguments of the plain one.

They read metadata only, so a kernel and its fake run the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels import contract
from kernels.svdq.domain import GROUP, MAX_N, MAX_R

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor


def check_activation(activation: object, known: Collection[str]) -> None:
    """Raise TypeError or ValueError unless ``activation`` is one of the ``known`` names."""
    if not isinstance(activation, str):
        msg = f"activation={activation!r} is a {type(activation).__name__}; pass a name"
        raise TypeError(msg)
    if activation not in known:
        msg = f"activation={activation!r} is unknown; use one of {', '.join(map(repr, known))}"
        raise ValueError(msg)


def check_next(
    wcodes: Tensor,
    ascales: Tensor,
    next_smooth: Tensor,
    next_lora_down: Tensor,
    next_unsigned: bool,  # noqa: FBT001 - the order of the operator's schema
) -> None:
    """Raise TypeError or ValueError for what a next layer cannot take."""
    contract.require_dtype("next_smooth", next_smooth, (ascales.dtype,))
    contract.require_dtype("next_lora_down", next_lora_down, (ascales.dtype,))
    n = wcodes.shape[0]
    contract.require_size("n", n, min=GROUP, max=MAX_N, multiple_of=GROUP)
    contract.require_shape("next_smooth", next_smooth, ("n",), n=n)
    contract.require_shape("next_lora_down", next_lora_down, ("n", "r2"), n=n)
    contract.require_size("r2", next_lora_down.shape[1], min=16, max=MAX_R, multiple_of=16)
    contract.require_one_device(
        wcodes=wcodes, next_smooth=next_smooth, next_lora_down=next_lora_down
    )
    contract.require_flag("next_unsigned", next_unsigned)
