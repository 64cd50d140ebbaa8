"""What the gate makes of drift: a finding for each row that is flagged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.gate.holes import Hole, Status
from harness.gate.policy import base
from harness.gate.slowdown import BENCH
from harness.manifest import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.gate.contract import Excuse
    from harness.gate.drift import Drift
    from harness.gate.policy import Policies


def status_of(drift: Drift, policies: Policies) -> tuple[Status, str]:
    """Red, unless the contract retains or excuses it; and the reference, where it does.

    A row of several dtypes is excused if each of them is. A benchmark's is nobody's cell.
    """
    if of_bench(drift):
        return Status.RED, ""
    each = list(_asked(drift))
    policy = policies.of_cell(each[0][:3])
    asks = [policy(asked.dtype, base(asked.check)) for asked in each]
    gating = [asked for asked, ask in zip(each, asks, strict=True) if ask.gating]
    if not gating:
        return Status.RETAINED, asks[0].reference
    excuses = [_excuse(asked, policies) for asked in gating]
    valid = [excuse for excuse in excuses if excuse is not None]
    if len(valid) == len(excuses):
        return Status.EXCUSED, valid[0].reference
    return Status.RED, ""


def _asked(drift: Drift) -> Iterator[Asked]:
    for dtype in drift.dtypes or (drift.dtype,):
        yield Asked(drift.kernel, drift.arch, drift.layer, drift.check, dtype)


def _excuse(asked: Asked, policies: Policies) -> Excuse | None:
    valid = (
        excuse
        for excuse in policies.exceptions(asked)
        if Hole.DRIFT in excuse.holes and not policies.is_past(excuse)
    )
    return next(valid, None)


def of_bench(drift: Drift) -> bool:
    """Whether a row has a benchmark's ratio, which belongs to no cell."""
    return drift.layer == BENCH


def note(drift: Drift) -> str:
    """What is flagged, for a contract that reports drift and does not gate it."""
    where = (drift.kernel, drift.arch, drift.layer, drift.dtype)
    return f"drift: {' '.join(part for part in where if part)}: {said(drift)}"


def said(drift: Drift) -> str:
    """The check and how it moved."""
    return f"{drift.check}: {drift.words}"
