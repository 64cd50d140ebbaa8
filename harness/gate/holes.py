"""The words of a judgement: what the gate makes of a cell, and why one is not green."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """What the gate makes of a cell and dtype; the last is of records that it did not look at."""

    GREEN = "green"
    RED = "red"
    EXCUSED = "excused"  # an exception or a known failure, with a reference and not expired
    RETAINED = "retained"  # claimed and recorded, but not gating
    NOT_ASKED_FOR = "not_asked_for"  # recorded, and another arch or kernel is judged


class Hole(StrEnum):
    """Why a cell is not green; the gravest first."""

    CRASHED = "crashed"
    HUNG = "hung"
    FAILED = "failed"
    EXPIRED = "expired"
    OTHER_BACKEND = "other_backend"
    LOST = "lost"  # collected, and no record
    UNFINISHED = "unfinished"  # the run was killed
    UNCOVERED = "uncovered"  # never collected
    DESELECTED = "deselected"
    SKIPPED = "skipped"
    WEAK_EVIDENCE = "weak_evidence"
    NO_CASES = "no_cases"
    TOO_FEW_CASES = "too_few_cases"
    DRIFT = "drift"  # errors or a benchmark's ratio got worse since a baseline
    UNEXPECTED_PASS = "unexpected_pass"  # noqa: S105 - no password


FAILURES: Final = (Hole.CRASHED, Hole.HUNG, Hole.FAILED)
EXCEPTIONS: Final = (
    Hole.UNCOVERED,
    Hole.DESELECTED,
    Hole.SKIPPED,
    Hole.WEAK_EVIDENCE,
    Hole.NO_CASES,
    Hole.TOO_FEW_CASES,
    Hole.DRIFT,
)
