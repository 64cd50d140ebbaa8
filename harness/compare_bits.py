"""An output of its reference's own dtype: elements of equal bits are right, and need no arithmetic.

A block in which few bits differ is counted by its differing elements, each judged exactly. The sums
are those of the screen: equal elements have an error and a step of zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from harness.budget import mantissa_bits
from harness.compare_elements import judged
from harness.tally import TILE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.compare_elements import Judged
    from harness.compare_screen import Counts
    from harness.tally import Operands

BLOCK: Final = 1 << 20  # elements whose bits are compared together
_FEW: Final = 16  # if more than one in so many differ, the screen is faster
_INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def count_by_bits(part: Operands, counts: Counts) -> Tensor | None:
    """Count a block by its elements of different bits, unless they are many: then None.

    Returns the largest error of each tile, in units of the budget.
    """
    kind = _INTEGERS[part.actual.dtype.itemsize]
    actual, expected = (values.view(kind).numpy() for values in (part.actual, part.expected))
    differs = actual != expected
    if np.count_nonzero(differs) * _FEW > differs.size:
        return None
    # Not np.nonzero, which takes ten times as long in two dimensions.
    where = divmod(np.flatnonzero(differs), differs.shape[1])
    down, right = (torch.from_numpy(place) for place in where)
    verdict = judged(part.at((down, right)))
    _add(verdict, part.expected[down, right], part, counts)
    infinity = int(torch.tensor(torch.inf, dtype=part.actual.dtype).view(kind))
    exponents = expected & infinity
    finite = int(verdict.finite.count_nonzero()) + differs.size - verdict.finite.numel()
    if exponents.max() == infinity:
        finite -= np.count_nonzero((exponents == infinity) & ~differs)
    counts.counted += finite
    counts.allowance += finite * 4 * (part.budget.of_magnitude + part.budget.of_expected)
    high, wide = (math.ceil(length / TILE) for length in differs.shape)
    places = down // TILE * wide + right // TILE
    tiles = torch.zeros(high * wide)
    return tiles.scatter_reduce_(0, places, verdict.units.float(), "amax").view(high, wide)


def _add(verdict: Judged, expected: Tensor, part: Operands, counts: Counts) -> None:
    """Add the sums of elements judged one by one, in units of the screen."""
    ulp = 2.0 ** (1 - mantissa_bits(part.budget.dtype))
    error, step = verdict.error * ulp, verdict.step * ulp
    counts.violations += int(verdict.wrong.sum())
    counts.mismatches += int(verdict.mismatch.sum())
    counts.absolute += float(error.abs().sum())
    counts.squared += float(error.square().sum())
    counts.squared_steps += float(step.square().sum())
    counts.steps += float(step.sum())
    counts.steps_outward += float(torch.where(expected.signbit(), -step, step).sum())
