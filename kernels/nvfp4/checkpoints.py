"""Layers of published NVFP4 checkpoints as the state of an NVFP4 linear layer.

=====================  ======================  =====================  ============================
compressed-tensors     ModelOpt                dtype                  here
=====================  ======================  =====================  ============================
``weight_packed``      ``weight``              uint8 [out, in/2]      ``weight_codes``, as it is
``weight_scale``       ``weight_scale``        float8 [out, in/16]    ``weight_scales``, in tiles
``weight_global_scale`` ``weight_scale_2``     float32                encode, or decode: 1 / it
``input_global_scale`` ``input_scale``         float32                encode, or decode: 1 / it
``bias``               ``bias``                half_t                 ``bias``
=====================  ======================  =====================  ============================

compressed-tensors keeps global *encode* scales, ``2688 / amax``, ModelOpt *decode* scales, ``amax /
2688``; nothing in a tensor tells which. Read in vLLM's loaders of both, 2026-08.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from kernels import contract
from kernels.nvfp4.domain import BLOCK, SCALE_DTYPE
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales
from kernels.nvfp4.state import check_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class Naming:
    """How a library calls the parts of a layer, and which convention its global scales have."""

    codes: str
    scales: str
    weight_global: str
    input_global: str
    decode: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """What a layer must have."""
        return self.codes, self.scales, self.weight_global, self.input_global


COMPRESSED_TENSORS: Final = Naming(
    codes="weight_packed",
    scales="weight_scale",
    weight_global="weight_global_scale",
    input_global="input_global_scale",
    decode=False,
)
MODELOPT: Final = Naming(
    codes="weight",
    scales="weight_scale",
    weight_global="weight_scale_2",
    input_global="input_scale",
    decode=True,
)


def state_dict_from_compressed_tensors(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a layer whose keys are those of compressed-tensors, its prefix removed.

    Raises ValueError for keys, shapes, scales that are negative or NaN, and global scales that are
    not one positive number; TypeError for dtypes.
    """
    return _converted(layer, COMPRESSED_TENSORS)


def state_dict_from_modelopt(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a layer whose keys are those of ModelOpt, its prefix removed.

    Raises as `state_dict_from_compressed_tensors` does.
    """
    return _converted(layer, MODELOPT)


def state_dict_to_compressed_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `state_dict_from_compressed_tensors`, byte for byte."""
    sizes = check_state(state)
    scales = unswizzle_scales(
        state["weight_scales"], sizes.out_features, sizes.in_features // BLOCK
    )
    made = {
        "weight_packed": state["weight_codes"],
        "weight_scale": scales,
        "weight_global_scale": state["weight_global_encode_scale"],
        "input_global_scale": state["input_global_encode_scale"],
    }
    return made | {key: state[key] for key in ("bias",) if key in state}


def _converted(layer: Mapping[str, Tensor], naming: Naming) -> dict[str, Tensor]:
    missing = [key for key in naming.keys if key not in layer]
    unknown = [key for key in layer if key not in (*naming.keys, "bias")]
    if missing or unknown:
        msg = (
            f"missing keys {missing!r} and unknown keys {unknown!r}: a layer must have "
            f"{list(naming.keys)!r} and may have 'bias'; pass one layer's tensors, its prefix "
            f"removed, to the function of the library that wrote them"
        )
        raise ValueError(msg)
    codes, scales = layer[naming.codes], layer[naming.scales]
    contract.require_dtype(naming.codes, codes, (torch.uint8,))
    contract.require_shape(naming.codes, codes, ("out", "in/2"))
    blocks = {"out": codes.shape[0], "in/16": codes.shape[1] * 2 // BLOCK}
    contract.require_dtype(naming.scales, scales, (SCALE_DTYPE,))
    contract.require_shape(naming.scales, scales, ("out", "in/16"), **blocks)
    _require_positive_scales(naming.scales, scales)
    state = {
        "weight_codes": codes,
        "weight_scales": swizzle_scales(scales),
        "weight_global_encode_scale": _encode_scale(layer, naming.weight_global, naming),
        "input_global_encode_scale": _encode_scale(layer, naming.input_global, naming),
    }
    state |= {key: layer[key] for key in ("bias",) if key in layer}
    check_state(state)
    return state


def _require_positive_scales(name: str, scales: Tensor) -> None:
    """A NaN among exported scales has been met; a sign is not read by hardware that has NVFP4."""
    wrong = scales.view(torch.uint8) >= 0x7F
    if count := int(wrong.sum()):
        first = [int(place) for place in wrong.nonzero()[0]]
        msg = (
            f"{name} has {count} scales that are NaN or negative, the first at {first}; each must "
            f"be in 0..448: export the checkpoint again"
        )
        raise ValueError(msg)


def _encode_scale(layer: Mapping[str, Tensor], name: str, naming: Naming) -> Tensor:
    """The one global scale of a layer, by its encode convention."""
    given = layer[name]
    contract.require_dtype(name, given, (torch.float32,))
    values = given.detach().reshape(-1)
    if not values.numel() or not bool((values == values[0]).all()):
        msg = (
            f"{name} has the values {values.tolist()!r}; a layer has one: split fused projections, "
            f"or quantize them again with a common global scale"
        )
        raise ValueError(msg)
    one = values[:1].clone()
    encode = (one.double().reciprocal()).float() if naming.decode else one
    if not 0 < float(encode) < float("inf"):
        convention = "decode (amax / 2688)" if naming.decode else "encode (2688 / amax)"
        msg = f"{name}={float(one)!r} is no {convention} scale; it must be positive and finite"
        raise ValueError(msg)
    return encode
