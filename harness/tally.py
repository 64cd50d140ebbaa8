"""What one pass over an output and its reference counts, and what follows from it.

Errors are counted in ulps of the output dtype at the reference. A *step* is how far an element lies
from the reference rounded to that dtype: what remains of an error once the rounding that every
correct result makes, too, is taken away. A correct result's steps are the few roundings that its
accumulated error turned over; they do not lean to one side by more than that error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from harness.budget import mantissa_bits

if TYPE_CHECKING:
    from torch import Tensor

    from harness.budget import Budget

TILE: Final = 64  # rows and columns of the tiles whose largest errors make the picture
CLEAR: Final = 1 - 2.0**-18  # what the screen calls so far from the budget is within it
LARGEST_STEP: Final = 2.0**20  # in ulps: a wilder error counts as this in the sums
SHARP: Final = 0.25  # ulps: where accumulation may do more, an error says nothing of rounding
SIGMAS: Final = 6.0  # a sum of symmetric errors goes so far once in 2.5e8 (Hoeffding)
LEAST_COUNTED: Final = 1024


@dataclass(frozen=True)
class Operands:
    """What is compared, as matrices: all leading axes are rows. No data is copied for it."""

    actual: Tensor
    expected: Tensor
    magnitude: Tensor | None
    near_ties: Tensor | None
    budget: Budget

    @property
    def wide(self) -> bool:
        """Whether float64 takes part, so that float32 arithmetic would lose bits of it."""
        return torch.float64 in {self.actual.dtype, self.expected.dtype}

    @property
    def of_one_dtype(self) -> bool:
        """Whether equal bits are all there is to say of an element."""
        return self.actual.dtype == self.expected.dtype and not self.reach_varies

    def at(self, where: tuple[slice | Tensor, ...]) -> Operands:
        """A block of the operands, or some of their elements."""

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[where]

        return Operands(
            self.actual[where],
            self.expected[where],
            of(self.magnitude),
            of(self.near_ties),
            self.budget,
        )

    @property
    def reference_is_rounded(self) -> bool:
        """Whether the reference is no float64, so that half an ulp of its own dtype is its due."""
        return self.expected.dtype != torch.float64

    @property
    def steps_need_rounding(self) -> bool:
        """Whether the reference has more bits than the output."""
        return mantissa_bits(self.expected.dtype) > mantissa_bits(self.actual.dtype)

    @property
    def steps_tell(self) -> bool:
        """Whether the reference has at least the output's bits, or its own rounding would show."""
        return mantissa_bits(self.expected.dtype) >= mantissa_bits(self.actual.dtype)

    @property
    def reach_varies(self) -> bool:
        """Whether accumulation reaches differently far from element to element."""
        return self.magnitude is not None or self.near_ties is not None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The counts of one pass; sums are in ulps, over the ``counted`` elements.

    Counted is a finite element where accumulation may move a result by at most a quarter of an ulp;
    every finite element if the magnitude is ``|expected|`` itself.
    """

    total: int
    columns: int
    violations: int
    mismatches: int
    worst: float
    index: int
    actual: float
    expected: float
    counted: int
    steps: float
    steps_outward: float  # each with the sign of the reference: away from zero is positive
    squared_steps: float
    absolute: float
    squared: float
    allowance: float  # how far accumulation may move the counted elements, all to one side
    negative: bool  # the magnitude has a negative element, or near_ties
    unbounded: bool  # it is NaN or infinite where the reference is finite
    tiles: Tensor | None

    @property
    def bias(self) -> float:
        """Mean step, away from zero being positive."""
        return self.steps_outward / self.counted if self.counted else 0.0

    @property
    def bias_sigmas(self) -> float:
        """The mean step in units of its standard error."""
        spread = math.sqrt(self.squared_steps)
        return self.steps_outward / spread if spread else 0.0

    @property
    def rms(self) -> float:
        """Root mean square error."""
        return math.sqrt(self.squared / self.counted) if self.counted else 0.0

    @property
    def lean(self) -> float:
        """The mean step to one side that no correct result has, or 0; outward if that is larger."""
        if self.counted < LEAST_COUNTED:
            return 0.0
        most = SIGMAS * math.sqrt(self.squared_steps) + self.allowance
        largest = max(self.steps_outward, self.steps, key=abs)
        return largest / self.counted if abs(largest) > most else 0.0


def as_matrix(values: Tensor) -> Tensor:
    """``values`` with all leading axes as rows; a view wherever strides allow."""
    values = values.detach()
    if values.ndim < 2:  # noqa: PLR2004
        return values.reshape(1, -1)
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
