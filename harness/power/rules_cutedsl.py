"""Every fault of device code that is written in the CuTe DSL."""

from __future__ import annotations

from typing import Final

from harness.power import rules_cutedsl_order, rules_cutedsl_places, rules_cutedsl_values

RULES: Final = (
    *(*rules_cutedsl_order.RULES, *rules_cutedsl_values.RULES),
    *rules_cutedsl_places.RULES,
)
