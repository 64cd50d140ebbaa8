"""Where the errors of a failing output lie, as a few lines of text that fit into a record.

Each character stands for a tile of the output and says how large the largest error there is, so
that no wrong element is averaged away. Reports draw it; it can be read as it is, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

    from harness.picture import Panel

ROWS: Final = 32
COLUMNS: Final = 48
HALF: Final = "."  # at most half of what is allowed; of an exact output: equal
INSIDE: Final = ":"  # within what is allowed
NOT_FINITE: Final = "X"  # a NaN or an infinity in the wrong place
_WORST: Final = 9


def of_panel(found: Panel) -> dict[str, object]:
    """The figure ``error_map`` of one output: its shape, the tile's, and a line a row of tiles.

    Digits are wrong elements: 1 is up to 3.2 times what is allowed, and each step is a factor of
    3.2 more, so that 9 is from 10,000 times on; of an exact output they measure the difference.
    """
    rows, columns = found.units.shape
    step = (-(-rows // ROWS), -(-columns // COLUMNS))
    return {
        "output": found.name,
        "shape": list(found.shape),
        "tile": [found.tile[0] * step[0], found.tile[1] * step[1]],
        "exact": found.exact,
        "where": found.where,
        "lines": ["".join(_letter(u, found.limit) for u in row) for row in _maxima(found, step)],
    }


def _maxima(found: Panel, step: tuple[int, int]) -> list[list[float]]:
    from harness.picture import tile_maxima

    units: Tensor = tile_maxima(found.units, step)
    return [[float(value) for value in row] for row in units.tolist()]


def _letter(error: float, limit: float) -> str:
    if not math.isfinite(error):
        return NOT_FINITE
    if error <= limit / 2:
        return HALF
    if error <= limit:
        return INSIDE
    steps = math.floor(2 * math.log10(error / limit if limit else error))
    return str(min(max(1 + steps, 1), _WORST))
