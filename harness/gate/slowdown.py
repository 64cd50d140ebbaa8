"""Whether the ratios of a benchmark got worse since a baseline, by more than their noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from harness.gate.drift import Drift, Errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.gate.ratios import Ratio

BENCH: Final = "bench"  # the layer of these rows


def compare_ratios(before: Iterable[Ratio], after: Iterable[Ratio]) -> tuple[Drift, ...]:
    """A row for each ratio that either side has; flagged where it is worse beyond its noise.

    None where ``after`` is empty: a gate without a benchmark's file asks nothing of it. Ratios of
    another GPU or CPU are shown, and not held against each other.
    """
    old, new = ({ratio.name: ratio for ratio in side} for side in (before, after))
    names = dict.fromkeys([*new, *old]) if new else ()
    return tuple(_of_ratio(name, old.get(name), new.get(name)) for name in names)


def _of_ratio(name: str, before: Ratio | None, after: Ratio | None) -> Drift:
    subject, _, what = name.partition("/")
    known = after or before
    drift = Drift(
        kernel=subject,
        arch=known.environment.get("arch", "") if known else "",
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
    unlike = _unlike(before.environment, after.environment)
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


def _unlike(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Why two ratios are of unlike machines, in words; empty if they are alike."""
    for name in ("device", "cpu"):
        if before.get(name) != after.get(name):
            pair = f"{before.get(name)!r}, {after.get(name)!r}"
            return f"; not held against it: of another {name} ({pair})"
    return ""
