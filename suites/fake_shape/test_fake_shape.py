"""The fake_shape layer: fake and real agree on results, on refusals, and trace through the op."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import layers

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="fake_shape", by="dtype")
def test_fake_describes_the_real_result(parity: Check) -> None:
    layers.fake_describes_the_real_result(parity)


@pytest.mark.parity(layer="fake_shape")
def test_fake_refuses_what_the_real_one_refuses(parity: Check) -> None:
    layers.fake_refuses_what_the_real_one_refuses(parity)
