"""Near ties: what a quantized intermediate may change by flipping codes, and no more.

A kernel that computes a quotient with a small error rounds it to the same code as the reference,
except where the exact quotient lies so near a midpoint of two codes that either is right. There the
output may differ by the distance of the two codes times what one unit of code is worth.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class InvalidCodes(ValueError):
    """Codes that are no ascending sequence of numbers, or an error that is no small bound."""


def near_tie_steps(quotient: Tensor, codes: Sequence[float], *, error: float) -> Tensor:
    """How far apart the two codes are that ``quotient`` may round to; 0 where one alone is right.

    ``quotient`` is exact, float64, before it is rounded to the nearest of ``codes``, ascending;
    ``error`` bounds the relative error with which a correct kernel knows it, e.g. ``2 * 2**-24``.
    Nothing is near a tie beyond the first and the last code, nor at ``error=0``, where exact ties
    go to the even code in every correct kernel. Raises InvalidCodes.
    """
    _check(codes, error)
    grid = torch.tensor(codes, dtype=torch.float64, device=quotient.device)
    middles, steps = (grid[1:] + grid[:-1]) / 2, grid.diff()
    known = quotient.nan_to_num(0.0)
    right = torch.searchsorted(middles, known).clamp_max(len(middles) - 1)
    left = (right - 1).clamp_min(0)
    to_left, to_right = (known - middles[left]).abs(), (known - middles[right]).abs()
    nearer = torch.where(to_left < to_right, left, right)
    reach = known.abs() * error / (1 - error)
    near = (torch.minimum(to_left, to_right) <= reach) & (reach > 0)
    return torch.where(near, steps[nearer], 0.0)


def near_tie_mass(
    quotient: Tensor,
    codes: Sequence[float],
    *,
    error: float,
    unit: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """The absolute change that near ties may make in each output element, for ``Expected``.

    ``unit`` is what one unit of code is worth, e.g. the scale of its group, as broadcast against
    ``quotient [..., k]``; the codes are then summed over k with ``weight [k, n]``, or stay apart.
    """
    mass = near_tie_steps(quotient, codes, error=error) * unit.abs()
    return mass if weight is None else mass @ weight.abs()


def _check(codes: Sequence[float], error: float) -> None:
    ascending = all(low < high for low, high in itertools.pairwise(codes))
    if len(codes) < 2 or not ascending or not all(map(math.isfinite, codes)):  # noqa: PLR2004
        msg = f"codes={list(codes)!r}; give at least two finite numbers, ascending"
        raise InvalidCodes(msg)
    if not 0 <= error < 1:
        msg = f"error={error!r}; give a relative bound, 0 <= error < 1, such as 2 * 2**-24"
        raise InvalidCodes(msg)
