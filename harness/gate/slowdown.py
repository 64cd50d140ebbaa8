"""Whether the ratios of a benchmark got worse since a baseline, by more than their noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from harness.gate.drift import Drift, Errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.gate.ratios import Ratio

BENCH: Final = "bench"  # the layer of these rows


def compare_ratios(before: Iterable[Ratio], after: Iterable[Ratio]) -> tuple[Drift, ...]:
    """A row for each ratio that either side has; flagged where it is worse beyond its noise.

    None where ``after`` is empty: a gate without a benchmark's file asks nothing of it. Ratios of
    unlike GPUs or CPUs are shown, and not held against each other.
    """
    old, new = ({ratio.name: ratio for ratio in side} for side in (before, after))
    names = dict.fromkeys([*new, *old]) if new else ()
    return tuple(_of_ratio(name, old.get(name), new.get(name)) for name in names)


def _of_ratio(name: str, before: Ratio | None, after: Ratio | None) -> Drift:
    subject, _, what = name.partition("/")
    known = after or before
    drift = Drift(
        kernel=subject,
        arch=known.device if known else "",
        layer=BENCH,
        check=what,
        dtype="",
        measure=known.unit if known else "",
        before=_point(before),
        after=_point(after),
    )
    if before is None or after is None:
        which = "the baseline" if before is None else "this run"
        return replace(drift, words=f"{which} has no such ratio")
    worse, tolerance = before.worsened(after), before.tolerance(after)
    unlike = (
        f"; not held against it: {before.device!r} then, {after.device!r} now"
        if before.device != after.device
        else ""
    )
    flagged = worse > tolerance and not unlike
    said = "better" if worse < 1 else "worse"
    words = (
        f"{before.ratio:.3g} -> {after.ratio:.3g} {after.unit}: "
        f"{max(worse, 1 / worse):.3g} x {said}, where {tolerance:.3g} x may be noise"
    )
    return replace(
        drift, pairs=1, moved=int(worse != 1), ratio=worse, flagged=flagged, words=words + unlike
    )


def _point(ratio: Ratio | None) -> Errors | None:
    return None if ratio is None else Errors(1, ratio.ratio, ratio.ratio)
