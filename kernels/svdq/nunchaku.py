"""Checkpoints of nunchaku to and from this layer's state: key by key, unpacked, exactly.

===============  ======================  =============  ==================================
C++ loader       nunchaku.models         ours           conversion
===============  ======================  =============  ==================================
``qweight``      ``qweight``             ``qweight``    int8 -> uint8, words permuted
``wscales``      ``wscales``             ``wscales``    permuted
``bias``         ``bias``                ``bias``       permuted
``smooth``       ``smooth_factor``       ``smooth``     permuted; both divide x by it
``smooth_orig``  ``smooth_factor_orig``                 dropped: no kernel reads it
``lora_down``    ``proj_down``           ``lora_down``  permuted; both act on the raw x
``lora_up``      ``proj_up``             ``lora_up``    permuted
``wcscales``     ``wcscales``            ``wcscales``   permuted
``wtscale``      ``wtscale``                            must be 1 for int4
===============  ======================  =============  ==================================

Nunchaku pads N and K to multiples of 128 (weights and factors with 0, scales and smoothing with 1)
and the rank to a multiple of 16 and does not store the sizes before: the layer has the padded ones.

int4 is what is validated. An nvfp4 layer is refused; `nvfp4_scales_from_nunchaku` reads its scales
(retained, not gated).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.contract import require_size
from kernels.svdq import nunchaku_layouts as layouts
from kernels.svdq.decompose import dequantize_int4
from kernels.svdq.state import GROUP, MIN_RANK, check_half, check_keys, check_matrices, check_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

GELU_SHIFT = 0.171875
_OUR_NAMES = {
    "smooth_factor": "smooth",
    "smooth_factor_orig": "smooth_orig",
    "proj_down": "lora_down",
    "proj_up": "lora_up",
}
_THEIR_NAMES = {ours: theirs for theirs, ours in _OUR_NAMES.items()}
_REQUIRED = ("qweight", "wscales", "smooth")
_KNOWN = (*_REQUIRED, "lora_down", "lora_up", "bias", "wcscales", "smooth_orig", "wtscale")


def state_dict_from_nunchaku(raw: Mapping[str, Tensor], *, shift: float = 0.0) -> dict[str, Tensor]:
    """Return the state for ``SVDQW4A4Linear.from_state_dict`` from one int4 layer's raw tensors.

    Args:
        raw: the layer's tensors, prefix removed, by either family of names.
        shift: what upstream adds to the layer's input before quantizing it; it is folded into the
            bias. Nunchaku's fused GELU adds 0.171875 (`GELU_SHIFT`), and the int4 layer behind it
            (mlp_fc2, net.2) has a bias corrected for that. No tensor shows it: the caller says so.

    Raises:
        ValueError: keys missing or unknown, a shape or a value that no int4 layer has.
        TypeError: a dtype that no int4 layer has.

    """
    tensors = _by_our_names(raw)
    _refuse_nvfp4(tensors)
    _check_packed(tensors)
    state = {
        "qweight": layouts.unpack_qweight(tensors["qweight"]),
        "wscales": layouts.unpack_wscales(tensors["wscales"]),
        "smooth": layouts.unpack_channels(tensors["smooth"]),
        "lora_down": layouts.unpack_lora(tensors["lora_down"], layouts.LORA_DOWN),
        "lora_up": layouts.unpack_lora(tensors["lora_up"], layouts.LORA_UP),
    }
    state |= {
        key: layouts.unpack_channels(tensors[key]) for key in ("bias", "wcscales") if key in tensors
    }
    check_state(state)
    _check_smooth(state["smooth"])
    if shift:
        state["bias"] = _bias_without_shift(state, shift)
    return state


def state_dict_to_nunchaku(
    state: Mapping[str, Tensor], *, names: Literal["module", "loader"] = "module"
) -> dict[str, Tensor]:
    """The raw tensors of one layer, packed, from the state of an ``SVDQW4A4Linear``.

    Args:
        state: a layer's state with N and K multiples of 128 and rank a multiple of 16.
        names: "module" as ``nunchaku.models`` has them (smooth_factor, proj_down), "loader" as the
            C++ loader has them (smooth, lora_down).

    Raises:
        ValueError: keys or shapes of no layer, or sizes that nunchaku's layouts lack.
        TypeError: a dtype of no layer.

    """
    if names not in {"module", "loader"}:
        msg = f"names={names!r} must be 'module' or 'loader'"
        raise ValueError(msg)
    sizes = check_state(state)
    _check_sizes(sizes.in_features, sizes.out_features, sizes.rank)
    packed = {
        "qweight": layouts.pack_qweight(state["qweight"]),
        "wscales": layouts.pack_wscales(state["wscales"]),
        "smooth": layouts.pack_channels(state["smooth"]),
        "smooth_orig": layouts.pack_channels(state["smooth"]),
        "lora_down": layouts.pack_lora(state["lora_down"], layouts.LORA_DOWN),
        "lora_up": layouts.pack_lora(state["lora_up"], layouts.LORA_UP),
    }
    packed |= {
        key: layouts.pack_channels(state[key]) for key in ("bias", "wcscales") if key in state
    }
    return {
        _THEIR_NAMES.get(key, key) if names == "module" else key: value
        for key, value in packed.items()
    }


def nvfp4_scales_from_nunchaku(raw: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Group scales e4m3 [K/16, N] and channel scales [N] of an nvfp4 layer (retained, not gated).

    cache-dit exports the two under each other's names and nunchaku does not: the dtype tells them
    apart.
    """
    found = {key: raw[key] for key in ("wscales", "wcscales") if key in raw}
    groups = [value for value in found.values() if value.dtype == torch.float8_e4m3fn]
    channels = [value for value in found.values() if value.dtype != torch.float8_e4m3fn]
    if len(groups) != 1:
        dtypes = {key: value.dtype for key, value in found.items()}
        msg = f"scale dtypes {dtypes!r} must hold torch.float8_e4m3fn once: not an nvfp4 layer"
        raise TypeError(msg)
    channel_scales = layouts.unpack_channels(channels[0]) if channels else None
    return layouts.unpack_nvfp4_wscales(groups[0]), channel_scales


