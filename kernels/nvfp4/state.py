"""The state of an NVFP4 linear layer: keys, shapes, dtypes, and a check that names a fault.

==============================  ============  =============  ====================================
key                             shape         dtype          meaning
==============================  ============  =============  ====================================
``weight_codes``                [out, in/2]   uint8          two E2M1 codes a byte, even k low
``weight_scales``               [out', in']   float8_e4m3fn  of 16 inputs each, layout 128x4
``weight_global_encode_scale``  [1]           float32        g: a weight is ``code * scale / g``
``input_global_encode_scale``   [1]           float32        2688 / the largest input expected
``bias``                        [out]         half_t         optional
==============================  ============  =============  ====================================

out' is out in whole tiles of 128, in' is in/16 in whole tiles of 4 (`kernels.nvfp4.scale_layout`).
half_t is float16 or bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from kernels import contract
from kernels.nvfp4.domain import BLOCK, DTYPES, K_STEP, MAX_K, MAX_N, SCALE_DTYPE
from kernels.nvfp4.scale_layout import padded_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FORMATS: Final[Mapping[str, tuple[torch.dtype, ...]]] = {
    "weight_codes": (torch.uint8,),
    "weight_scales": (SCALE_DTYPE,),
    "weight_global_encode_scale": (torch.float32,),
    "input_global_encode_scale": (torch.float32,),
}
"""The dtype of every key that a layer must have; no conversion of the layer changes it."""
STATE_KEYS: Final = (*FORMATS, "bias")


@dataclass(frozen=True)
class Sizes:
    """The two sizes that fix every shape of the state; ValueError when the ops cannot take one."""

    in_features: int
    out_features: int

    def __post_init__(self) -> None:
        contract.require_size(
            "in_features", self.in_features, min=K_STEP, max=MAX_K, multiple_of=K_STEP
        )
        contract.require_size("out_features", self.out_features, min=8, max=MAX_N, multiple_of=8)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every state key."""
        return {
            "weight_codes": (self.out_features, self.in_features // 2),
            "weight_scales": padded_shape(self.out_features, self.in_features // BLOCK),
            "weight_global_encode_scale": (1,),
            "input_global_encode_scale": (1,),
            "bias": (self.out_features,),
        }


def check_state(state: Mapping[str, Tensor]) -> Sizes:
    """The sizes of a layer's state; ValueError for keys and shapes, TypeError for dtypes."""
    missing = [key for key in FORMATS if key not in state]
    unknown = [key for key in state if key not in STATE_KEYS]
    if missing or unknown:
        msg = (
            f"missing keys {missing!r} and unknown keys {unknown!r}: a layer must have "
            f"{list(FORMATS)!r} and may have 'bias'; pass one layer's tensors, its prefix removed, "
            f"those of a checkpoint by way of kernels.nvfp4.checkpoints"
        )
        raise ValueError(msg)
    for key, value in state.items():
        contract.require_dtype(key, value, FORMATS.get(key, DTYPES))
    contract.require_shape("weight_codes", state["weight_codes"], ("out", "in/2"))
    out_features, half = state["weight_codes"].shape
    sizes = Sizes(2 * half, out_features)
    for key, shape in sizes.shapes().items():
        if key in state and tuple(state[key].shape) != shape:
            msg = (
                f"{key} has shape {tuple(state[key].shape)!r}; it must be {shape!r}, for "
                f"in_features={sizes.in_features} and out_features={out_features} of weight_codes"
            )
            raise ValueError(msg)
    return sizes
