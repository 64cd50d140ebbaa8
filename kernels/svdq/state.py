"""The state of an SVDQuant linear layer: keys, shapes, dtypes, and a check that names a fault.

=============  ============  ======  ==============================================
key            shape         dtype   meaning
=============  ============  ======  ==============================================
``qweight``    [out, in/2]   uint8   residual: two int4 codes a byte, even k low
``wscales``    [in/64, out]  half_t  scale of each group of 64 input channels
``smooth``     [in]          half_t  x is *divided* by it before quantization
``lora_down``  [in, rank]    half_t  acts on the raw x (1/smooth is folded in)
``lora_up``    [out, rank]   half_t  the branch is (x @ lora_down) @ lora_up^T
``bias``       [out]         half_t  optional
``wcscales``   [out]         half_t  optional, per output channel, after ``wscales``
=============  ============  ======  ==============================================

half_t is float16 or bfloat16, one for the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernels.contract import require_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

GROUP = 64
MIN_RANK = 16
HALF_DTYPES = (torch.float16, torch.bfloat16)
REQUIRED_KEYS = ("qweight", "wscales", "smooth", "lora_down", "lora_up")
OPTIONAL_KEYS = ("bias", "wcscales")
STATE_KEYS = REQUIRED_KEYS + OPTIONAL_KEYS
PACKED_REMEDY = (
    "int8 codes are nunchaku's packed layout, whose keys and shapes can equal ours: "
    "convert them with kernels.svdq.nunchaku.state_dict_from_nunchaku"
)


@dataclass(frozen=True)
class Sizes:
    """The three sizes that fix every shape of the state; ValueError when the ops cannot take one.

    The rank may exceed min(in_features, out_features): the surplus columns are zeros.
    """

    in_features: int
    out_features: int
    rank: int

    def __post_init__(self) -> None:
        require_size("in_features", self.in_features, min=GROUP, max=65536, multiple_of=GROUP)
        require_size("out_features", self.out_features, min=8, max=65536, multiple_of=8)
        require_size("rank", self.rank, min=MIN_RANK, max=256, multiple_of=MIN_RANK)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every state key."""
        return {
            "qweight": (self.out_features, self.in_features // 2),
            "wscales": (self.in_features // GROUP, self.out_features),
            "smooth": (self.in_features,),
            "lora_down": (self.in_features, self.rank),
            "lora_up": (self.out_features, self.rank),
            "bias": (self.out_features,),
            "wcscales": (self.out_features,),
        }


def check_half(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return `dtype` when it is a half_t, else raise TypeError."""
    if dtype not in HALF_DTYPES:
        msg = (
            f"{name}={dtype!r} must be torch.float16 or torch.bfloat16: "
            f"pass or convert to torch.bfloat16"
        )
        raise TypeError(msg)
    return dtype


def check_state(state: Mapping[str, Tensor]) -> Sizes:
    """The sizes of a layer's state; ValueError for keys and shapes, TypeError for dtypes."""
    check_keys(state, REQUIRED_KEYS, STATE_KEYS)
    check_matrices(state, ("qweight", "wscales", "lora_down"))
    out_features, half = state["qweight"].shape
    sizes = Sizes(2 * half, out_features, state["lora_down"].shape[1])
    check_dtypes(state)
    for key, shape in sizes.shapes().items():
        if key in state and tuple(state[key].shape) != shape:
            msg = (
                f"state[{key!r}] has shape {tuple(state[key].shape)!r}; it must be {shape!r}, for "
                f"in_features={sizes.in_features} and out_features={out_features} of qweight and "
                f"rank={sizes.rank} of lora_down"
            )
            raise ValueError(msg)
    return sizes


def check_keys(
    state: Mapping[str, object], required: tuple[str, ...], known: tuple[str, ...]
) -> None:
    """Raise ValueError when a required key is missing or a key is not known."""
    missing = [key for key in required if key not in state]
    unknown = [key for key in state if key not in known]
    if missing or unknown:
        msg = (
            f"missing keys {missing!r} and unknown keys {unknown!r}: a layer must have "
            f"{list(required)!r} and may have {[key for key in known if key not in required]!r}; "
            f"pass one layer's tensors, its prefix removed"
        )
        raise ValueError(msg)


def check_matrices(state: Mapping[str, Tensor], keys: tuple[str, ...]) -> None:
    """Raise ValueError unless each of these has two axes: sizes are read off them."""
    for key in keys:
        if state[key].ndim != 2:
            msg = f"{key} has shape {tuple(state[key].shape)!r}; it must have 2 axes"
            raise ValueError(msg)


def check_dtypes(state: Mapping[str, Tensor]) -> None:
    """Raise TypeError unless codes are uint8 and all else is one half_t."""
    if state["qweight"].dtype != torch.uint8:
        msg = (
            f"state['qweight'] has dtype {state['qweight'].dtype!r}, not torch.uint8: "
            f"{PACKED_REMEDY}"
        )
        raise TypeError(msg)
    half = check_half("state['wscales'].dtype", state["wscales"].dtype)
    for key, value in state.items():
        if key != "qweight" and value.dtype != half:
            msg = f"state[{key!r}] has dtype {value.dtype!r}; it must be {half!r}, as wscales has"
            raise TypeError(msg)
