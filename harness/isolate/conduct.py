"""How a test goes in processes of its own: blame, the smallest case that crashes, the other probes.

A process that ends takes its search along. So the search is made again here, where nothing crashes:
its cases are those that the process had, each tried alone in a child.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from harness.cells import Evidence, Layer, Outcome
from harness.check import id_of
from harness.isolate.client import is_lost
from harness.isolate.messages import Listing, Searching
from harness.judge import ParityFailure
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.case import Case
    from harness.cells import Cell
    from harness.check import Check
    from harness.isolate.client import Attempt, Server
    from harness.isolate.endings import Ending
    from harness.isolate.messages import Job, Result

# Seconds without a word from a test, after which it hangs. What takes longest between two words is,
# on a device, the first call of a module under torch.compile or a kernel of the CuTe DSL (up to a
# minute, on a busy machine several); emulated, a whole model in the interpreter (half a minute
# alone); where machine code is made, that of all cases of a kernel. Tools of the layer sanitize
# have a limit of their own, which must come first.
CELL_SECONDS: Final = {
    Evidence.DEVICE: 300.0,
    Evidence.EMULATED: 600.0,
    Evidence.FAKE: 300.0,
    Evidence.COMPILED: 900.0,
}
SANITIZE_SECONDS: Final = 2700.0
SHRINK_SECONDS: Final = 60.0  # for a smaller case that crashes; the attempt under way is ended
# A case of the search hangs for less: so many times the slowest that did not, with a floor for a
# new child's first compilation.
_SLOWER: Final = 20.0
_LEAST: Final = {True: 30.0, False: 10.0}  # on a device, and elsewhere
MOST_CRASHES: Final = 10  # of the probes of one test, after which the others are not asked


class RemoteError(Exception):
    """What a test raised in a child, as text."""

    def __init__(self, text: str, outcome: Outcome) -> None:
        super().__init__(text)
        self.outcome = outcome


def limit_of(cell: Cell, wanted: float | None) -> float:
    """Seconds without a word after which a test of ``cell`` hangs, unless others are wanted."""
    usual = SANITIZE_SECONDS if cell.layer is Layer.SANITIZE else CELL_SECONDS[cell.evidence]
    return wanted or usual


@dataclass
class Conduct:
    """One test, from its first child to its verdict."""

    server: Server
    job: Job
    check: Check
    limit: float
    show: Callable[[str], None]
    output: list[str] = field(default_factory=list)
    lost: list[ParityFailure] = field(default_factory=list)  # probes that ended their child

    def run(self) -> None:
        """Run the test to its end; raises ParityFailure, Unavailable or RemoteError."""
        job, problems = self.job, list[str]()
        while True:
            attempt = self._attempt(job)
            failure = self._loss(attempt)
            if failure is None:
                break
            self.check.figures |= {"cases": len(job.done) + len(attempt.heard.began)}
            if self.job.settings.only is not None or not failure.case:
                self._raise(failure)
            if isinstance(attempt.heard.doing, Searching):
                self._raise(self._smallest(attempt, attempt.heard.doing, failure))
            problems += _said(attempt)
            problems += [f"{failure.case}: {each}" for each in self._alone(failure).problems]
            self.lost.append(failure)
            job = replace(job, done=job.done | {*attempt.heard.ended, failure.case})
            if not isinstance(attempt.heard.doing, Listing) or len(self.lost) == MOST_CRASHES:
                problems.append(f"after {len(self.lost)} crashes no further probe was asked")
                self._report(problems)
        self._adopt(attempt.result, problems)

    def _attempt(self, job: Job, limit: float | None = None) -> Attempt:
        attempt = self.server.perform(job, limit or self.limit, self.show)
        self.output.append(attempt.output)
        return attempt

    def _loss(self, attempt: Attempt) -> ParityFailure | None:
        """The report of what ended a child; None if nothing did."""
        result = attempt.result
        if result is not None:
            return result.failure if is_lost(result.outcome) else None
        if attempt.ending is None:
            return None
        return self._failure(attempt.heard.open, attempt.ending)

    def _failure(self, case: str, ending: Ending) -> ParityFailure:
        return self.check.failure((ending.words,), case, outcome=ending.outcome)

    def _raise(self, failure: ParityFailure) -> None:
        self.check.case = failure.case
        raise failure

    def _adopt(self, result: Result | None, problems: list[str]) -> None:
        """Make the child's result the test's; add what other children found."""
        if result is None:
            return
        self.check.figures |= result.figures
        self.check.case = result.case
        self.check.launched |= set(result.launched)
        if self.lost:
            self._report([*problems, *(result.failure.problems if result.failure else ())])
        if result.failure is not None:
            raise result.failure
        if result.outcome is Outcome.UNAVAILABLE:
            raise Unavailable(result.text)
        if result.outcome is not Outcome.PASSED:
            raise RemoteError(result.text, result.outcome)

    def _report(self, problems: list[str]) -> None:
        first = self.lost[0]
        self.check.figures["failed_probes"] = len(problems)
        self.check.figures["crashed_probes"] = len(self.lost)
        self._raise(self.check.failure(problems, first.case, outcome=first.outcome))

    def _smallest(
        self, attempt: Attempt, search: Searching, failure: ParityFailure
    ) -> ParityFailure:
        """The smallest case of the search that ends its child."""
        passed = {case for case, words in attempt.heard.ended.items() if not words}
        limit = self._shrinking_limit(attempt.heard.slowest)

        def attempt_again(case: Case) -> None:
            named = id_of(case, search.scope.kind)
            if named == failure.case:
                raise failure
            if named not in passed and (again := self._try(named, limit)) is not None:
                raise again

        where = (search.config, search.index, search.scope)
        try:
            self.check.search(attempt_again, *where, seconds=SHRINK_SECONDS, memory="lost")
        except ParityFailure as found:
            return self._alone(found) if found.case == failure.case else found
        return self._alone(failure)

    def _try(self, case: str, limit: float) -> ParityFailure | None:
        """Run one case in a child; the report if it ends that."""
        settings = replace(self.job.settings, only=case)
        return self._loss(self._attempt(replace(self.job, settings=settings), limit))

    def _alone(self, failure: ParityFailure) -> ParityFailure:
        """Run a case once more in a new child: if it passes there, what came before it matters."""
        if failure.outcome is Outcome.HUNG:
            return failure
        if self._try(failure.case, self.limit) is not None:
            return failure
        words = "; alone in a new process it does not happen: what ran there before it matters"
        problems = (f"{failure.problems[0]}{words}", *failure.problems[1:])
        return self.check.failure(problems, failure.case, outcome=failure.outcome)

    def _shrinking_limit(self, slowest: float) -> float:
        least = _LEAST[self.job.cell.needs_device]
        return min(self.limit, max(least, _SLOWER * slowest))


def _said(attempt: Attempt) -> list[str]:
    return [f"{case}: {words}" for case, words in attempt.heard.ended.items() if words]
