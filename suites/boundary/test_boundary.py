"""The boundary layer: what lies just outside the domain is refused before launch, and said why."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness.boundary import check_probe, check_survival
from harness.probes import probes, unmade

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="boundary")
def test_refuses_the_neighbours_of_its_domain(parity: Check) -> None:
    op, kernel, device = parity.op, parity.kernel, parity.device
    parity.figures["unmade"] = list(unmade(op))
    made = probes(op, kernel, device)
    checks = {name: partial(check_probe, op, kernel, p, device) for name, p in made.items()}
    parity.each({**checks, "alive=afterwards": partial(check_survival, op, kernel, device)})
