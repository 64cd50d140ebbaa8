"""A picture of the errors over an output, in which one wrong element of millions can be seen.

Elements are joined into tiles by the largest error, so nothing wrong is averaged away. matplotlib,
which draws them, is imported when a picture is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from harness.case import parse
from harness.cells import Outcome
from harness.compare_elements import judged
from harness.execute import execute
from harness.judge import compare_with
from harness.reference import evaluate
from harness.tally import Operands, as_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from harness.check import Check
    from harness.judge import ParityFailure
    from harness.reference import Truth

_TILES: Final = 512  # along each axis: more than the picture has pixels for would hide a tile
_BAND: Final = 1 << 22  # elements looked at together: bounds the memory


def attach(check: Check, failure: ParityFailure, folder: Path | None) -> None:
    """Put where a failure's errors lie into the record; with a folder, draw them there as well.

    The case is run once more, unless it ended in anything but a wrong result.
    """
    if failure.outcome != Outcome.WRONG:
        return
    try:
        _attach(check, failure, folder)
    except Exception as error:  # noqa: BLE001 - classified and reported, never swallowed
        failure.picture = f"none: {type(error).__name__}: {error}"


def _attach(check: Check, failure: ParityFailure, folder: Path | None) -> None:
    from harness import error_map

    panels = of_failure(check, failure.case)
    if panels:
        check.figures["error_map"] = [error_map.of_panel(panel) for panel in panels]
    if panels and folder is not None:
        path = folder / f"{check.cell}-{check.dtype}.png"
        folder.mkdir(parents=True, exist_ok=True)
        draw(check, failure.case, panels, path)
        failure.picture = check.figures["picture"] = str(path)


def of_failure(check: Check, case_id: str) -> list[Panel]:
    """Run the case of a failure once more: the errors of each output that is wrong.

    There is none where a kernel raises, or returns an output of another shape.
    """
    op, case = check.op, parse(case_id)
    call, observation = execute(op, check.kernel, case, check.device)
    if observation.error is not None:
        return []
    panels = []
    for name, truth in evaluate(op, check.kernel, case, call.tensors).items():
        actual = observation.outputs[name]
        comparison = compare_with(actual, truth)
        if comparison.violations:
            panels.append(panel(name, actual, truth, comparison.where))
    return panels


def draw(check: Check, case_id: str, panels: Sequence[Panel], path: Path) -> None:
    """Write one PNG of all panels."""
    from harness import drawing

    cell = check.cell
    title = f"{cell.kernel} on {cell.arch}, {cell.layer}, {parse(case_id).dtype}"
    drawing.write(path, title, case_id, panels)


@dataclass(frozen=True)
class Panel:
    """The errors of one output: the largest of each tile.

    ``units`` is two-dimensional; leading axes are joined to the rows. An error is infinite where a
    NaN or an infinity stands in the wrong place. ``exact`` says that any difference is wrong.
    """

    name: str
    shape: tuple[int, ...]
    units: Tensor
    tile: tuple[int, int]
    exact: bool
    where: str

    @property
    def limit(self) -> float:
        """The largest error that is allowed."""
        return 0.0 if self.exact else 1.0

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return math.prod(self.shape[:-1]), self.shape[-1] if self.shape else 1


def panel(name: str, actual: Tensor, truth: Truth, where: str) -> Panel:
    """The errors of ``actual``, of the shape and dtype that ``truth`` has and not empty."""
    shape = tuple(actual.shape)
    left, right, scale = (as_matrix(each) for each in (actual, truth.expected, truth.scale))
    ties = None if truth.near_ties is None else as_matrix(truth.near_ties)
    rows, columns = left.shape
    tile = (-(-rows // _TILES), -(-columns // _TILES))
    step = max(1, _BAND // (columns * tile[0])) * tile[0]
    parts = []
    for start in range(0, rows, step):
        band = slice(start, start + step)
        near = None if ties is None else ties[band]
        units = _errors(truth, left[band], right[band], scale[band], near)
        parts.append(tile_maxima(units, tile).cpu())
    return Panel(name, shape, torch.cat(parts), tile, truth.budget is None, where)


def _errors(
    truth: Truth, actual: Tensor, expected: Tensor, magnitude: Tensor, near_ties: Tensor | None
) -> Tensor:
    """Errors of some rows, in units of their budget; of exact outputs the differences."""
    if truth.budget is not None:
        return judged(Operands(actual, expected, magnitude, near_ties, truth.budget)).units
    value, due = actual.double(), expected.double()
    same = (value == due) | (value.isnan() & due.isnan())
    if truth.oracle == "exact":
        same &= (value.signbit() == due.signbit()) | value.isnan()
    # Zeros of different sign differ, too.
    size = (value - due).abs().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(same, 0.0, size.nan_to_num(torch.inf))


def tile_maxima(units: Tensor, tile: tuple[int, int]) -> Tensor:
    """The largest value of each tile of a matrix; tiles at its ends may be smaller."""
    short = [-length % block for length, block in zip(units.shape, tile, strict=True)]
    padded = torch.nn.functional.pad(units, (0, short[1], 0, short[0]))
    maxima: Tensor = padded.unflatten(1, (-1, tile[1])).unflatten(0, (-1, tile[0])).amax((1, 3))
    return maxima
