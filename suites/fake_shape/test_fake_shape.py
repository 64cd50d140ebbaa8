"""The fake_shape layer: fake and real agree on results, on refusals, and trace through the op."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness import fakes
from harness.cells import Evidence
from harness.check import CASES
from harness.judge import Finding, Judgement
from harness.probes import base_case, probes

if TYPE_CHECKING:
    from harness.case import Case
    from harness.check import Check


@pytest.mark.parity(layer="fake_shape", by="dtype")
def test_fake_describes_the_real_result(parity: Check) -> None:
    def check(case: Case) -> Judgement:
        words = fakes.check_case(parity.op, parity.kernel, case, parity.device)
        return Judgement((Finding("fake", words),) if words else (), refused=False, comparisons={})

    parity.explore(check, examples=parity.settings.cases or CASES[Evidence.FAKE])


@pytest.mark.parity(layer="fake_shape")
def test_fake_refuses_what_the_real_one_refuses(parity: Check) -> None:
    op, kernel, device = parity.op, parity.kernel, parity.device
    case = base_case(op, kernel)
    made = probes(op, kernel, device)
    checks = {
        name: partial(fakes.check_refusal, op, kernel, probe, device)
        for name, probe in made.items()
        if probe.arch is None  # a fake has no device, so it cannot know its arch
    }
    checks["name"] = partial(fakes.check_name, op, kernel)
    checks["opcheck"] = partial(fakes.check_opcheck, op, kernel, case, device)
    checks["traces"] = partial(fakes.check_traces, op, kernel, case, device)
    parity.each(checks)
