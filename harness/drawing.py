"""Draws panels of errors with matplotlib, for readers that need not tell colours apart.

What is within its budget is grey, what is not runs from orange to black, darker with the error; a
few wrong places are ringed too, and small outputs show the numbers.
"""

from __future__ import annotations

import math
import os
import textwrap
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from harness.picture import Panel

_RINGED: Final = 40  # so many wrong tiles are ringed; more can be seen without
_WRITTEN: Final = (12, 16)  # rows and columns of an output whose errors are written out
_STEP: Final = 1.05  # more than one step of the palette
_LEAST: Final = 1e-2  # errors below this share of the budget look alike
_ZERO: Final = 1e-300
_DARK: Final = 0.45  # luminance below which white is read better than black
_MOST: Final = 1e6
_INSIDE: Final = ("#f4f4f4", "#b8b8b8")
_OUTSIDE: Final = ("#f5a623", "#d1495b", "#6a1b4d", "#1a0510")  # ever darker, in grey print too
_LINE: Final = "#0072b2"  # blue: apart from all of those to every eye
_WIDTH: Final = 8.0  # inches
_DOTS: Final = 120  # per inch


def write(path: Path, title: str, case: str, panels: Sequence[Panel]) -> None:
    """Write one PNG of all panels; whoever reads ``path`` finds all of it or nothing."""
    heights = [_height(found) for found in panels]
    figure = Figure(figsize=(_WIDTH, 1.0 + sum(heights)), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.supxlabel(_wrapped(case.replace(",", ", "), 110), fontsize=7)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, found in zip(grid[:, 0], panels, strict=True):
        (_draw_curve if _is_curve(found) else _draw_image)(axes, found)
        shape = " x ".join(map(str, found.shape)) or "1"
        axes.set_title(_wrapped(f"{found.name} ({shape}): {found.where}", 100), fontsize=8.5)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False))


def _is_curve(found: Panel) -> bool:
    return 1 in found.units.shape and found.units.numel() > _WRITTEN[1]


def _height(found: Panel) -> float:
    """Inches for one panel, its title included."""
    rows, columns = found.extent
    if _is_curve(found):
        return 3.0
    if not _is_even(found):
        return 6.5 if rows > columns else 3.0
    return 0.8 + min(6.5, 5.8 * rows / columns)


def _is_even(found: Panel) -> bool:
    """Whether rows and columns can have one scale; a small output's always do."""
    rows, columns = found.extent
    return _is_written(found) or rows <= 1.5 * columns <= 6 * rows


def _is_written(found: Panel) -> bool:
    return all(n <= most for n, most in zip(found.extent, _WRITTEN, strict=True))


def _draw_image(axes: Axes, found: Panel) -> None:
    units = found.units.numpy()
    (rows, columns), (height, width) = found.extent, found.tile
    norm = LogNorm(*_range(found))
    image = axes.imshow(
        np.ma.masked_invalid(_apart(found)),
        norm=norm,
        cmap=_colours(found, norm),
        interpolation="nearest",
        aspect="equal" if _is_even(found) else "auto",
        extent=(-0.5, units.shape[1] * width - 0.5, units.shape[0] * height - 0.5, -0.5),
    )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set(xlabel="column", ylabel=_row_words(found))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _draw_slices(axes, found)
    if _is_written(found):
        _write_errors(axes, found, image)
    else:
        _draw_rings(axes, found)
    figure = axes.get_figure()
    if _is_written(found) and rows == 1:  # a bar as high as one row has no room for its figures
        axes.set_xlabel(f"column; the numbers are {_unit_words(found).partition(';')[0]}")
    elif figure is not None:
        bar = figure.colorbar(image, ax=axes, extend="both", shrink=0.9, pad=0.02)
        bar.set_label(_unit_words(found), fontsize=8)


def _apart(found: Panel) -> NDArray[np.float64]:
    """The errors, those near the limit moved off it: a palette has too few steps to tell them."""
    units = found.units.numpy()
    inside = np.minimum(units, found.limit / _STEP)
    outside = np.maximum(units, found.limit * _STEP)
    shown: NDArray[np.float64] = np.where(units > found.limit, outside, inside)
    return shown.clip(_ZERO)  # a logarithm has none


def _unit_words(found: Panel) -> str:
    if found.exact:
        return "|actual - expected|: none is allowed"
    return "error / budget: 1 is the limit; black: not finite"