def _by_our_names(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, value in raw.items():
        ours = _OUR_NAMES.get(key, key)
        if ours in tensors:
            msg = f"raw has {ours!r} and {_THEIR_NAMES[ours]!r}, two names of one tensor; pass one"
            raise ValueError(msg)
        tensors[ours] = value
    if "lora_down" in tensors or "lora_up" in tensors:
        check_keys(tensors, (*_REQUIRED, "lora_down", "lora_up"), _KNOWN)
        check_matrices(tensors, ("qweight", "lora_down"))
        return tensors
    check_keys(tensors, _REQUIRED, _KNOWN)
    check_matrices(tensors, ("qweight",))
    # Upstream leaves out a branch of rank 0; the ops here want one, and zeros add nothing.
    rows, half = tensors["qweight"].shape
    zeros = tensors["wscales"].new_zeros
    return tensors | {"lora_down": zeros(2 * half, MIN_RANK), "lora_up": zeros(rows, MIN_RANK)}


def _refuse_nvfp4(tensors: Mapping[str, Tensor]) -> None:
    for key in ("wscales", "wcscales"):
        if key in tensors and tensors[key].dtype == torch.float8_e4m3fn:
            msg = (
                f"raw[{key!r}] has dtype {tensors[key].dtype!r}: an nvfp4 layer, and only int4 "
                f"ones are converted; take the int4 file of the checkpoint"
            )
            raise TypeError(msg)


def _check_packed(tensors: Mapping[str, Tensor]) -> None:
    """Shapes and dtypes of the packed tensors, before an index formula reads them."""
    codes = tensors["qweight"]
    if codes.dtype != torch.int8:
        msg = (
            f"raw['qweight'] has dtype {codes.dtype!r}; nunchaku's W4A4 codes are torch.int8 "
            f"(int32 is its AWQ W4A16, which this layer does not compute)"
        )
        raise TypeError(msg)
    rows, columns, rank = codes.shape[0], 2 * codes.shape[1], tensors["lora_down"].shape[-1]
    _check_sizes(columns, rows, rank)
    half = check_half("raw['wscales'].dtype", tensors["wscales"].dtype)
    expected = {
        "wscales": (columns // GROUP, rows),
        "smooth": (columns,),
        "smooth_orig": (columns,),
        "lora_down": (columns, rank),
        "lora_up": (rows, rank),
        "bias": (rows,),
        "wcscales": (rows,),
    }
    for key, shape in expected.items():
        if key in tensors:
            _check_one(key, tensors[key], shape, half)
    _check_global_scale(tensors.get("wtscale"))


def _check_one(key: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(value.shape) != shape:
        found = tuple(value.shape)
        msg = f"raw[{key!r}] has shape {found!r}; it must be {shape!r} beside this qweight"
        raise ValueError(msg)
    if value.dtype != dtype:
        msg = (
            f"raw[{key!r}] has dtype {value.dtype!r}; it must be {dtype!r}, as wscales has: "
            f"convert with .to({dtype!r})"
        )
        raise TypeError(msg)


def _check_sizes(in_features: int, out_features: int, rank: int) -> None:
    require_size("in_features", in_features, min=128, max=65536, multiple_of=128)
    require_size("out_features", out_features, min=128, max=65536, multiple_of=128)
    require_size("rank", rank, min=MIN_RANK, max=256, multiple_of=MIN_RANK)


def _check_global_scale(wtscale: Tensor | None) -> None:
    if wtscale is None:
        return
    values = torch.as_tensor(wtscale).flatten().tolist()
    if values != [1.0]:
        msg = f"raw['wtscale']={values!r} must be [1.0] in an int4 layer: fold it into wcscales"
        raise ValueError(msg)


def _check_smooth(smooth: Tensor) -> None:
    bad = ~torch.isfinite(smooth) | (smooth == 0)
    if bad.any():
        channel = int(bad.nonzero()[0])
        msg = (
            f"smooth[{channel}]={smooth[channel].item()!r} ({int(bad.sum())} such channels); x is "
            f"divided by it, so it must be finite and not 0: set it to 1 and repack"
        )
        raise ValueError(msg)


def _bias_without_shift(state: Mapping[str, Tensor], shift: float) -> Tensor:
    """The bias for the raw x: upstream has residual @ ((x + shift) / smooth), the branch on x."""
    residual = dequantize_int4(state["qweight"], state["wscales"])
    if "wcscales" in state:
        residual = residual * state["wcscales"].double().unsqueeze(1)
    moved = residual @ (shift / state["smooth"].double())
    bias = state.get("bias")
    return (moved if bias is None else bias.double() + moved).to(state["wscales"].dtype)
