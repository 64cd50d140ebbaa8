"""The judgement: contract, inventory and records compared, a finding for each cell and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from harness.gate.contract import Contract
    from harness.gate.evidence import Merged


class Status(StrEnum):
    """What the gate makes of a cell and dtype."""

    GREEN = "green"
    RED = "red"
    EXCUSED = "excused"  # an exception or a known failure, with a reference and not expired
    RETAINED = "retained"  # claimed and recorded, but not gating


class Hole(StrEnum):
    """Why a cell is not green."""

    FAILED = "failed"
    CRASHED = "crashed"
    HUNG = "hung"
    SKIPPED = "skipped"
    DESELECTED = "deselected"
    LOST = "lost"  # collected, and no record
    UNCOVERED = "uncovered"  # never collected
    NO_CASES = "no_cases"
    TOO_FEW_CASES = "too_few_cases"
    OTHER_BACKEND = "other_backend"
    WEAK_EVIDENCE = "weak_evidence"
    EXPIRED = "expired"
    UNEXPECTED_PASS = "unexpected_pass"  # noqa: S105 - no password
    UNFINISHED = "unfinished"  # the run was killed


@dataclass(frozen=True)
class Finding:
    """What the gate says of a cell in one dtype (or none), or of a whole run (no kernel)."""

    kernel: str
    arch: str
    layer: str
    dtype: str
    status: Status
    hole: Hole | None = None
    words: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Judgement:
    """All findings, notes that are no verdict, the archs that were asked for, the runs' ids."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def green(self) -> bool:
        """Whether nothing is red, and anything was judged."""
        return bool(self.findings) and all(f.status is not Status.RED for f in self.findings)

    @property
    def exit_status(self) -> int:
        """0 if green, else 1."""
        return 0 if self.green else 1


def judge(
    contract: Contract,
    merged: Merged,
    archs: Sequence[str] = (),
    *,
    kernels: Sequence[str] = (),
    today: dt.date | None = None,
) -> Judgement:
    """Compare; ``archs`` and ``kernels`` (patterns) restrict what is judged, empty ones do not.

    Raises CannotJudge for a contract or an arch that the inventory does not know.
    """
    raise NotImplementedError((contract, merged, archs, kernels, today))
