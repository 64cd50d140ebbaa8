"""What was seen of a kernel, step by step: enough to say what caught it and whether it differs."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from harness.budget import UNIT_ROUNDOFF, ulp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.compare import Comparison
    from harness.reference import Truth

WORDS: Final = 300  # of a finding are kept
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_DOMINATED: Final = 4.0  # rounding to the output dtype outweighs accumulation by this factor


class Key(NamedTuple):
    """What names a step: the same in the trace of the original and in that of a mutant."""

    layer: str
    check: str
    dtype: str
    name: str


@dataclass(frozen=True)
class Errors:
    """Errors of some elements, in units of what rounding makes of a correct result."""

    count: int = 0
    squares: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.count + other.count,
            self.squares + other.squares,
            max(self.largest, other.largest),
        )

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """One output of one step: its bits, and its errors where there is a truth to hold it to.

    ``rounded`` are the elements whose error is dominated by rounding to the output dtype,
    ``summed`` the others; ``misplaced`` counts NaN and infinities where the truth has none, and the
    reverse. ``worst`` and ``violations`` are the harness's own verdict, ``rms`` is in ulps.
    """

    bits: str
    exact: bool = False
    rounded: Errors = Errors()
    summed: Errors = Errors()
    misplaced: int = 0
    worst: float = 0.0
    violations: int = 0
    rms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One case or probe: what the harness says of it, and what anybody could observe.

    ``outcome`` is what can be seen besides values: an exception, a refusal, launches, metadata,
    damage to memory; or whether a probe passed. ``oracles`` are what found it wrong. ``foreign``
    are the rules of others that rejected it.
    """

    key: Key
    family: str = ""
    config: str = ""
    layout: str = ""
    position: int = 0  # among the generated cases of its check, dtype and config
    oracles: tuple[str, ...] = ()
    words: str = ""
    outcome: str = ""
    results: Mapping[str, Result] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the harness found nothing wrong."""
        return not self.oracles


def digest(values: Tensor, *, signed_zero: bool = True) -> str:
    """A hash of the bits; a NaN counts as any NaN, and without ``signed_zero`` -0 as 0."""
    plain = values.detach()
    if plain.is_floating_point():
        plain = torch.where(plain.isnan(), torch.full_like(plain, math.nan), plain)
        plain = plain if signed_zero else torch.where(plain == 0, torch.zeros_like(plain), plain)
    raw = plain.contiguous().reshape(-1).view(_INTEGERS[plain.element_size()])
    found = hashlib.blake2b(repr((tuple(values.shape), values.dtype)).encode(), digest_size=12)
    found.update(raw.cpu().numpy().tobytes())
    return found.hexdigest()


def measure(actual: Tensor, truth: Truth, comparison: Comparison | None) -> Result:
    """What is kept of one output that has a truth.

    The unit of an element's error is half an ulp of the output dtype at the expected value, plus
    ``u sqrt(n)`` times the scale of its sums: what rounding alone makes of a correct result. It has
    neither the budget's safety factors nor its declared terms.
    """
    worst = min(comparison.worst, 1e300) if comparison else 0.0
    violations = comparison.violations if comparison else 0
    if truth.budget is None or actual.shape != truth.expected.shape:
        exact = truth.budget is None
        bits = digest(actual, signed_zero=truth.oracle != "bitwise")
        return Result(bits=bits, exact=exact, worst=worst, violations=violations)
    expected, value = truth.expected, actual.double()
    spacing = ulp(expected.abs(), truth.budget.dtype)
    sums = UNIT_ROUNDOFF * math.sqrt(truth.budget.terms_summed) * truth.scale
    error = (value - expected).abs()
    both = value.isfinite() & expected.isfinite() & truth.scale.isfinite()
    units = torch.where(both, error / (spacing / 2 + sums), 0.0)
    dominated = spacing / 2 >= _DOMINATED * sums
    ulps = torch.where(both, error / spacing, 0.0)
    same = (value == expected) | (value.isnan() & expected.isnan())
    return Result(
        bits=digest(actual, signed_zero=False),
        rounded=_errors(units, both & dominated),
        summed=_errors(units, both & ~dominated),
        misplaced=int((~(value.isfinite() & expected.isfinite()) & ~same).sum()),
        worst=worst,
        violations=violations,
        rms=float(ulps.square().mean().sqrt()) if ulps.numel() else 0.0,
    )


def _errors(units: Tensor, of: Tensor) -> Errors:
    chosen = units[of]
    if not chosen.numel():
        return Errors()
    return Errors(chosen.numel(), float(chosen.square().sum()), float(chosen.max()))
