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
class Judgement:
    """Whether a case passed, whether it was refused, and each output's comparison."""

    problems: tuple[str, ...]
    refused: bool
    comparisons: Mapping[str, Comparison]

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
        problem = "" if refused else _of_error(observation)
        problems = [problem, observation.damage]
        return Judgement(tuple(p for p in problems if p), refused, {})
    comparisons = {name: _compare(observation, name, truths[name]) for name in op.outputs}
    problems = [f"{name}: {c}" for name, c in comparisons.items() if not c.passed]
    elements = sum(output.numel() for output in observation.outputs.values())
    if elements and not observation.launches:
        problems.append("no launch was seen: a fallback computed this, not the kernel")
    if observation.damage:
        problems.append(f"memory: {observation.damage}")
    return Judgement(tuple(problems), refused=False, comparisons=comparisons)


def _compare(observation: Observation, name: str, truth: Truth) -> Comparison:
    actual = observation.outputs[name]
    if truth.budget is None:
        return compare_exact(actual, truth.expected)
    return compare(actual, truth.expected, truth.magnitude, truth.budget)


def _of_error(observation: Observation) -> str:
    error = observation.error
    when = (
        f"after {len(observation.launches)} launches" if observation.launches else "before launch"
    )
    return f"raised {type(error).__name__} {when}: {error}"
