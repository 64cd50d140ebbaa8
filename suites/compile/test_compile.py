"""The compile layer: machine code for every claimed arch, with the instructions it exists for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import compilation
from harness.artifact import CompileFailed, InspectionFailed
from harness.backends import BackendMissing
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from harness.case import Case
    from harness.check import Check


@pytest.mark.parity(layer="compile")
def test_compiles_to_the_expected_machine_code(parity: Check) -> None:
    compiled: list[compilation.Compiled] = []

    def check(case: Case) -> str:
        try:
            made = compilation.compile_case(parity.op, parity.kernel, case, parity.cell.arch)
        except CompileFailed as error:
            return str(error)
        except (BackendMissing, InspectionFailed) as error:
            raise Unavailable(str(error)) from error
        compiled.append(made)
        return "; ".join(compilation.problems(parity.kernel, made, parity.cell.arch))

    cases = compilation.representative(parity.op, parity.kernel, parity.cell.arch)
    parity.each_case(list(cases), check)
    parity.figures |= compilation.figures(compiled)
