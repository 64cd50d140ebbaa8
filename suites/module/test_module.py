"""The module layer: each module against its dense twin, its state, its ways to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import modules

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.check import Check


@pytest.mark.parity(layer="module")
def test_is_its_dense_twin_however_it_runs(parity: Check) -> None:
    checks: dict[str, Callable[[], str]] = {}
    for subject in parity.subjects:
        for dtype in subject.dtypes:
            checks |= modules.checks(
                subject,
                backend=parity.kernel.backend,
                dtype=dtype,
                device=parity.device,
                seed=parity.settings.seed,
            )
    parity.each(checks)