def _row_words(found: Panel) -> str:
    if len(found.shape) < 3:  # noqa: PLR2004
        return "row" if len(found.shape) > 1 else ""
    slices = " x ".join(map(str, found.shape[:-2]))
    return f"row, {found.shape[-2]} in each of {slices} slices"


def _range(found: Panel) -> tuple[float, float]:
    """The errors between which colours differ."""
    finite = found.units[found.units.isfinite() & (found.units > 0)]
    top = float(finite.max()) if finite.numel() else 1.0
    if found.exact:
        low = min(1.0, max(float(finite.min()), top / _MOST)) if finite.numel() else 0.1
        return low, max(top, 10 * low)
    return _LEAST, min(max(10.0, top), _MOST)


def _colours(found: Panel, norm: LogNorm) -> Colormap:
    """Light grey up to the limit, then a step to orange, and darker with the error."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    limit = 0.0 if found.exact else math.log(found.limit / low) / math.log(high / low)
    steps = [limit + (1 - limit) * i / (len(_OUTSIDE) - 1) for i in range(len(_OUTSIDE))]
    inside = [] if found.exact else list(zip((0.0, limit), _INSIDE, strict=True))
    stops = [*inside, *zip([*steps[:-1], 1.0], _OUTSIDE, strict=True)]
    colours = LinearSegmentedColormap.from_list("errors", stops, N=1024)
    return colours.with_extremes(under=_INSIDE[0], over=_OUTSIDE[-1], bad="black")


def _draw_slices(axes: Axes, found: Panel) -> None:
    """Names of the slices of the leading axes, and lines between them."""
    slices = math.prod(found.shape[:-2])
    if len(found.shape) > 2 and slices <= _RINGED:  # noqa: PLR2004
        starts = [index * found.shape[-2] for index in range(slices)]
        for start in starts[1:]:
            axes.axhline(start - 0.5, color=_LINE, linewidth=0.8)
        indices = np.ndindex(found.shape[:-2])
        axes.set_yticks(starts, [f"slice {', '.join(map(str, index))}" for index in indices])


def _write_errors(axes: Axes, found: Panel, image: AxesImage) -> None:
    """The number in every element: nobody needs the colours."""
    shown = np.ma.masked_invalid(_apart(found))
    size = 7 if found.extent[1] > _WRITTEN[1] // 2 else 9
    for (row, column), value in np.ndenumerate(found.units.numpy()):
        wrong = value > found.limit
        words = f"{value:.{3 if value >= 1 else 2}g}" if math.isfinite(value) else "not\nfinite"
        red, green, blue, _ = image.to_rgba(shown[row : row + 1, column])[0]
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < _DARK
        axes.text(
            column,
            row,
            words,
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold" if wrong else "normal",
            color="white" if dark else "black",
        )


def _draw_rings(axes: Axes, found: Panel) -> None:
    """Rings around the wrong places where they are few enough to be missed."""
    places = np.argwhere(found.units.numpy() > found.limit)
    if 0 < len(places) <= _RINGED:
        middle = (places + 0.5) * found.tile - 0.5
        axes.scatter(
            middle[:, 1], middle[:, 0], s=90, facecolors="none", edgecolors=_LINE, linewidths=1.4
        )


def _draw_curve(axes: Axes, found: Panel) -> None:
    """The errors of an output that is one row or one column, by index."""
    units = found.units.numpy().reshape(-1)
    low, high = _range(found)
    along = int(found.extent[0] == 1)
    index = np.arange(units.size) * found.tile[along]
    wrong, lost = units > found.limit, ~np.isfinite(units)
    for which, marker, colour, words in (
        (~wrong, ".", "#8c8c8c", "equal" if found.exact else "within its budget"),
        (wrong & ~lost, "D", _OUTSIDE[1], "wrong"),
        (lost, "X", "black", "not finite"),
    ):
        if which.any():
            shown = np.clip(units[which], low, high)
            axes.plot(index[which], shown, marker, color=colour, markersize=4, label=words)
    if not found.exact:
        axes.axhline(1, color=_LINE, linewidth=1, linestyle="--", label="the limit")
    noun = "element" if len(found.shape) == 1 else ("row", "column")[along]
    tile = found.tile[along]
    axes.set(yscale="log", ylim=(low / 1.5, high * 1.5), xlim=(-0.5, max(found.extent) - 0.5))
    axes.set(xlabel=noun if tile == 1 else f"{noun}, the worst of every {tile}")
    axes.set_ylabel(_unit_words(found).partition(";")[0], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
