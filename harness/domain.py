"""The legal sizes of an op: bounds, multiples and couplings, and the neighbours just outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness import expression
from harness.registry import WrongDeclaration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


UNBOUNDED: Final = 2**63 - 1  # an axis that no kernel has to bound


class InvalidDomain(WrongDeclaration):
    """A domain that admits nothing, or a coupling over an axis that is not there."""


@dataclass(frozen=True)
class Size:
    """Legal sizes of one axis: ``min <= value <= max`` and ``value % multiple_of == 0``."""

    min: int
    max: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.min < 0 or self.multiple_of < 1 or self.smallest > self.max:
            msg = f"{self} admits no size; need 0 <= min <= max with a multiple of it in between"
            raise InvalidDomain(msg)

    @property
    def smallest(self) -> int:
        """The least legal size."""
        return -(-self.min // self.multiple_of) * self.multiple_of

    def refusal(self, axis: str, value: int) -> str | None:
        """Why ``value`` is illegal, or None."""
        if not self.min <= value <= self.max:
            return f"{axis}={value} is outside {self.min}..{self.max}"
        if value % self.multiple_of:
            return f"{axis}={value} is not a multiple of {self.multiple_of}"
        return None

    def neighbours(self) -> tuple[int, ...]:
        """Illegal sizes next to the bounds and to the multiple, smallest first."""
        step = self.multiple_of
        base = max(self.smallest, step)
        near = {0, self.smallest - 1, base - 1, base + 1, base + step // 2, step // 2}
        if self.max < UNBOUNDED:
            near.add(self.max + 1)
        return tuple(sorted(v for v in near if v >= 0 and self.refusal("", v) is not None))


@dataclass(frozen=True)
class Domain:
    """Legal sizes of all axes of an op; ``couplings`` such as ``"r <= k"`` tie axes together."""

    sizes: Mapping[str, Size]
    couplings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for coupling in self.couplings:
            if unknown := expression.axes(coupling) - set(self.sizes):
                msg = f"coupling={coupling!r} names {sorted(unknown)}; axes: {sorted(self.sizes)}"
                raise InvalidDomain(msg)

    def refusals(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Every reason why ``sizes`` is outside the domain; empty when legal."""
        reasons = [self.sizes[axis].refusal(axis, value) for axis, value in sizes.items()]
        broken = [
            f"{c!r} does not hold" for c in self.couplings if not expression.evaluate(c, sizes)
        ]
        return (*(r for r in reasons if r), *broken)

    def smallest(self) -> dict[str, int]:
        """The least size of each axis, couplings left aside."""
        return {axis: size.smallest for axis, size in self.sizes.items()}

    def neighbours(self) -> Iterator[tuple[str, int]]:
        """Each (axis, value) just outside a bound or beside a multiple."""
        for axis, size in self.sizes.items():
            for value in size.neighbours():
                yield axis, value
