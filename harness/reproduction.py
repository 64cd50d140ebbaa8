"""The command that repeats a check: one spelling for failures, records and reports.

``python -m pytest`` puts the folder that it is run in on the path, so that a project's own packages
are found whether or not they are installed; ``--pyargs`` finds the suites wherever they are.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTEST: Final = "python -m pytest"
_SUITES: Final = "--pyargs suites"


@dataclass(frozen=True)
class Reproduction:
    """The command that repeats one case: where its test is, and the options that go with it.

    ``where`` is a path, or ``--pyargs`` and a module.
    """

    where: str
    words: tuple[str, ...] = ()

    def __call__(self, case: str) -> str:
        """The command for the case or probe of that id."""
        return _pytest(self.where, (), *self.words, "--case", case)


def of_cell(
    kernel: str,
    arch: str,
    layer: str,
    *,
    declare: Sequence[str] = (),
    seed: int = 0,
) -> str:
    """The command for every check of a cell, with the seed where it is not the default."""
    seeds = [f"--parity-seed={seed}"] if seed else []
    return _pytest(_SUITES, declare, "-m", arch, "--layer", layer, "--kernel", kernel, *seeds)


def _pytest(where: str, declare: Sequence[str], *words: str) -> str:
    targets = [f"--declare={target}" for target in declare]
    return f"{PYTEST} {where} {shlex.join([*targets, *words])}"
