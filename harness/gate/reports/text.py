"""Text of kernels, messages and paths made fit for a report: no control codes, no endless lines."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CUT: Final = 32  # characters that saying how much was cut takes at most
_KEPT: Final = 4096  # texts: most are said of many records
# What XML 1.0 cannot say at all, and lone surrogates, which UTF-8 cannot; carriage returns, too,
# and what turns the direction of text, so that a name cannot show as another.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: object) -> str:
    """The text without terminal escapes; what cannot be shown becomes a replacement character."""
    return _clean(str(text))


@lru_cache(_KEPT)
def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def line(text: object, limit: int = 300) -> str:
    """The text as one line of at most ``limit`` characters."""
    return _line(str(text), limit)


@lru_cache(_KEPT)
def _line(text: str, limit: int) -> str:
    return shortened(" ".join(_clean(text).split()), limit)


def shortened(text: str, limit: int) -> str:
    """The beginning of ``text``, saying how much was left out where it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    kept = max(limit - _CUT, 0)
    return f"{text[:kept]} … ({len(text) - kept} characters more)"


def count(number: int, noun: str) -> str:
    """``1 check``, ``2,048 checks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
