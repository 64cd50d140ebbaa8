"""The numeric layer: every kernel against its dense float64 reference, by the error budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="numeric", by="dtype")
def test_matches_the_reference(parity: Check) -> None:
    parity.explore(parity.judge_against_reference)
