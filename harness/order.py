"""The order in which the checks of cells run: by the run's seed, layer after layer. Pure.

Neighbours that share what is costly to make stay together: the kernels of one op meet the same
cases in one dtype, and evaluate the reference of each once. Such units are put into an order that
the seed decides, so that costly ones are spread; the order changes nothing of what a check does.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """Checks that share: of the kernels of one op, on one arch, in one dtype if they are by dtype.

    ``layer`` is its position among the layers.
    """

    layer: int
    check: str
    op: str
    arch: str
    dtype: str = ""


def arranged(
    items: Sequence[T],
    units: Mapping[T, Unit],
    *,
    seed: int,
    hands: int = 1,
    seconds: Mapping[T, float] | None = None,
) -> list[T]:
    """``items`` by layer, the units of a layer by the seed, the items of a unit as they came.

    With ``seconds`` of a former run, units of a layer that took longer come first.

    ``hands`` counts workers of which each first gets a part of the list, one after another and of
    the same size (xdist's worksteal): the units are dealt, each to the hand with the fewest items,
    and the hands put behind each other. So each worker has its share of every layer, in order.
    """
    grouped: dict[Unit, list[T]] = {}
    for item in items:
        grouped.setdefault(units[item], []).append(item)
    took = seconds or {}
    length = {unit: sum(took.get(item, 0.0) for item in of) for unit, of in grouped.items()}
    order = sorted(grouped, key=lambda unit: (unit.layer, -length[unit], _drawn(unit, seed)))
    dealt: list[list[T]] = [[] for _ in range(hands)]
    for unit in order:
        min(dealt, key=len).extend(grouped[unit])
    return [item for hand in dealt for item in hand]


def _drawn(unit: Unit, seed: int) -> bytes:
    """Of this unit and seed alone: another selection of cells changes no two units' order."""
    return hashlib.blake2b(f"{seed}/{astuple(unit)}".encode(), digest_size=8).digest()
