"""Processes that compile the same Triton kernel at once compile it once, and fail one by one."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN401, N803

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton import knobs

import harness
from harness.launches import capture_launches
from harness.triton_aot import compile_launch
from harness.triton_cache import compiling_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(harness.__file__).parents[1]

# Says "compiled" or "found"; starts when it is told to.
COMPILES = """
from suites.meta.test_triton_cache import compiled, heard

with heard() as said:
    print("ready", flush=True)
    input()
    compiled()
print(*said)
"""


@contextmanager
def heard() -> Iterator[list[str]]:
    """What Triton did for each kernel of the scope."""
    said: list[str] = []

    def listen(*, cache_hit: bool, **_: object) -> None:
        said.append("found" if cache_hit else "compiled")

    with knobs.compilation.scope():
        vars(knobs.compilation)["listener"] = listen
        yield said


@triton.jit
def triple(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, 3 * tl.load(x + at))


@triton.jit
def broken(x, y, BLOCK: tl.constexpr):  # noqa: ARG001
    tl.static_assert(BLOCK < 0, "never")


def compiled(kernel: Any = triple) -> None:
    x = torch.zeros(64)
    with capture_launches() as launches:
        kernel[1,](x, x, 64)
    compile_launch(launches[0], "sm90")


def test_processes_that_compile_at_once_compile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(knobs.cache), "dir", str(tmp_path))
    with (
        subprocess.Popen(
            [sys.executable, "-c", COMPILES],
            cwd=ROOT,
            env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},  # noqa: TID251
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other,
        heard() as said,
    ):
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        other.stdin.flush()
        compiled()
        assert sorted([*said, other.stdout.read().strip()]) == ["compiled", "found"]
    assert not list(tmp_path.glob("*.lock"))


def test_a_failed_compilation_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(knobs.cache), "dir", str(tmp_path))
    failed = None
    try:
        compiled(broken)
    except Exception as error:  # noqa: BLE001 - kept, as a report keeps it
        failed = error
    assert failed is not None
    assert not list(tmp_path.glob("*.lock"))
    assert knobs.cache.manager_class is None


def test_outside_a_scope_triton_is_as_ever() -> None:
    with compiling_once():
        inner = knobs.cache.manager_class
        with compiling_once():
            assert knobs.cache.manager_class is inner
        assert inner is not None
    assert knobs.cache.manager_class is None
