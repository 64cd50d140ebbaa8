"""The boundary layer: what lies just outside the domain is refused before launch, and said why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import layers

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="boundary")
def test_refuses_the_neighbours_of_its_domain(parity: Check) -> None:
    layers.refuses_the_neighbours_of_its_domain(parity)
