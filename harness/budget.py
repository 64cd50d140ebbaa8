"""The error budget: how far a correct result may lie from the float64 reference, and why.

For each element, with ``n`` summed terms, unit roundoff ``u`` of the accumulator and ``ulp`` of the
output dtype::

    acc     = u * (c * sqrt(n)  [+ 2.5 * ceil(n / 16) on tensor cores]) * scale
              + the op's declared terms + what near ties of a quantized intermediate allow
    allowed = ulp(|expected| + acc) / 2 + acc + smallest subnormal

``c`` and the factor of tensor cores are calibrated by arch (`harness.calibration`). ``scale`` is
the sum over absolute values, or where the terms have random signs ``|expected| + 3 sqrt(sum of
squares)``, which is sharper. Where the terms are no independent draws, ``c * sqrt(n)`` is at least
``n / 2``.

The square root is the probabilistic bound of Higham and Mary, "A new approach to probabilistic
rounding error analysis" (SIAM J. Sci. Comput. 41, 2019). Tensor cores truncate the partial sums of
a chain of matrix instructions, 16 terms deep, which gives the one-sided linear term: measured on an
H200, up to 1.88 u an instruction, on positive data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDING_SAFETY: Final = 4.0  # c: of 360 correct results of random sizes, 0 left the budget at 4
UNIT_ROUNDOFF: Final = 2.0**-24  # of the float32 accumulators that every kernel here uses
CHAIN_ROUNDOFF: Final = 2.5  # u per matrix instruction; measured, see the module's docstring
CHAIN_DEPTH: Final = 16

_MANTISSA_BITS: Final = {torch.float64: 52, torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
_EXPONENT: Final = 0x7FF << 52  # of a float64


class InvalidBudget(ValueError):
    """A budget with a negative, NaN or infinite term, or for a dtype that has no ulp."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What measurement gives the rule: ``c``, and what tensor cores lose per matrix instruction.

    ``provenance`` says where they come from, in words for a report.
    """

    safety: float = ROUNDING_SAFETY
    chain_roundoff: float = CHAIN_ROUNDOFF
    chain_depth: int = CHAIN_DEPTH
    provenance: str = "default constants, not calibrated"

    def __post_init__(self) -> None:
        for name, value in (("safety", self.safety), ("chain_roundoff", self.chain_roundoff)):
            if not (0 <= value < math.inf):
                msg = f"Constants {name}={value!r} ({self.provenance}); need a finite value >= 0"
                raise InvalidBudget(msg)
        if self.chain_depth < 1:
            msg = f"Constants chain_depth={self.chain_depth!r} ({self.provenance}); need at least 1"
            raise InvalidBudget(msg)


@dataclass(frozen=True)
class Within:
    """What an exact output may be where what it was made of is known to within an error.

    ``read`` turns the output into numbers, one or more an element along trailing axes; those of a
    right result lie between ``low`` and ``high``, both inclusive. Where these are NaN it must be
    NaN. Most are equal, and leave one result.
    """

    low: Tensor
    high: Tensor
    read: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Expected:
    """What the reference says of one output.

    ``magnitude`` is the same sums over absolute values. ``squares``, where given, the sums of the
    squared terms: partial sums of terms of random sign then stay below ``|value| + 3
    sqrt(squares)``, a sharper scale of rounding errors than ``magnitude``. ``near_ties``, where
    given, is the absolute change that codes of a quantized intermediate near a rounding tie may
    make by flipping. ``within``, of an exact output only, is what else than ``value`` is right.
    """

    value: Tensor
    magnitude: Tensor
    squares: Tensor | None = None
    near_ties: Tensor | None = None
    within: Within | None = None


@dataclass(frozen=True, kw_only=True)
class Term:
    """A declared extra error and the reason for it, which reports show.

    ``ulps`` of float32 are relative to ``|expected|``, ``relative`` is to ``magnitude``.
    """

    because: str
    ulps: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("ulps", self.ulps), ("relative", self.relative)):
            if not (0 <= value < math.inf):
                msg = f"Term {name}={value!r} (because={self.because!r}); need a finite value >= 0"
                raise InvalidBudget(msg)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The rule for one output of one case.

    ``random`` says that the terms of a sum are independent draws. Repeated or coarse terms round
    alike, and one chain over them errs by up to n/2 roundoffs: measured on squares of half-integers
    2.2 times what the square root allows at n = 65,536, on a repeated 0.7 5.7 times at 8,192.
    """

    dtype: torch.dtype
    terms_summed: int = 1
    tensor_core: bool = False
    random: bool = True
    terms: tuple[Term, ...] = ()
    constants: Constants = Constants()

    def __post_init__(self) -> None:
        if self.dtype not in _MANTISSA_BITS:
            msg = f"dtype={self.dtype} has no ulp; declare the output exact"
            raise InvalidBudget(msg)
        if self.terms_summed < 0:
            msg = f"terms_summed={self.terms_summed} is negative; give the number of summed terms"
            raise InvalidBudget(msg)

    @property
    def of_magnitude(self) -> float:
        """The error before the final rounding, relative to ``magnitude``."""
        known = self.constants
        chain = math.ceil(self.terms_summed / known.chain_depth) if self.tensor_core else 0
        of_sums = known.safety * math.sqrt(self.terms_summed)
        if not self.random:
            of_sums = max(of_sums, self.terms_summed / 2)
        of_sums += known.chain_roundoff * chain
        return UNIT_ROUNDOFF * of_sums + sum(term.relative for term in self.terms)

    @property
    def of_expected(self) -> float:
        """The error before the final rounding, relative to ``|expected|``."""
        return UNIT_ROUNDOFF * 2 * sum(term.ulps for term in self.terms)

    def accumulation(self, expected: Tensor, magnitude: Tensor) -> Tensor:
        """The error before the final rounding, elementwise, float64."""
        return self.of_magnitude * magnitude + self.of_expected * expected.abs()

    def declared(self, expected: Tensor, magnitude: Tensor) -> Tensor:
        """The part of the error that the op's terms declare, elementwise, float64."""
        relative = sum(term.relative for term in self.terms)
        return magnitude * relative + expected.abs() * self.of_expected

    def allowed(self, expected: Tensor, magnitude: Tensor) -> Tensor:
        """Largest |actual - expected| of a correct result, elementwise, float64."""
        acc = self.accumulation(expected, magnitude)
        return ulp(expected.abs() + acc, self.dtype) / 2 + acc + smallest_subnormal(self.dtype)


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Spacing of ``dtype`` at non-negative float64 ``values``; the subnormal spacing below."""
    normal = values.nan_to_num(0.0, 0.0, 0.0).clamp_min(torch.finfo(dtype).smallest_normal)
    # Not torch.ldexp: on a device that is not the current one it was seen to read illegal memory.
    binade = normal.view(torch.int64).bitwise_and(_EXPONENT).view(torch.float64)
    return binade * 2.0 ** -_MANTISSA_BITS[dtype]


def mantissa_bits(dtype: torch.dtype) -> int:
    """Explicit bits of the significand of ``dtype``; raises InvalidBudget for one without."""
    if dtype not in _MANTISSA_BITS:
        msg = f"dtype={dtype} has no ulp; use one of {', '.join(map(str, _MANTISSA_BITS))}"
        raise InvalidBudget(msg)
    return _MANTISSA_BITS[dtype]


def smallest_subnormal(dtype: torch.dtype) -> float:
    """The least positive value of ``dtype``."""
    return torch.finfo(dtype).smallest_normal * 2.0 ** -_MANTISSA_BITS[dtype]
