"""Judgement of an observation: is what the kernel did on a case right, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.compare import Comparison, compare, compare_exact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.declare import Op
    from harness.execute import Observation
    from harness.reference import Truth


class ParityFailure(AssertionError):
    """A check of a cell failed; its text is the whole report of it."""

    def __init__(
        self, title: str, problems: Sequence[str], *, case: str = "", reproduce: str = ""
    ) -> None:
        super().__init__(title)
        self.title = title
        self.problems = tuple(problems)
        self.case = case
        self.reproduce = reproduce
        self.first: ParityFailure | None = None  # what the search met before it shrank the case

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.title}: {count} problem{'s' if count > 1 else ''}"]
        if self.case:
            lines += [f"  case       {self.case}", f"  reproduce  {self.reproduce}"]
        lines += [f"  - {problem}" for problem in self.problems]
        if self.first is not None and self.first.case != self.case:
            lines += [f"  first seen in {self.first.case}"]
            lines += [f"  - {problem}" for problem in self.first.problems]
        return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and which oracle says so."""

    oracle: str
    words: str

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Judgement:
    """Whether a case passed, whether it was refused, and each output's comparison."""

    findings: tuple[Finding, ...]
    refused: bool
    comparisons: Mapping[str, Comparison]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        return tuple(finding.words for finding in self.findings)

    @property
    def worst(self) -> float:
        """The largest error of any output in units of its budget."""
        return max((c.worst for c in self.comparisons.values()), default=0.0)


def judge(
    op: Op, observation: Observation, truths: Mapping[str, Truth], *, may_refuse: bool = False
) -> Judgement:
    """Judge one case against the reference; ``may_refuse`` for what the kernel need not handle."""
    if observation.error is not None:
        refused = observation.refused and may_refuse
        findings = [] if refused else [Finding("error", _of_error(observation))]
        return Judgement((*findings, *_of_memory(observation)), refused, {})
    comparisons = {name: _compare(observation, name, truths[name]) for name in op.outputs}
    findings = [Finding(c.oracle, f"{n}: {c}") for n, c in comparisons.items() if not c.passed]
    elements = sum(output.numel() for output in observation.outputs.values())
    if elements and not observation.launches:
        words = "no launch was seen: a fallback computed this, not the kernel"
        findings.append(Finding("launch", words))
    findings += _of_memory(observation)
    return Judgement(tuple(findings), refused=False, comparisons=comparisons)


def _of_memory(observation: Observation) -> list[Finding]:
    return [Finding("memory", f"memory: {observation.damage}")] if observation.damage else []


def _compare(observation: Observation, name: str, truth: Truth) -> Comparison:
    actual = observation.outputs[name]
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
