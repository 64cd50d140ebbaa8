"""Correct variants of SVDQuant's GEMMs with a fused end: sums and activation in fp32, one rounding.

Left out, because it is *not* correct: gelu as ``v / 2 * (1 + tanh(t))``, whose sum cancels where v
is far below 0. What is quantized is rounded first, as the contract has it; the next layer's codes
then follow from divisions that are IEEE's, and move where the sums do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.variants import variant
from suites.variants.orders import ORDERS
from suites.variants.svdq_gemm_w4a4 import Operands, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Product = Callable[[Operands], Tensor]

ACTIVATED = "svdq_gemm_w4a4_activated"
REQUANTIZED = "svdq_gemm_w4a4_requantized"
GROUP = 64
SHIFT = 0.171875
_FP16_MAX = 65504.0


@dataclass(frozen=True)
class Way:
    """How a variant adds, and takes its sigmoid, in which precision."""

    product: Product
    sigmoid: Callable[[Tensor], Tensor] = torch.sigmoid
    wide: torch.dtype = torch.float32


def _by_exp2(z: Tensor) -> Tensor:
    decay = torch.exp2(z.abs() * -math.log2(math.e))
    share: Tensor = torch.where(z < 0, decay, 1.0) / (1 + decay)
    return share


def _in_order(name: str) -> Product:
    return lambda of: ORDERS[name](of.terms().movedim(0, -1))


def _at_once(of: Operands) -> Tensor:
    return of.terms().sum(0)


WAYS = {
    "float64": Way(_at_once, wide=torch.float64),
    "vendor sums": Way(_at_once),
    "exp2": Way(_at_once, _by_exp2),
    **{f"{name}, exp2": Way(_in_order(name), _by_exp2) for name in ORDERS},
}


def _finished(
    way: Way,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    rest: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    *,
    alpha: float,
    act_unsigned: bool,
    activation: str,
) -> Tensor:
    codes, wcodes, ascales, wscales = operands
    lora_act, lora_up, bias, wcscales = (None if t is None else t.to(way.wide) for t in rest)
    acts, weights = unpacked(codes, signed=not act_unsigned), unpacked(wcodes, signed=True)
    scales = (ascales.to(way.wide), wscales.to(way.wide))
    v = way.product(Operands(acts.to(way.wide), weights.to(way.wide), *scales)) * alpha
    v = v if wcscales is None else v * wcscales
    v = v if bias is None else v + bias
    if lora_act is not None and lora_up is not None:
        v = v + lora_act @ lora_up.T
    if activation == "none":
        return v
    z = v if activation == "silu" else v * (math.sqrt(8 / math.pi) * (1 + 0.044715 * v * v))
    return v * way.sigmoid(z)


def _rounded(wide: Tensor, dtype: torch.dtype) -> Tensor:
    return (wide.clamp(-_FP16_MAX, _FP16_MAX) if dtype is torch.float16 else wide).to(dtype)


def _quantized(y: Tensor, smooth: Tensor, *, unsigned: bool) -> tuple[Tensor, Tensor]:
    x = (y.float() + SHIFT).to(y.dtype) if unsigned else y
    xs = (x.float() / smooth.float()).to(y.dtype).float().unflatten(1, (-1, GROUP))
    top = xs.abs().amax(2, keepdim=True)
    # By a number, a GPU multiplies by its reciprocal.
    scale = top / torch.full_like(top, 15.0 if unsigned else 7.0)
    codes = (xs / scale).round().nan_to_num(nan=0.0)
    codes = codes.clamp(0 if unsigned else -7, 15 if unsigned else 7).flatten(1)
    nibbles = codes.to(torch.int8) & 0xF
    packed = (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view(torch.uint8)
    return packed, scale.squeeze(2).T.to(y.dtype)


def _declare(name: str, way: Way) -> None:
    @variant(op=ACTIVATED, name=name)
    def activated(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        lora_act: Tensor | None,
        lora_up: Tensor | None,
        bias: Tensor | None,
        wcscales: Tensor | None,
        activation: str,
        alpha: float,
        act_unsigned: bool,  # noqa: FBT001
        out_dtype: torch.dtype | None,
    ) -> Tensor:
        y = _finished(
            way,
            (codes, wcodes, ascales, wscales),
            (lora_act, lora_up, bias, wcscales),
            alpha=alpha,
            act_unsigned=act_unsigned,
            activation=activation,
        )
        return _rounded(y, out_dtype or ascales.dtype)

    @variant(op=REQUANTIZED, name=name)
    def requantized(
        codes: Tensor,
        wcodes: Tensor,
        ascales: Tensor,
        wscales: Tensor,
        next_smooth: Tensor,
        next_lora_down: Tensor,
        lora_act: Tensor | None,
        lora_up: Tensor | None,
        bias: Tensor | None,
        wcscales: Tensor | None,
        activation: str,
        alpha: float,
        act_unsigned: bool,  # noqa: FBT001
        next_unsigned: bool,  # noqa: FBT001
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = _finished(
            way,
            (codes, wcodes, ascales, wscales),
            (lora_act, lora_up, bias, wcscales),
            alpha=alpha,
            act_unsigned=act_unsigned,
            activation=activation,
        )
        y = _rounded(wide, ascales.dtype)
        down = next_lora_down.to(way.wide)
        return (
            *_quantized(y, next_smooth, unsigned=next_unsigned),
            (y.to(way.wide) @ down).float(),
        )


for _name, _way in WAYS.items():
    _declare(_name, _way)
