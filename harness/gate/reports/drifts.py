"""How errors moved since the baseline, as a table of the page: the flagged ones first."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from harness.gate.reports.text import count, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.gate.drift import Drift, Errors

MOST: Final = 120
_HEADS: Final = ("", "kernel", "arch", "check", "dtype", "worst before", "worst now", "")


def ordered(changes: Sequence[Drift]) -> list[Drift]:
    """What moved, the flagged first, then by how many times it grew."""
    moved = [drift for drift in changes if drift.flagged or drift.moved or not drift.pairs]
    return sorted(moved, key=lambda drift: (not drift.flagged, -drift.ratio))


def summary(changes: Sequence[Drift]) -> str:
    """How many rows there are of each kind; empty where no baseline was given.

    ``5 rows compared: 4 paired, 1 unpaired; 2 too few to tell, 0 worse beyond chance; 1 without a
    counterpart (1 in the baseline alone, 0 in these records)``.
    """
    if not changes:
        return ""
    compared = [drift for drift in changes if drift.compared]
    paired = sum(drift.pairs > 0 for drift in compared)
    few, worse = sum(drift.few for drift in compared), sum(drift.flagged for drift in compared)
    gone = sum(drift.after is None for drift in changes)
    alone = len(changes) - len(compared)
    return (
        f"{count(len(compared), 'row')} compared: {paired:,} paired, {len(compared) - paired:,} "
        f"unpaired; {few:,} too few to tell, {worse:,} worse beyond chance; {alone:,} without a "
        f"counterpart ({gone:,} in the baseline alone, {alone - gone:,} in these records)"
    )


def table(changes: Sequence[Drift]) -> Iterator[str]:
    """HTML of the table, or words where there is nothing to show."""
    if not changes:
        yield "<p>No baseline was given.</p>"
        return
    moved = ordered(changes)
    yield (
        f"<p>{summary(changes)}. Listed are the {len(moved):,} that moved or have no pair. Plots "
        "are logarithmic, in units of the budget or in ulps: a ring before, a dot now, a dashed "
        "line at 1.</p>"
    )
    if moved:
        heads = "".join(f"<th scope=col>{name}</th>" for name in _HEADS)
        yield "<div class=scroll tabindex=0 role=region aria-label=Drift><table class=plain>"
        yield f"<thead><tr>{heads}</tr></thead><tbody>"
        yield from map(_row, moved[:MOST])
        yield "</tbody></table></div>"
    if (left := len(moved) - MOST) > 0:
        yield f"<p class=note>And {count(left, 'more row')}, none of them further off.</p>"


def _row(drift: Drift) -> str:
    names = (drift.kernel, drift.arch, f"{drift.layer}, {drift.check}", drift.dtype)
    cells = "".join(f"<td>{escape(line(name))}</td>" for name in names)
    mark = "✗ worse" if drift.flagged else "○"
    plot = ""
    if drift.before and drift.after:
        plot = f' data-before="{drift.before.worst:.4g}" data-after="{drift.after.worst:.4g}"'
    return (
        f"<tr><td>{mark}</td>{cells}{_number(drift.before)}{_number(drift.after)}"
        f"<td{plot}>{escape(line(drift.words, 400))}</td></tr>\n"
    )


def _number(errors: Errors | None) -> str:
    return f"<td class=number>{f'{errors.worst:.3g}' if errors else 'none'}</td>"
