"""One check's records against what is asked of it: which hole is there, if any, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from harness.cells import Evidence, Outcome, Verdict
from harness.gate.holes import Hole

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Mapping, Sequence

    from harness.gate.evidence import Run
    from harness.gate.policy import Policy
    from harness.manifest import Asked
    from harness.record import Record

# Plain text: these are compared 100,000 times.
_PASSED: Final = str(Verdict.PASSED)
_FAILED: Final = str(Verdict.FAILED)
_ENDED: Final = {Outcome.CRASHED: Hole.CRASHED, Outcome.HUNG: Hole.HUNG}
# Strongest first, as declared.
_RANKS: Final[Mapping[str, int]] = {str(word): rank for rank, word in enumerate(Evidence)}
_GRAVITY: Final = {hole: rank for rank, hole in enumerate(Hole)}
_WIDTH: Final = 300


class Seen(NamedTuple):
    """What was found about one check; ``hole`` is None where nothing is amiss."""

    asked: Asked
    policy: Policy
    hole: Hole | None
    words: str = ""
    records: Sequence[Record] = ()

    def but(self, hole: Hole, words: str) -> Seen:
        """The same check with another hole."""
        return self._replace(hole=hole, words=words)


def gravest(found: Sequence[Seen]) -> Seen:
    """The one whose hole is the gravest, of those that have one."""
    return min((s for s in found if s.hole is not None), key=lambda s: _GRAVITY[s.hole])  # type: ignore[index]


def missing(
    asked: Asked, policy: Policy, collected: Mapping[Asked, Run], dropped: Container[Asked]
) -> Seen:
    """Why a check has no record."""
    if run := collected.get(asked):
        words = f"collected in {run}, and no record of it; a worker died, or the run was stopped"
        return Seen(asked, policy, Hole.LOST, words)
    if asked in dropped:
        return Seen(asked, policy, Hole.DESELECTED, "dropped by options of pytest")
    return Seen(asked, policy, Hole.UNCOVERED, "claimed, and collected by no run")


def seen(asked: Asked, policy: Policy, records: Sequence[Record], backend: str) -> Seen:
    """What the records of a check say: a failure anywhere counts, a skip only if nothing ran."""
    if len(records) == 1 and records[0].verdict == _PASSED:  # nearly always
        return Seen(asked, policy, *_of_passed(records[0], policy, backend), records)
    for found in records:
        if found.verdict == _FAILED:
            hole = _ENDED.get(Outcome(found.outcome), Hole.FAILED)
            return Seen(asked, policy, hole, _first_words(found), records)
    passed = [found for found in records if found.verdict == _PASSED]
    if not passed:
        return Seen(asked, policy, Hole.SKIPPED, records[0].message[:_WIDTH], records)
    # The same check on several machines: one that is good is enough.
    said = [_of_passed(found, policy, backend) for found in passed]
    best = next((each for each in said if each[0] is None), said[-1])
    return Seen(asked, policy, *best, records)


def _of_passed(found: Record, policy: Policy, backend: str) -> tuple[Hole | None, str]:
    if found.backend != backend:
        return Hole.OTHER_BACKEND, f"ran on backend {found.backend!r}, {backend!r} is declared"
    launched = found.launched
    if launched and backend not in [each.partition(":")[0] for each in launched]:
        words = f"launched {', '.join(launched)}, none of them of backend {backend!r}"
        return Hole.OTHER_BACKEND, words[:_WIDTH]
    if found.evidence != policy.evidence and _RANKS[found.evidence] > _RANKS[policy.evidence]:
        words = f"evidence {found.evidence!r}, {policy.evidence!r} is asked for"
        return Hole.WEAK_EVIDENCE, words
    if (fair := found.cases - found.unfair) >= policy.cases:
        return None, ""
    hole = Hole.TOO_FEW_CASES if fair > 0 else Hole.NO_CASES
    return hole, f"{fair} cases, at least {policy.cases} are asked for"


def launched_nothing(records: Collection[Record]) -> bool:
    """Whether checks passed though no launch was seen in any, failed ones included."""
    return not any(each.launched for each in records) and _PASSED in {r.verdict for r in records}


def _first_words(found: Record) -> str:
    """The first problem of a failure's report, or its error, and the case."""
    lines = found.message.splitlines() or [found.outcome]
    chosen = next((line for line in lines if line.startswith(("  - ", "E  "))), lines[0])
    words = chosen.removeprefix("E").strip().removeprefix("- ")[:_WIDTH]
    outcome = "" if found.outcome == Outcome.WRONG else f"{found.outcome}: "
    return f"{outcome}{words}" + (f" (case {found.case})" if found.case else "")
