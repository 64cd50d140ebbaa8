"""Every fault of the host code around a kernel: wrappers, fakes and modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power import rules_checks, rules_launch, rules_module, rules_result
from harness.power.syntax import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.power.syntax import Edit

RULES: Final = (
    *(*rules_launch.RULES, *rules_result.RULES),
    *(*rules_checks.RULES, *rules_module.RULES),
)


def edits(text: str) -> Iterator[Edit]:
    """The faults of every function that runs on the host, by rule."""
    source = Source(text)
    for each in RULES:
        yield from each.edits(source)
