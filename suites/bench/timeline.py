"""A pytest plugin that writes when each test ran, and in which worker: ``--timeline PATH``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--timeline", type=Path, required=True, metavar="PATH")


def pytest_configure(config: pytest.Config) -> None:
    """Listen where reports come together: in the only process, or xdist's controller."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Timeline(config.option.timeline), "bench-timeline")


class _Timeline:
    """Keeps what reports say."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[dict[str, object]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep seconds since the epoch of a test's call, and of nothing else."""
        if report.when != "call" and report.passed:
            return
        self._seen.append(
            {
                "test": report.nodeid,
                "worker": getattr(report, "worker_id", ""),
                "outcome": report.outcome,
                "start": report.start,
                "stop": report.stop,
            }
        )

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        self._path.write_text(json.dumps(self._seen), encoding="utf-8")
