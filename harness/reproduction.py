"""The command that repeats a check: one spelling for failures, records and reports."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def of_case(where: str, arch: str, case: str, *, declare: Sequence[str] = ()) -> str:
    """The command for one case or probe; ``where`` is a path, or ``--pyargs`` and a module."""
    return _pytest(where, declare, "-m", arch, "--case", case)


def of_cell(
    kernel: str,
    arch: str,
    layer: str,
    *,
    where: str = "suites",
    declare: Sequence[str] = (),
    seed: int = 0,
) -> str:
    """The command for every check of a cell, with the seed where it is not the default."""
    seeds = [f"--parity-seed={seed}"] if seed else []
    return _pytest(where, declare, "-m", arch, "--layer", layer, "--kernel", kernel, *seeds)


def _pytest(where: str, declare: Sequence[str], *words: str) -> str:
    targets = [f"--declare={target}" for target in declare]
    return f"pytest {where} {shlex.join([*targets, *words])}"
