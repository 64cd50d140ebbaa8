"""Judgement of an observation: is what the kernel did on a case right, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.cells import Outcome
from harness.compare import Comparison, compare, compare_exact
from harness.compare_within import compare_within
from harness.exhaustion import is_exhaustion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from harness.declare import Op
    from harness.execute import Observation
    from harness.reference import Truth


class ParityFailure(AssertionError):
    """A check of a cell failed; its text is the whole report of it, ``outcome`` the way it did."""

    def __init__(
        self,
        title: str,
        problems: Sequence[str],
        *,
        case: str = "",
        reproduce: str = "",
        outcome: Outcome = Outcome.WRONG,
    ) -> None:
        super().__init__(title)
        self.outcome = outcome
        self.title = title
        self.problems = tuple(problems)
        self.case = case
        self.reproduce = reproduce
        self.picture = ""
        self.first: ParityFailure | None = None  # what the search met before it shrank the case

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle all of it: one process reports what another found."""
        return type(self), (self.title, self.problems), self.__dict__

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.title}: {count} problem{'s' if count > 1 else ''}"]
        if self.case:
            lines += [f"  case       {self.case}", f"  reproduce  {self.reproduce}"]
        if self.picture:
            lines.append(f"  picture    {self.picture}")
        lines += [f"  - {problem}" for problem in self.problems]
        if self.first is not None and self.first.case != self.case:
            lines += [f"  first seen in {self.first.case}"]
            lines += [f"  - {problem}" for problem in self.first.problems]
        return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, which oracle says so, and of which output, if of one."""

    oracle: str
    words: str
    output: str = ""
    outcome: Outcome = Outcome.WRONG

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Judgement:
    """Whether a case passed, and each output's comparison.

    ``unfair`` says that the case was dropped: float32 arithmetic itself leaves the budget.
    """

    findings: tuple[Finding, ...]
    comparisons: Mapping[str, Comparison]
    unfair: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        return tuple(finding.words for finding in self.findings)

    @property
    def oracles(self) -> tuple[str, ...]:
        """What found something wrong, each once."""
        return tuple(dict.fromkeys(finding.oracle for finding in self.findings))

    @property
    def outcome(self) -> Outcome:
        """The way in which the case failed: by what it raised, or by what it computed."""
        found = {finding.outcome for finding in self.findings}
        if Outcome.OUT_OF_MEMORY in found:
            return Outcome.OUT_OF_MEMORY
        return Outcome.REFUSED if found == {Outcome.REFUSED} else Outcome.WRONG

    @property
    def worst(self) -> float:
        """The largest error of any output in units of its budget."""
        return max((c.worst for c in self.comparisons.values()), default=0.0)


def judge(op: Op, observation: Observation, truths: Mapping[str, Truth]) -> Judgement:
    """Judge one case, which is legal, against the reference: a refusal is an error too."""
    if observation.error is not None:
        return Judgement(findings_of_run(observation), {})
    comparisons = {
        name: compare_with(observation.outputs[name], truths[name]) for name in op.outputs
    }
    wrong = [Finding(c.oracle, f"{n}: {c}", n) for n, c in comparisons.items() if not c.passed]
    findings = (*wrong, *findings_of_run(observation))
    return Judgement(findings, comparisons)


def findings_of_run(observation: Observation) -> tuple[Finding, ...]:
    """What is wrong whatever the outputs should be: an error, no launch, damage to memory."""
    findings = []
    elements = sum(output.numel() for output in observation.outputs.values())
    if observation.error is not None:
        starved = is_exhaustion(observation.error)
        outcome = Outcome.OUT_OF_MEMORY if starved else Outcome.REFUSED
        findings.append(Finding("error", _of_error(observation), outcome=outcome))
    elif elements and (observation.doubt or not observation.launches):
        words = observation.doubt or "no launch was seen: a fallback computed this, not the kernel"
        findings.append(Finding("launch", words))
    if observation.damage:
        findings.append(Finding("memory", f"memory: {observation.damage}"))
    return tuple(findings)


def compare_with(actual: Tensor, truth: Truth) -> Comparison:
    """Compare one output with its truth, by the truth's oracle."""
    if truth.within is not None:
        return compare_within(actual, truth.expected, truth.within)
    if truth.budget is None:
        return compare_exact(actual, truth.expected, signed_zero=truth.oracle == "exact")
    return compare(
        actual,
        truth.expected,
        truth.scale,
        truth.budget,
        near_ties=truth.near_ties,
        random=truth.random,
    )


def _of_error(observation: Observation) -> str:
    error = observation.error
    when = (
        f"after {len(observation.launches)} launches" if observation.launches else "before launch"
    )
    return f"raised {type(error).__name__} {when}: {error}"
