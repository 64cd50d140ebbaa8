"""Every fault of device code that is written in Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power import rules_arithmetic, rules_index, rules_precision, rules_semantic
from harness.power.syntax import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.power.syntax import Edit

RULES: Final = (
    *(*rules_semantic.RULES, *rules_arithmetic.RULES),
    *(*rules_index.RULES, *rules_precision.RULES),
)


def edits(text: str) -> Iterator[Edit]:
    """The faults of every function that Triton compiles, by rule."""
    source = Source(text)
    for each in RULES:
        yield from each.edits(source)
