"""Says which part of the transformer is wrong, and how far each is from its dense twin.

Pure: what was compared and measured in, a ``MoEResult`` out. Parts are layers and blocks:

1. *Each part against what it must do.* A layer on the input that it met, and on that of the dense
   twin, against its recipe (``suites.e2e.moe.recipe``), element by element within the error budget;
   what it was given, and what a block returns, against the dense twin's norms, attention, routing
   and sums over the very outputs of the layers, in float32. So a fault is found where it is.
2. *Each part against the dense one*, the noise of the format: on its own input, on that of the
   dense twin, and after all that came before it. How far that may be is not guessed: layers that
   compute the recipe by the references ran beside it, and ``MARGIN`` times their error is allowed.
3. *The router.* The errors above are with the dense twin's choice of experts, because one token
   that goes to another expert says nothing of a kernel and is an error as large as the token. How
   many of its own choices are the twin's is reported and bounded beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from suites.e2e.judge import Bound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.compare import Comparison

# Of 72 simulations whose layers were disturbed by 1e-7 to 1e-5 of their magnitude, which flips
# codes, none had a part 1.16 times as far from the dense one as the undisturbed simulation has.
MARGIN: Final = 1.3
DETOURS: Final = 2


@dataclass(frozen=True)
class Figure:
    """A number and how large or small it may be."""

    name: str
    value: float
    bound: Bound

    def failures(self) -> tuple[str, ...]:
        """What is wrong with it, in words."""
        wrong = f"{self.name} {self.value:.4f}, need {self.bound}"
        return () if self.bound.admits(self.value) else (wrong,)


@dataclass(frozen=True)
class Part:
    """A layer or a block: held to what it must do, and its distances to the dense one."""

    name: str
    comparisons: Mapping[str, Comparison]
    errors: tuple[Figure, ...]

    def failures(self) -> tuple[str, ...]:
        """What is wrong with it, in words."""
        compared = [f"{what}: {c}" for what, c in self.comparisons.items() if not c.passed]
        far = [words for error in self.errors for words in error.failures()]
        return tuple(f"{self.name}: {words}" for words in (*compared, *far))


@dataclass(frozen=True)
class MoEResult:
    """Parts in the order in which they end, and the figures of the whole."""

    parts: tuple[Part, ...]
    whole: tuple[Figure, ...]

    @property
    def first_bad_part(self) -> str | None:
        """Where it goes wrong, or None."""
        return next((part.name for part in self.parts if part.failures()), None)

    @property
    def figures(self) -> dict[str, float]:
        """What a record keeps: the error of each part, and the figures of the whole."""
        compared = [c.worst for part in self.parts for c in part.comparisons.values()]
        errors = {f"{part.name} {e.name}": e.value for part in self.parts for e in part.errors}
        return {
            "worst element, in budgets": max(compared, default=0.0),
            **errors,
            **{figure.name: figure.value for figure in self.whole},
        }

    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong, in words, parts first."""
        none = () if self.parts else ("no layer was replaced: nothing was tested",)
        of_parts = [words for part in self.parts for words in part.failures()]
        of_whole = [words for figure in self.whole for words in figure.failures()]
        return (*none, *of_parts, *of_whole)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures()

    def __str__(self) -> str:
        figures = "\n".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        first = () if self.passed else (f"first bad part: {self.first_bad_part or 'none'}",)
        return "\n".join((*first, *self.failures(), figures))


def error(name: str, actual: float, simulated: float) -> Figure:
    """A distance to the dense twin, beside that of the simulation."""
    because = f"{MARGIN} times the {simulated:.4f} of the recipe, simulated by the references"
    return Figure(name, actual, Bound(at_most=MARGIN * simulated, because=because))


def agreement(name: str, actual: float, simulated: float, *, tokens: int) -> Figure:
    """The share of tokens that a router sends where the dense twin's does."""
    least = 1 - DETOURS * (1 - simulated) - 1 / tokens
    because = f"{DETOURS} times as many as of the {simulated:.4f} simulated may go astray, and one"
    return Figure(name, actual, Bound(at_least=least, because=because))
