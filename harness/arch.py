"""GPU architectures and claims on them: what a kernel says it runs on, as a pure question."""

from __future__ import annotations

import re
from typing import Final

from harness.registry import WrongDeclaration

ARCHES: Final = ("sm80", "sm86", "sm89", "sm90", "sm100", "sm103", "sm120")
CPU: Final = "cpu"
_NAME = re.compile(r"sm(\d{1,2})(\d)")
_FAMILY = re.compile(r"sm(\d{1,2})x")
_TARGET = re.compile(r"(sm\d{2,3})([af]?)")
_FIRST_SPECIFIC: Final = (9, 0)


class InvalidClaim(WrongDeclaration):
    """A claim that is no arch, no family such as ``sm10x``, no at-least such as ``>=sm80``."""


class UnsupportedArch(NotImplementedError):
    """A kernel was asked to run on an arch that it does not claim; raised before any launch."""


def number(arch: str) -> tuple[int, int]:
    """Compute capability (major, minor) of ``"sm90"``-like names; raises InvalidClaim otherwise."""
    match = _NAME.fullmatch(arch)
    if match is None:
        msg = f"arch={arch!r} is not an architecture; known ones: {', '.join(ARCHES)}"
        raise InvalidClaim(msg)
    return int(match[1]), int(match[2])


def target_of(arch: str, *, specific: bool) -> str:
    """The compilers' word for ``sm90`` or ``sm90a``; ``specific`` code runs on no later arch.

    Archs older than sm90 have no such form. Raises ValueError for a word that is no arch.
    """
    match = _TARGET.fullmatch(arch)
    if match is None:
        msg = f"arch={arch!r} is not an architecture such as 'sm90' or 'sm90a'"
        raise ValueError(msg)
    bound = specific and number(match[1]) >= _FIRST_SPECIFIC
    return f"sm_{match[1].removeprefix('sm')}{match[2] or ('a' if bound else '')}"


def _admits_one(claim: str, arch: str) -> bool:
    if claim.startswith(">="):
        return number(arch) >= number(claim[2:])
    if family := _FAMILY.fullmatch(claim):
        return number(arch)[0] == int(family[1])
    return number(arch) == number(claim)


def admits(claim: str, arch: str) -> bool:
    """Whether ``claim`` covers ``arch``.

    A claim is exact (``sm90``), a family (``sm10x``: sm100 and sm103 share tcgen05, which sm120
    lacks), at least (``>=sm80``), or several of them joined by commas.
    """
    return any(_admits_one(part.strip(), arch) for part in claim.split(","))


def claimed(claim: str) -> tuple[str, ...]:
    """The known archs that ``claim`` covers; raises InvalidClaim if there is none."""
    archs = tuple(arch for arch in ARCHES if admits(claim, arch))
    if not archs:
        msg = f"arch={claim!r} covers none of {', '.join(ARCHES)}; e.g. '>=sm80', 'sm10x' or 'sm90'"
        raise InvalidClaim(msg)
    return archs
