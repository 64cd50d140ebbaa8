"""Clocks of machines that disagree: said as notes, because a verdict does not hang on them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.gate.evidence import Run

_TOLERANCE: Final = dt.timedelta(minutes=5)


def notes(run: Run, now: dt.datetime) -> Iterator[str]:
    """What is odd about the times of a run and of its records."""
    started, finished = time_of(run.manifest.started), time_of(run.manifest.finished)
    if started is None:
        yield f"clock: {run} started={run.manifest.started!r}, which is no time"
        return
    if started - now > _TOLERANCE:  # differences: a sum may lie beyond the year 1 or 9999
        yield f"clock: {run} started at {run.manifest.started}, which is in the future"
    if finished is not None and finished < started:
        yield f"clock: {run} finished at {run.manifest.finished}, before it started"
        finished = None
    elif finished is not None and finished - now > _TOLERANCE:
        yield f"clock: {run} finished at {run.manifest.finished}, which is in the future"
    yield from _records_outside(run, started, finished)


def _records_outside(run: Run, started: dt.datetime, finished: dt.datetime | None) -> Iterator[str]:
    texts = {each.started for each in run.records}
    # Texts of one format sort like their times, so two of 100,000 are enough to look at.
    for text in dict.fromkeys((min(texts), max(texts))) if texts else ():
        time = time_of(text)
        if time is None:
            yield f"clock: a record of {run} has started={text!r}, which is no time"
        elif started - time > _TOLERANCE or (finished and time - finished > _TOLERANCE):
            ended = run.manifest.finished or "now"
            within = f"{run.manifest.started} to {ended}"
            yield f"clock: a record of {run} started at {text}, outside of its run, {within}"


def time_of(text: str) -> dt.datetime | None:
    """The time in ISO 8601, with its zone; None for anything else."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None
