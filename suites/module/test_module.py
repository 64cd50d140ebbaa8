"""The module layer: each module against its dense twin, its state, its ways to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import layers

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="module")
def test_is_its_dense_twin_however_it_runs(parity: Check) -> None:
    layers.is_its_dense_twin_however_it_runs(parity)
