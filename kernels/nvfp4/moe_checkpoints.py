"""Experts of published NVFP4 checkpoints as the state of a mixture of experts.

Each expert has three linear layers with the tensors of `kernels.nvfp4.checkpoints`, in either
convention: ``0.gate_proj.weight_packed``, ``0.up_proj...``, ``0.down_proj...``, ``1.gate_proj...``.
Codes and scales stay as they are, byte for byte, and so do the global scales of weights and of
intermediates. The input is quantized once for all experts, as vLLM does: by the smallest of their
global encode scales, so that none saturates where it did not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from kernels.nvfp4 import checkpoints
from kernels.nvfp4.domain import BLOCK
from kernels.nvfp4.moe_state import check_state
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    State = dict[str, Tensor]

PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")


def state_dict_from_compressed_tensors(
    experts: Mapping[str, Tensor], *, projections: Sequence[str] = PROJECTIONS
) -> dict[str, Tensor]:
    """The state of experts whose keys are those of compressed-tensors, their prefix removed.

    ``projections`` are the names of gate, up and down: ``("w1", "w3", "w2")`` in some checkpoints.
    Raises ValueError for keys, shapes, and scales that are none; TypeError for dtypes.
    """
    return _converted(experts, projections, checkpoints.state_dict_from_compressed_tensors)


def state_dict_from_modelopt(
    experts: Mapping[str, Tensor], *, projections: Sequence[str] = PROJECTIONS
) -> dict[str, Tensor]:
    """The state of experts whose keys are those of ModelOpt, their prefix removed.

    As `state_dict_from_compressed_tensors`.
    """
    return _converted(experts, projections, checkpoints.state_dict_from_modelopt)


def _converted(
    experts: Mapping[str, Tensor],
    projections: Sequence[str],
    of_layer: Callable[[Mapping[str, Tensor]], State],
) -> State:
    layers = [
        [_layer(expert, name, parts, of_layer) for name in projections]
        for expert, parts in enumerate(_by_expert(experts, projections))
    ]
    gates, ups, downs = zip(*layers, strict=True)
    inputs = [layer["input_global_encode_scale"] for layer in (*gates, *ups)]
    both = [torch.cat((_rows(gate), _rows(up))) for gate, up in zip(gates, ups, strict=True)]
    state = {
        "gate_up_codes": torch.stack(
            [
                torch.cat((gate["weight_codes"], up["weight_codes"]))
                for gate, up in zip(gates, ups, strict=True)
            ]
        ),
        "gate_up_scales": _laid_out(both),
        "gate_up_global_encode_scale": torch.stack([_globals(gates), _globals(ups)], 1),
        "input_global_encode_scale": torch.cat(inputs).amin().reshape(1),
        "down_codes": torch.stack([down["weight_codes"] for down in downs]),
        "down_scales": _laid_out([_rows(down) for down in downs]),
        "down_global_encode_scale": _globals(downs),
        "intermediate_global_encode_scale": torch.cat(
            [down["input_global_encode_scale"] for down in downs]
        ),
    }
    check_state(state)
    return state


def _by_expert(
    experts: Mapping[str, Tensor], projections: Sequence[str]
) -> list[dict[str, dict[str, Tensor]]]:
    """Tensors by expert, projection and the rest of the key."""
    found: dict[int, dict[str, dict[str, Tensor]]] = {}
    for key, value in experts.items():
        number, _, rest = key.partition(".")
        projection, _, part = rest.partition(".")
        if not number.isdecimal() or projection not in projections or not part:
            msg = (
                f"key {key!r} is not of the form '0.{projections[0]}.weight_scale', with a "
                f"projection of {list(projections)!r}; remove the prefix of the layer's experts, "
                f"or give projections=(gate, up, down)"
            )
            raise ValueError(msg)
        found.setdefault(int(number), {}).setdefault(projection, {})[part] = value
    missing = [number for number in range(max(found, default=0) + 1) if number not in found]
    if missing:
        msg = f"experts {missing!r} have no tensors; pass all, numbered from 0 on"
        raise ValueError(msg)
    return [found[number] for number in range(len(found))]


def _layer(
    expert: int,
    name: str,
    parts: Mapping[str, Mapping[str, Tensor]],
    of_layer: Callable[[Mapping[str, Tensor]], State],
) -> State:
    given = parts.get(name, {})
    if "bias" in given:
        msg = f"{expert}.{name}.bias is there; experts with a bias are not supported: fold it away"
        raise ValueError(msg)
    try:
        return of_layer(given)
    except (TypeError, ValueError) as error:
        msg = f"{expert}.{name}: {error}"
        raise type(error)(msg) from error


def _rows(layer: State) -> Tensor:
    """The scales of a layer as bytes in rows and columns."""
    rows, half = layer["weight_codes"].shape
    scales = unswizzle_scales(layer["weight_scales"], rows, 2 * half // BLOCK)
    return scales.view(torch.uint8)


def _laid_out(octets: Sequence[Tensor]) -> Tensor:
    return swizzle_scales(torch.stack(list(octets)).view(torch.float8_e4m3fn))


def _globals(layers: Sequence[State]) -> Tensor:
    return torch.cat([layer["weight_global_encode_scale"] for layer in layers])
