"""What a new kernel adds to a pyproject.toml; an edit counts only if it parses as it was meant."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.authoring import project

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LIST: Final = re.compile(r"(?m)^(parity_declare\s*=\s*\[)(.*?)(,?\s*)(\])", re.DOTALL)


CASES: Final = 12  # of each dtype, of the 18 that are generated, less those beyond float32


@dataclass(frozen=True)
class Settings:
    """The new text of a pyproject.toml, None to leave it alone, and what is left to do by hand."""

    text: str | None
    advice: tuple[str, ...] = ()


def with_settings(pyproject: Path, kernel: str, targets: Sequence[str]) -> Settings:
    """The file with ``targets`` among what pytest loads, and the contract's entry of a kernel.

    Raises ValueError for a file that is no TOML.
    """
    tool = project.read(pyproject.parent)
    text = pyproject.read_text(encoding="utf-8") if pyproject.is_file() else ""
    known = project.declared_in(tool)
    # A package that is loaded whole has its submodules loaded.
    missing = [t for t in targets if not any(f"{t}.".startswith(f"{k}.") for k in known)]
    advice = []
    if missing:
        wanted = [*known, *missing]
        changed = _declaring(text, tool, wanted)
        if changed is None:
            advice.append(f"tell pytest: parity_declare = {json.dumps(wanted)}")
        text = text if changed is None else changed
    contracted = _with_entry(text, kernel)
    if contracted is None:
        advice.append(f"the contract: {' '.join(_entry(kernel).split())}")
    return Settings(contracted or text or None, tuple(advice))


def _declaring(text: str, tool: object, wanted: Sequence[str]) -> str | None:
    """The text with ``parity_declare`` as wanted; None where no simple edit makes it so."""
    if not isinstance(tool, dict) or "pytest" not in tool:
        changed = f"{_ended(text)}[tool.pytest]\nparity_declare = {json.dumps(list(wanted))}\n"
    else:
        changed = _LIST.sub(lambda found: f"{found[1]}{json.dumps(list(wanted))[1:-1]}]", text)
    try:
        found = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        return None
    declared = project.declared_in(found.get("tool", {}))
    return changed if list(declared) == list(wanted) else None


def _ended(text: str) -> str:
    """The text and an empty line, to begin a table after."""
    return f"{text.rstrip()}\n\n" if text.strip() else ""


def _entry(kernel: str) -> str:
    """What the gate asks beyond its defaults: the kernel is not lost, nor its search cut short."""
    return (
        "[[tool.kernel-parity.gate.rules]]\n"
        f"kernel = {json.dumps(kernel)}\n"
        'check = "test_matches_the_reference"\n'
        f"cases = {CASES}\n"
    )


def _with_entry(text: str, kernel: str) -> str | None:
    """The text and the contract's entry; None where none can follow its rules as they stand."""
    changed = f"{_ended(text)}{_entry(kernel)}"
    try:
        tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        return None
    return changed
