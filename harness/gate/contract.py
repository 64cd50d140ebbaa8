"""The contract: what gates a release, what is retained without gating, which failures are known.

It is the table ``[tool.kernel-parity.gate]`` of a TOML file; docs/release-gates.md documents it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path


class InvalidContract(ValueError):
    """A contract with a mistake; the message names the key, where it stands, the nearest known."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which checks an entry is about: patterns of names, of which one has to match in each."""

    kernel: tuple[str, ...] = ("*",)
    arch: tuple[str, ...] = ("*",)
    layer: tuple[str, ...] = ("*",)
    dtype: tuple[str, ...] = ("*",)
    check: tuple[str, ...] = ("*",)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is asked of the checks that match; of several rules the last that says it decides."""

    pattern: Pattern
    where: str  # in the file, for messages
    gating: bool | None = None
    evidence: str | None = None
    cases: int | None = None
    because: str = ""
    reference: str = ""
    expires: dt.date | None = None


@dataclass(frozen=True, kw_only=True)
class Excuse:
    """An exception for holes of some kinds, or a known failure; either has a reference."""

    pattern: Pattern
    where: str
    holes: frozenset[str]
    because: str
    reference: str
    expires: dt.date | None = None


@dataclass(frozen=True)
class Contract:
    """Rules in order, exceptions, known failures; what no rule is about gates."""

    rules: tuple[Rule, ...] = ()
    exceptions: tuple[Excuse, ...] = ()
    known_failures: tuple[Excuse, ...] = ()


def read(path: Path) -> Contract:
    """The contract in a TOML file; raises InvalidContract, or OSError without the file."""
    raise NotImplementedError(path)
