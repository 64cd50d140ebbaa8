"""An arch that is not on this machine; asking which ones are imports torch."""

from __future__ import annotations

from typing import Final

from harness.arch import CPU
from harness.device import present_archs
from suites.meta.users_project import ONE_CHECK

ABSENT: Final = next(arch for arch in ("sm100", "sm120") if arch not in present_archs())
HERE_AND_AWAY: Final = ("--pyargs", ONE_CHECK, "suites.boundary", "-m", f"{CPU} or {ABSENT}")
