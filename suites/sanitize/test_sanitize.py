"""The sanitize layer: no tool of compute-sanitizer finds fault with a kernel on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import sanitizer

if TYPE_CHECKING:
    from harness.check import Check


@pytest.mark.parity(layer="sanitize", kind=sanitizer.KIND)
def test_no_tool_finds_fault(parity: Check) -> None:
    sanitizer.check_cell(parity)
