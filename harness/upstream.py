"""How accurate a kernel is beside what it was ported from: rms errors against the same float64.

The budget says whether a kernel is right. This says whether a migration lost accuracy: an op may
declare an emulation of its original's arithmetic, roundings of intermediates included, and both are
held against the dense reference on the same cases.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from harness.compare import InvalidReference
from harness.reference import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.budget import Expected
    from harness.case import Case
    from harness.declare import Op

TELLING: Final = 256  # elements from which a case's ratio is no accident: it scatters by 4 %


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The arithmetic of the kernel that an op's kernels are ported from.

    ``function`` takes what the op's reference takes, but tensors in their own dtypes, and returns
    what the original would: a tensor, or a mapping by output name that may leave outputs out. None
    says that the original has no result for such a case. ``source`` names where the arithmetic was
    read. A kernel is red where its rms error over a value family exceeds ``at_most`` times the
    original's; without it, the ratio is reported only.
    """

    function: Callable[..., object]
    source: str
    at_most: float | None = None


@dataclass(frozen=True)
class Point:
    """Root mean square errors over one output of one case, in units of the sums' magnitude."""

    case: str
    family: str
    output: str
    elements: int
    kernel: float
    original: float

    @property
    def ratio(self) -> float:
        """The kernel's error over the original's; 1 where both are exact."""
        return ratio([self])


def ratio(points: Iterable[Point]) -> float:
    """The ratio of the rms errors over all ``points``, each weighing alike."""
    squares = [(point.kernel**2, point.original**2) for point in points]
    kernel, original = sum(k for k, _ in squares), sum(o for _, o in squares)
    if not original:
        return 1.0 if not kernel else math.inf
    return math.sqrt(kernel / original)


@dataclass
class Ledger:
    """The points of one check, by value family."""

    points: list[Point] = field(default_factory=list)
    refused: int = 0  # cases for which the original has no result

    def add(
        self,
        case: Case,
        outputs: Mapping[str, Tensor],
        originals: Mapping[str, Tensor],
        values: Mapping[str, Expected],
    ) -> None:
        """Measure what kernel and original returned for a case against what they should."""
        for name, original in originals.items():
            if point := measure(case, name, outputs[name], original, values[name]):
                self.points.append(point)

    @property
    def telling(self) -> list[Point]:
        """The points of enough elements; all if there are none."""
        return [point for point in self.points if point.elements >= TELLING] or self.points

    @property
    def families(self) -> dict[str, float]:
        """The ratio over each family."""
        names = sorted({point.family for point in self.telling})
        return {name: ratio(self._of(name)) for name in names}

    @property
    def worst(self) -> Point:
        """The point of the greatest ratio in the family of the greatest; needs a point."""
        families = self.families
        return max(self._of(max(families, key=families.__getitem__)), key=lambda p: p.ratio)

    def _of(self, family: str) -> list[Point]:
        return [point for point in self.telling if point.family == family]

    def figures(self) -> dict[str, object]:
        """What a record keeps: nothing without a point."""
        found: dict[str, object] = {"upstream_refused": self.refused} if self.refused else {}
        if self.points:
            families = {name: _finite(value) for name, value in self.families.items()}
            found |= {"of_upstream_error": families, "worst_of_upstream": self.worst.case}
            found |= {"worst_of_upstream_error": _finite(self.worst.ratio)}
        return found

    def verdict(self, upstream: Upstream) -> str:
        """Words if a family's ratio is beyond what is declared."""
        if upstream.at_most is None or not self.points:
            return ""
        worst = self.worst
        found = self.families[worst.family]
        if found <= upstream.at_most:
            return ""
        return (
            f"less accurate than what it was ported from ({upstream.source}): over values="
            f"{worst.family} its rms error is {found:.3g} x the original's, at most "
            f"{upstream.at_most:g} x is declared; worst here, {worst.output}: {worst.kernel:.3g} "
            f"against {worst.original:.3g} of the magnitude, {worst.ratio:.3g} x"
        )


def original_of(op: Op, case: Case, inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """What the original would return for a case, by output; empty if it has no result.

    Raises InvalidReference for an output that the op has not, or of another shape.
    """
    if op.upstream is None:
        return {}
    function, params = op.upstream.function, op.param_values(dict(case.params))
    wants_dtype = "dtype" in inspect.signature(function).parameters and "dtype" not in params
    extra = {"dtype": dtype_of(case.dtype)} if wants_dtype else {}
    result = function(**inputs, **params, **extra)
    if result is None:
        return {}
    named = result if isinstance(result, dict) else {next(iter(op.outputs)): result}
    return {name: _checked(op, case, name, value) for name, value in named.items()}


def _checked(op: Op, case: Case, name: str, value: object) -> Tensor:
    dims = op.outputs[name].dims(case.size_of) if name in op.outputs else None
    if isinstance(value, Tensor) and tuple(value.shape) == dims:
        return value
    found = tuple(value.shape) if isinstance(value, Tensor) else value
    msg = f"upstream of {op.name} returned {name}={found!r}; need a tensor of shape {dims}"
    raise InvalidReference(msg)


def measure(
    case: Case, name: str, actual: Tensor, original: Tensor, expected: Expected
) -> Point | None:
    """The errors of one output; None if no element of it says anything.

    Elements whose reference does not fit the output's dtype are left out, and those that the
    original loses to an infinity or NaN: one of these would hide all the others.
    """
    wide = expected.value
    fits = wide.to(actual.dtype).isfinite() & original.isfinite() & expected.magnitude.isfinite()
    count = int(fits.sum())
    scale = _rms(expected.magnitude.double(), fits, count)
    if not count or not scale:
        return None
    kernel, reference = (_rms(found.double() - wide, fits, count) for found in (actual, original))
    return Point(case.id, case.values, name, count, kernel / scale, reference / scale)


def round_once(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """A float64 tensor in a narrower format, by one rounding to nearest, ties to even.

    Torch converts to the 16-bit formats by way of float32, and so rounds twice. Rounding the first
    time to odd leaves the second one right.
    """
    if dtype in {torch.float32, torch.float64}:
        return wide.to(dtype)
    near = wide.float()
    rest = wide - near.double()
    bits = near.view(torch.int32)
    # Sign and magnitude: the neighbour away from zero has the next larger bits.
    away = torch.where((rest > 0) == (near > 0), 1, -1)
    move = (rest != 0) & near.isfinite() & (near != 0) & (bits % 2 == 0)
    return (bits + torch.where(move, away, 0).int()).view(torch.float32).to(dtype)


def _rms(values: Tensor, where: Tensor, count: int) -> float:
    kept = torch.where(where, values, 0.0)
    found = math.sqrt(float(kept.square().sum()) / count) if count else 0.0
    return math.inf if math.isnan(found) else found


def _finite(value: float) -> float:
    return min(round(value, 4), 1e300)  # JSON has no infinity
