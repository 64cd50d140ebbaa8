"""How laws are tested: the same examples in every run, without a clock or a memory."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

LAW: Final = settings(derandomize=True, deadline=None, database=None)
