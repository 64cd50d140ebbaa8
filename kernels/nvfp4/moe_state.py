"""The state of NVFP4's mixture of experts: keys, shapes, dtypes, and a check that names a fault.

====================================  ============  =============  ===============================
key                                   shape         dtype          meaning
====================================  ============  =============  ===============================
``gate_up_codes``                     [e, 2i, k/2]  uint8          rows of gate, then those of up
``gate_up_scales``                    [e, 2i', k']  float8_e4m3fn  of 16 inputs each, layout 128x4
``gate_up_global_encode_scale``       [e, 2]        float32        that of gate, that of up
``input_global_encode_scale``         [1]           float32        2688 / the largest input
``down_codes``                        [e, h, i/2]   uint8          two codes a byte, even i low
``down_scales``                       [e, h', i']   float8_e4m3fn  of 16 inputs each, layout 128x4
``down_global_encode_scale``          [e]           float32        a weight is ``code * scale / g``
``intermediate_global_encode_scale``  [e]           float32        2688 / the largest of each
====================================  ============  =============  ===============================

e experts, k inputs, i intermediate features, h outputs. 2i' and h' are rows in whole tiles of 128,
k' and i' blocks of 16 in whole tiles of 4, each expert by itself (`kernels.nvfp4.scale_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from kernels import contract
from kernels.nvfp4.domain import (
    BLOCK,
    K_STEP,
    MAX_EXPERTS,
    MAX_INTERMEDIATE,
    MAX_K,
    MAX_N,
    SCALE_DTYPE,
)
from kernels.nvfp4.scale_layout import padded_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FORMATS: Final[Mapping[str, torch.dtype]] = {
    "gate_up_codes": torch.uint8,
    "gate_up_scales": SCALE_DTYPE,
    "gate_up_global_encode_scale": torch.float32,
    "input_global_encode_scale": torch.float32,
    "down_codes": torch.uint8,
    "down_scales": SCALE_DTYPE,
    "down_global_encode_scale": torch.float32,
    "intermediate_global_encode_scale": torch.float32,
}
"""The dtype of every key; no conversion of the module changes it."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that fix every shape of the state; ValueError when the ops cannot take one."""

    experts: int
    in_features: int
    intermediate_features: int
    out_features: int

    def __post_init__(self) -> None:
        contract.require_size("experts", self.experts, min=1, max=MAX_EXPERTS)
        contract.require_size(
            "in_features", self.in_features, min=K_STEP, max=MAX_K, multiple_of=K_STEP
        )
        contract.require_size(
            "intermediate_features",
            self.intermediate_features,
            min=K_STEP,
            max=MAX_INTERMEDIATE,
            multiple_of=K_STEP,
        )
        contract.require_size("out_features", self.out_features, min=8, max=MAX_N, multiple_of=8)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every state key."""
        e, k, i = self.experts, self.in_features, self.intermediate_features
        return {
            "gate_up_codes": (e, 2 * i, k // 2),
            "gate_up_scales": (e, *padded_shape(2 * i, k // BLOCK)),
            "gate_up_global_encode_scale": (e, 2),
            "input_global_encode_scale": (1,),
            "down_codes": (e, self.out_features, i // 2),
            "down_scales": (e, *padded_shape(self.out_features, i // BLOCK)),
            "down_global_encode_scale": (e,),
            "intermediate_global_encode_scale": (e,),
        }


def check_state(state: Mapping[str, Tensor]) -> Sizes:
    """The sizes of a state; ValueError for keys and shapes, TypeError for dtypes."""
    missing = [key for key in FORMATS if key not in state]
    unknown = [key for key in state if key not in FORMATS]
    if missing or unknown:
        msg = (
            f"missing keys {missing!r} and unknown keys {unknown!r}: a mixture of experts must "
            f"have {list(FORMATS)!r}; pass one layer's tensors, its prefix removed, those of a "
            f"checkpoint by way of kernels.nvfp4.moe_checkpoints"
        )
        raise ValueError(msg)
    for key, value in state.items():
        contract.require_dtype(key, value, (FORMATS[key],))
    contract.require_shape("gate_up_codes", state["gate_up_codes"], ("e", "2i", "k/2"))
    contract.require_shape("down_codes", state["down_codes"], ("e", "h", "i/2"))
    experts, rows, half = state["gate_up_codes"].shape
    contract.require_size("2i", rows, max=2 * MAX_INTERMEDIATE, multiple_of=2 * K_STEP)
    sizes = Sizes(experts, 2 * half, rows // 2, state["down_codes"].shape[1])
    for key, shape in sizes.shapes().items():
        if tuple(state[key].shape) != shape:
            msg = (
                f"{key} has shape {tuple(state[key].shape)!r}; it must be {shape!r}, for "
                f"{sizes} of gate_up_codes and down_codes"
            )
            raise ValueError(msg)
    return sizes
