"""Every fault of the host code around a kernel: wrappers, fakes and modules."""

from __future__ import annotations

from typing import Final

from harness.power import rules_checks, rules_launch, rules_module, rules_result

RULES: Final = (
    *(*rules_launch.RULES, *rules_result.RULES),
    *(*rules_checks.RULES, *rules_module.RULES),
)
