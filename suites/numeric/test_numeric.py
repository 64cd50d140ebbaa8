"""The numeric layer: every kernel against its dense float64 reference, by the error budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import layers

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="numeric", by="dtype")
def test_matches_the_reference(parity: Check) -> None:
    layers.matches_the_reference(parity)


@pytest.mark.parity(layer="numeric", by="dtype", kind="rerun")
def test_repeats_its_results(parity: Check) -> None:
    layers.repeats_its_results(parity)


@pytest.mark.parity(layer="numeric", by="dtype", kind="sequence")
def test_leaves_other_calls_alone(parity: Check) -> None:
    layers.leaves_other_calls_alone(parity)


@pytest.mark.parity(layer="numeric", by="dtype", kind="neighbour", needs="independent")
def test_keeps_neighbours_apart(parity: Check) -> None:
    layers.keeps_neighbours_apart(parity)


@pytest.mark.parity(layer="numeric", by="dtype", kind="impostor")
def test_rejects_impostors(parity: Check) -> None:
    layers.rejects_impostors(parity)


@pytest.mark.parity(layer="numeric", by="dtype", kind="upstream", needs="upstream")
def test_is_as_accurate_as_upstream(parity: Check) -> None:
    layers.is_as_accurate_as_upstream(parity)
