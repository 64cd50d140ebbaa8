"""Loading the plugin costs pytest's start no torch, no triton and no Hypothesis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness

pytest_plugins = ("pytester",)

ROOT = Path(harness.__file__).parents[1]
HEAVY = ("hypothesis", "numpy", "torch", "triton")


def loaded_after(statement: str) -> set[str]:
    """Names in ``sys.modules`` of a fresh process after ``statement``."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["harness", "harness.plugin", "harness.registry", "suites.meta.conftest"]
)
def test_an_import_brings_in_nothing_heavy(module: str) -> None:
    loaded = loaded_after(f"import {module}")
    assert module in loaded
    assert sorted(loaded.intersection(HEAVY)) == []


def test_a_name_of_the_package_brings_in_its_own_module_only() -> None:
    loaded = loaded_after("from harness import kernel, op, size")
    assert "harness.declare" in loaded
    assert sorted(loaded.intersection(HEAVY)) == []


def test_a_run_without_cells_brings_in_nothing_heavy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    pytester.makeconftest('pytest_plugins = ("harness.plugin",)')
    pytester.makeini("[pytest]\nparity_declare = nothing.asks.for.it")
    pytester.makepyfile(
        f"""
        import sys

        def test_of_something_else(request):
            assert request.config.pluginmanager.has_plugin("harness.plugin")
            assert not sorted(set(sys.modules).intersection({HEAVY}))
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
