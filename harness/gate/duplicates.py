"""Checks that have several records: noted where their ends differ, or where one run has them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from harness.cells import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.manifest import Asked
    from harness.record import Record

_SAID: Final = 20  # notes of one kind


def notes(checks: Iterable[tuple[Asked, Sequence[Record]]]) -> Iterator[str]:
    """A line for each such check; of many the first, and how many more."""
    several = [(asked, found) for asked, found in checks if len(found) > 1]
    for words_of in (_differing, _again):
        said = [
            "duplicate: {3} of {0} on {1}, {2}: {words}".format(*asked, words=words)
            for asked, found in several
            if (words := words_of(found))
        ]
        yield from said[:_SAID]
        if len(said) > _SAID:
            yield f"duplicate: {len(said) - _SAID} more such checks"


def _differing(found: Sequence[Record]) -> str:
    if len({each.verdict for each in found} - {Verdict.SKIPPED}) < 2:  # noqa: PLR2004 - ends
        return ""
    ends = ", ".join(f"{each.verdict} in run {each.run}" for each in found)
    return f"{ends}; the failure counts"


def _again(found: Sequence[Record]) -> str:
    """One run makes each check once, unless a plugin reruns it; each of its records counts."""
    if len({each.run for each in found}) == len(found):
        return ""
    ((run, times),) = Counter(each.run for each in found).most_common(1)
    return f"{times} records in run {run}; a plugin reran it, or the file has its records again"
