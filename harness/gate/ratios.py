"""Ratios that benchmarks measured, with their noise, and the file of JSON that holds them."""

from __future__ import annotations

import json
import math
import reprlib
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = 1
SIGMAS: Final = 4.0  # standard errors that two runs of one version may differ by
# What the rounds of one run cannot show: clocks, temperature, where another run's memory lies.
LEAST: Final = 0.05
# Beyond these a quotient or a tolerance may be no number; nothing measured comes near.
_MOST: Final = 1e100
_WIDEST: Final = 100.0
_OF_NORMAL: Final = 1.4826  # standard deviations in a median absolute deviation
_OF_MEDIAN: Final = 1.2533  # standard error of a median in units of that of a mean
FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "name": str,
    "ratio": (int, float),
    "unit": str,
    "spread": (int, float),
    "better": str,
    "device": str,
}


class InvalidRatios(ValueError):
    """A file that holds no ratios of a benchmark; the message names the file and the field."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A figure of a benchmark, measured against something else in the same run.

    ``name`` is subject/what. ``spread`` is the median's relative standard error; ``better`` is
    ``higher`` or ``lower``; ``device`` is what it was measured on, a GPU or a CPU; ``environment``
    the versions of what took part.
    """

    name: str
    ratio: float
    unit: str = "x"
    spread: float = 0.0
    better: str = "higher"
    device: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 / _MOST <= self.ratio <= _MOST:
            msg = f"{self.name}: ratio={reprlib.repr(self.ratio)} is no ratio; a number above 0, "
            msg += f"up to {_MOST:g}, is needed"
            raise InvalidRatios(msg)
        if not 0 <= self.spread <= _WIDEST:
            msg = f"{self.name}: spread={reprlib.repr(self.spread)} is none; a relative one, "
            msg += f"from 0 to {_WIDEST:g}, is needed"
            raise InvalidRatios(msg)
        if self.better not in {"higher", "lower"}:
            msg = f"{self.name}: better={self.better!r}; 'higher' and 'lower' are known"
            raise InvalidRatios(msg)

    def worsened(self, now: Ratio) -> float:
        """How many times worse ``now`` is; below 1 it is better."""
        return self.ratio / now.ratio if self.better == "higher" else now.ratio / self.ratio

    def tolerance(self, now: Ratio) -> float:
        """How many times worse may be noise, by the rounds of both runs."""
        return math.exp(max(LEAST, SIGMAS * math.hypot(self.spread, now.spread)))


def of_rounds(
    name: str, rounds: Sequence[float], *, better: str = "higher", device: str = ""
) -> Ratio:
    """The median ratio of rounds that were measured in turns, and how sure it is."""
    middle = statistics.median(rounds)
    deviation = statistics.median(abs(one - middle) for one in rounds)
    spread = _OF_MEDIAN * _OF_NORMAL * deviation / middle / math.sqrt(len(rounds))
    return Ratio(name=name, ratio=middle, spread=spread, better=better, device=device)


def to_json(ratios: Iterable[Ratio], environment: Mapping[str, str]) -> str:
    """The text of a file of ratios that were measured in one environment."""
    rows = [
        {
            "name": one.name,
            "ratio": one.ratio,
            "unit": one.unit,
            "spread": one.spread,
            "better": one.better,
            "device": one.device,
        }
        for one in ratios
    ]
    fields = {"schema": SCHEMA, "environment": dict(environment), "ratios": rows}
    return json.dumps(fields, indent=1) + "\n"


def read(path: Path) -> tuple[Ratio, ...]:
    """The ratios of a file; raises InvalidRatios naming what is wrong, OSError without the file."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return _ratios(fields)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        msg = f"{path}: {error}; `python -m suites.bench --json {path}` makes it again"
        raise InvalidRatios(msg) from error


def _check(row: object) -> None:
    if not isinstance(row, dict):
        msg = f"{row!r} is no ratio; docs/drift.md has the fields"
        raise InvalidRatios(msg)
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(row.get(name), kind)]:
        msg = f"{wrong[0]}={row.get(wrong[0])!r} of a ratio is not what docs/drift.md says"
        raise InvalidRatios(msg)


def _ratios(fields: object) -> tuple[Ratio, ...]:
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        found = fields.get("schema") if isinstance(fields, dict) else fields
        msg = f"schema={found!r}, this version reads ratios of schema {SCHEMA}"
        raise InvalidRatios(msg)
    for row in fields["ratios"]:
        _check(row)
    found = tuple(Ratio(**row, environment=fields["environment"]) for row in fields["ratios"])
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        msg = f"name={twice[0]!r} stands there twice"
        raise InvalidRatios(msg)
    return found
