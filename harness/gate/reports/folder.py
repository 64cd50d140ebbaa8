"""All reports that are files, in one folder: each of them whole, or as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.atomic import write_text
from harness.gate.reports import html, junit, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged
    from harness.gate.judge import Judgement

REPORTS: Final = {
    "report.html": html.render,
    "report.md": markdown.render,
    "junit.xml": junit.render,
}


def write(folder: Path, judgement: Judgement, merged: Merged, changes: Sequence[Drift]) -> None:
    """Write every report into ``folder``, which is made if need be; raises OSError."""
    made = {name: render(judgement, merged, changes) for name, render in REPORTS.items()}
    for name, text in made.items():
        write_text(folder / name, text)
