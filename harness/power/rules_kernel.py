"""Every fault of device code that is written in Triton."""

from __future__ import annotations

from typing import Final

from harness.power import rules_arithmetic, rules_index, rules_precision, rules_semantic

RULES: Final = (
    *(*rules_semantic.RULES, *rules_arithmetic.RULES),
    *(*rules_index.RULES, *rules_precision.RULES),
)
