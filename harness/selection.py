"""Which checks a run's options ask for: pure questions about cells, case ids and names."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.cells import Cell, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROBE: Final = "/probe="  # in the id of what is no generated case
_KIND: Final = re.compile(r"(.*,seed=\d+)/([a-z_]+)")  # of what is done with a case, after its id


def kind_of(case_id: str) -> tuple[str, str]:
    """The case's own id, and the word after it that names a check of another kind, or nothing."""
    found = _KIND.fullmatch(case_id)
    return (found[1], found[2]) if found else (case_id, "")


@dataclass(frozen=True)
class Request:
    """The parameter of one test item: a cell, a dtype where asked for one, what its ids end in."""

    cell: Cell
    dtype: str | None = None
    kind: str = ""

    @property
    def id(self) -> str:
        """The item's id, e.g. ``rms_norm.triton-sm90-bfloat16``."""
        return "-".join(part for part in (self.cell.kernel, self.cell.arch, self.dtype) if part)


@dataclass(frozen=True)
class Reproduction:
    """The command that repeats one case: where its test is, and the options that go with it."""

    where: str
    words: tuple[str, ...] = ()

    def __call__(self, case: str) -> str:
        """The command for the case of that id."""
        return f"pytest {self.where} {shlex.join([*self.words, '--case', case])}"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The options that choose among checks; empty ones choose all."""

    kernels: Sequence[str] = ()
    ops: Sequence[str] = ()
    layers: Sequence[str] = ()
    case: str | None = None
    declared: bool = False

    @property
    def of_cells(self) -> bool:
        """Whether the options ask for cells, so that tests of anything else stay out."""
        return bool(self.kernels or self.ops or self.layers or self.case or self.declared)

    def check(self) -> None:
        """Raise UnknownName or InvalidCase for a name or case id that nothing declares."""
        from harness import registry
        from harness.case import kernel_of, parse

        for name in self.kernels:
            registry.kernel(name)
        for name in self.ops:
            registry.op(name)
        if self.case:
            registry.kernel(kernel_of(self.case))
            if _PROBE not in self.case:
                parse(kind_of(self.case)[0])

    def wants(self, request: Request) -> bool:
        """Whether the check of a cell is asked for."""
        from harness import registry
        from harness.case import kernel_of

        kernel = registry.kernel(request.cell.kernel)
        return (
            (not self.kernels or kernel.name in self.kernels)
            and (not self.ops or kernel.op in self.ops)
            and (not self.layers or request.cell.layer in self.layers)
            and (not self.case or (kernel_of(self.case) == kernel.name and self._in_case(request)))
        )

    def wants_all_of(self, layer: str) -> bool:
        """Whether a test of a layer over all that is declared is asked for."""
        narrowed = self.kernels or self.ops or self.case
        return not narrowed and (not self.layers or layer in self.layers)

    def _in_case(self, request: Request) -> bool:
        if _PROBE in str(self.case):
            return request.dtype is None and request.cell.layer is not Layer.COMPILE
        if kind_of(str(self.case))[1] != request.kind:
            return False
        if request.dtype is None:
            # Their cases are a list over all dtypes.
            return request.cell.layer in {Layer.COMPILE, Layer.SANITIZE}
        return f"dtype={request.dtype}," in str(self.case)
