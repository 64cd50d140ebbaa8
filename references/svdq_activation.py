"""The activations that SVDQuant's GEMMs fuse, with what they make of the error of their operand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness import Expected, Term
from harness.draws import normal, positive
from harness.values import Family

if TYPE_CHECKING:
    from torch import Generator, Tensor

ACTIVATIONS = ("silu", "gelu_tanh")
TERMS = (
    Term(
        ulps=5,
        because="ex2.approx is 2 ulp, rcp.approx 1 ulp, a sum and two products half an ulp each",
    ),
)
_LOWEST = {"silu": -1.278464542761074, "gelu_tanh": -0.7524614220710163}  # of their minimum
_SUBNORMAL = -86.0  # exp of less is subnormal in fp32, or is 0 where those are flushed


def near_the_bend(
    name: str, role: str, shape: tuple[int, ...], dtype: torch.dtype, generator: Generator
) -> Tensor | None:
    """Inputs whose sums are of the order of 1: beyond, an activation is the identity, or is 0.

    Codes of -8..7 have a mean square of 21.5, so 64 products of a group have a root of 172.
    """
    del role
    if name in {"ascales", "wscales"}:
        return positive(range(-1, 1), shape, generator) / math.sqrt(172 * math.sqrt(shape[0]))
    if name == "lora_up":
        return normal(shape, dtype, generator) / math.sqrt(shape[1])
    return None


FAMILIES = {"normal": Family(near_the_bend, random=True)}


def exponent(v: Tensor, activation: str) -> Tensor:
    """``z`` of ``v * sigmoid(z)``, which either activation is.

    ``silu``: v. ``gelu_tanh``: ``2 sqrt(2/pi) (v + 0.044715 v^3)``, because
    ``(1 + tanh(t)) / 2 = sigmoid(2 t)``; the tanh form of Hendrycks and Gimpel, arXiv:1606.08415.
    """
    if activation == "silu":
        return v
    cube: Tensor = v + 0.044715 * v**3
    return math.sqrt(8 / math.pi) * cube


def apply(v: Tensor, activation: str) -> Tensor:
    """``v * sigmoid(z)``; a NaN at minus infinity, as of the formula."""
    value: Tensor = v / (1 + (-exponent(v, activation)).exp())
    return value


def activated(before: Expected, activation: str, *, error: Tensor) -> Expected:
    """``before`` after the activation.

    ``error`` is how far a correct kernel's operand may lie from ``before.value``. Sums and squares
    are those of the operand times the steepest slope of the activation within it: at the flat end
    errors vanish, and where the operand cancels the slope at its value says nothing. To these
    comes the condition of the exponential, ``|z| (1 - sigmoid(z))``. Where ``exp(z)`` is
    subnormal, anything up to twice the value is right.
    """
    v = before.value
    value, z = apply(v, activation), exponent(v, activation)
    slope = _steepest(v, activation, error)
    condition = value.abs() * z.abs() / (1 + z.exp())
    magnitude = slope * before.magnitude + value.abs() + condition
    squares = before.magnitude.square() if before.squares is None else before.squares
    root = slope * (v.abs() / 3 + squares.sqrt()) + condition / 3
    known = value.isfinite() & v.isfinite()
    return Expected(
        value,
        torch.where(known, magnitude, 0.0),
        torch.where(known, root.square(), 0.0),
        torch.where(known & (z < _SUBNORMAL), value.abs(), 0.0),
    )


def _steepest(v: Tensor, activation: str, error: Tensor) -> Tensor:
    """The largest change of the activation within ``error`` of ``v``, per unit of ``error``."""
    value = apply(v, activation)
    lowest = torch.full_like(v, _LOWEST[activation])
    dips = (v - lowest).abs() < error
    ends = (v - error, v + error, torch.where(dips, lowest, v))
    changes = torch.stack([(apply(end, activation) - value).abs() for end in ends])
    return (changes.amax(0) / error).nan_to_num(0.0, 0.0, 0.0)
