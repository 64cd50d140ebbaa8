"""The compile layer: machine code for every claimed arch, with the instructions it exists for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import compilation
from harness.artifact import CompileFailed
from harness.backends import BackendMissing
from harness.disassembly import InspectionFailed
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from harness.case import Case
    from harness.check import Check


@pytest.mark.parity(layer="compile")
def test_compiles_to_the_expected_machine_code(parity: Check) -> None:
    arch, compiled = parity.cell.arch, list[compilation.Compiled]()
    cases = list(compilation.representative(parity.op, parity.kernel, arch))
    wanted = [case for case in cases if parity.settings.only in {None, case.id}]
    made = compilation.compile_cases(parity.op, parity.kernel, wanted, arch)

    def check(case: Case) -> str:
        found = made[case]
        try:
            if isinstance(found, Exception):
                raise found
            compiled.append(found)
            return "; ".join(compilation.problems(parity.kernel, found, arch))
        except CompileFailed as error:
            return str(error)
        except (BackendMissing, InspectionFailed) as error:
            raise Unavailable(str(error)) from error

    parity.each_case(cases, check)
    parity.figures |= compilation.figures(compiled)
