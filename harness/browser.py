"""Which Chromium is on this machine, for tests of pages."""

from __future__ import annotations

import shutil
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING: Final = "no Chromium is on this machine; apt-get install chromium"


def executable() -> str:
    """The path of the first that is found; empty without one."""
    return next(filter(None, map(shutil.which, NAMES)), "")
