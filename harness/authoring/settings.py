"""What a new kernel adds to a pyproject.toml; an edit counts only if it parses as it was meant."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness import project

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

    Raises InvalidSettings as `project.read` does.
    """
    tool = project.read(pyproject.parent)
    # The bytes, since reading as text would lose what its lines end in.
    text = pyproject.read_bytes().decode() if pyproject.is_file() else ""
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
        table = f"[tool.pytest]\nparity_declare = {json.dumps(list(wanted))}\n"
        changed = _with_table(text, table)
    else:
        changed = _LIST.sub(lambda found: f"{found[1]}{json.dumps(list(wanted))[1:-1]}]", text)
    try:
        found = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        return None
    declared = project.declared_in(found.get("tool", {}))
    return changed if list(declared) == list(wanted) else None


def _with_table(text: str, table: str) -> str:
    """The text, an empty line and the table; its lines end as those of the text do."""
    added = f"\n\n{table}" if text.strip() else table
    return text.rstrip() + (added.replace("\n", "\r\n") if "\r\n" in text else added)


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
    changed = _with_table(text, _entry(kernel))
    try:
        tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        return None
    return changed
