"""The import_safety layer: a kernel's package imports where its backend is absent, broken, old."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness import registry
from harness.import_safety import SCENARIOS, ask, problems

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="import_safety")
def test_imports_without_its_backend(parity: Check) -> None:
    parity.each({name: partial(_words, parity, name) for name in SCENARIOS})


def _words(parity: Check, scenario: str) -> str:
    kernel = parity.kernel
    return "; ".join(problems(kernel, scenario, ask(kernel, scenario)))


@pytest.mark.import_safety
@pytest.mark.cpu
@pytest.mark.parity(layer="import_safety")
def test_every_declared_module_loaded() -> None:
    assert not registry.load_errors()
