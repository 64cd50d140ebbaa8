"""The validity rule: a case that correct float32 arithmetic fails convicts nobody."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from harness.judge import compare_with
from harness.precision import outputs_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.case import Case
    from harness.declare import Op
    from harness.judge import Judgement
    from harness.reference import Truth

EXCUSABLE: Final = frozenset({"budget", "bias", "bitwise", "within"})
SHARE: Final = 1 / 4  # of a family's cases; beyond it the family says little, and the run says so


def without_unfair(
    op: Op,
    case: Case,
    inputs: Mapping[str, Tensor | None],
    truths: Mapping[str, Truth],
    judgement: Judgement,
) -> Judgement:
    """``judgement``, without its findings where the case is not a fair one.

    A case is unfair if it fails by rounding errors alone, and the reference in plain float32 fails
    in each of the outputs concerned. Errors, exact bytes, memory and launches are never excused.
    """
    wrong = {finding.output for finding in judgement.findings}
    if not wrong or any(finding.oracle not in EXCUSABLE for finding in judgement.findings):
        return judgement
    plain = outputs_in(torch.float32, op, case, inputs)
    if any(compare_with(plain[name], truths[name]).passed for name in wrong):
        return judgement
    return replace(judgement, findings=(), comparisons={}, unfair=True)


def mostly_unfair(cases: Mapping[str, int], unfair: Mapping[str, int]) -> list[str]:
    """Words for each family of which more than ``SHARE`` of the cases were unfair."""
    dropped = Counter(unfair)
    return [
        f"{family}: {dropped[family]} of {count} cases are beyond float32"
        for family, count in sorted(cases.items())
        if dropped[family] > SHARE * count
    ]
