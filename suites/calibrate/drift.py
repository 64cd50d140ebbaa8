"""Prints how often drift is flagged where nothing changed, and where errors grew, by simulation.

``python -m suites.calibrate.drift`` compares pretended releases. A case's error is log-normal over
cases, its logarithm's standard deviation 1; a third of the cases have none, as exact ones do. Noise
is what differs between two runs of one case: nothing for a kernel that repeats its bits, else the
standard deviation of a logarithm.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.case_errors import rounded
from harness.gate.baseline import Baseline
from harness.gate.drift import compare
from harness.gate.samples import Sample
from harness.manifest import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES: Final = ("float32", "float16", "bfloat16")
WORSENED: Final = "kernel0"
EXACT: Final = 1 / 3  # the share of cases without any error


@dataclass(frozen=True, kw_only=True)
class World:
    """How many kernels and cases a release has, and what is different in the next one."""

    kernels: int = 30
    cases: int = 96
    noise: float = 0.1
    moved: float = 1.0  # the share of cases that noise touches
    growth: float = 1.0  # times, of all errors of one kernel
    paired: bool = True

    def releases(self, chance: random.Random) -> tuple[Baseline, tuple[Sample, ...]]:
        """A baseline and what comes after it."""
        keys = [
            Asked(f"kernel{number}", "sm90", "numeric", "matches", dtype)
            for number in range(self.kernels)
            for dtype in DTYPES
        ]
        both = [self._pair(key, chance) for key in keys]
        before = tuple(old for old, _ in both)
        return Baseline(name="before", kept="", samples=before), tuple(new for _, new in both)

    def _pair(self, key: Asked, chance: random.Random) -> tuple[Sample, Sample]:
        sizes = list(self._sizes(chance))
        others = sizes if self.paired else list(self._sizes(chance))
        growth = self.growth if key.kernel == WORSENED else 1.0
        old = {name: rounded(size * self._noise(chance)) for name, size in sizes}
        new = {name: rounded(growth * size * self._noise(chance)) for name, size in others}
        return Sample(key=key, verdict="passed", worst=old), Sample(
            key=key, verdict="passed", worst=new, seed=int(not self.paired)
        )

    def _sizes(self, chance: random.Random) -> Iterator[tuple[str, float]]:
        for number in range(self.cases):
            exact = chance.random() < EXACT
            yield f"{number:08x}", 0.0 if exact else 0.1 * math.exp(chance.gauss(0, 1))

    def _noise(self, chance: random.Random) -> float:
        touched = chance.random() < self.moved
        return math.exp(chance.gauss(0, self.noise)) if touched else 1.0


@dataclass(frozen=True)
class Rates:
    """Of so many comparisons, how many flagged the kernel that got worse, and any other."""

    comparisons: int
    found: int
    false: int

    def __str__(self) -> str:
        return (
            f"found in {self.found}, false alarm in {self.false} of {self.comparisons} comparisons"
        )


def rates(world: World, comparisons: int, seed: int = 0) -> Rates:
    """How often drift is flagged in ``world``, rightly and wrongly."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, no secret
    found = false = 0
    for _ in range(comparisons):
        flagged = {drift.kernel for drift in compare(*world.releases(chance)) if drift.flagged}
        worsened = world.growth > 1 and WORSENED in flagged
        found += worsened
        false += bool(flagged - ({WORSENED} if worsened else set()))
    return Rates(comparisons, found, false)


WORLDS: Final = {
    "device, repeats its bits": World(noise=0.0),
    "device, noise 0.02": World(noise=0.02),
    "device, noise 0.1": World(),
    "device, noise 0.5": World(noise=0.5),
    "device, noise 0.5 in a tenth of the cases": World(noise=0.5, moved=0.1),
    "device, another seed": World(paired=False),
    "emulated, noise 0.1": World(cases=18),
    "emulated, noise 0.5": World(cases=18, noise=0.5),
    "emulated, another seed": World(cases=18, paired=False),
}
GROWN: Final = (1.0, 1.05, 1.2, 1.5, 2.0)


def main() -> None:
    """Print a line for each world and growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=400)
    asked = parser.parse_args()
    for name, world in WORLDS.items():
        for growth in GROWN:
            made = World(**{**vars(world), "growth": growth})
            count = asked.comparisons if growth == 1 else -(-asked.comparisons // 10)
            print(f"{name}, errors {growth:g} x: {rates(made, count)}", flush=True)


if __name__ == "__main__":
    main()
