"""The gate: ``python -m harness.gate --arch sm90 --records DIR`` judges, with no torch installed.

Exit status 0: green; 1: red; 2: cannot judge.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.gate import contract, evidence
from harness.gate.holes import Status
from harness.gate.judge import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.gate.judge import Finding, Judgement

CANNOT_JUDGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with evidence.all_kept():
            wanted = contract.read(options.contract)
            merged = evidence.read(options.records)
            judgement = judge(wanted, merged, options.arch, kernels=options.kernel)
    except (contract.InvalidContract, evidence.CannotJudge, OSError) as error:
        sys.stderr.write(f"cannot judge: {error}\n")
        return CANNOT_JUDGE
    sys.stdout.writelines(f"{line}\n" for line in lines(judgement))
    return judgement.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.gate", description=__doc__)
    add = parser.add_argument
    add("--records", type=Path, required=True, metavar="DIR", help="*.jsonl with their manifests")
    add("--arch", action="append", default=[], help="judge this arch and cpu; may be given again")
    add("--kernel", action="append", default=[], metavar="PATTERN", help="judge these kernels only")
    add("--contract", type=Path, default=Path("pyproject.toml"), metavar="FILE")
    return parser


def lines(judgement: Judgement) -> Iterator[str]:
    """What is red, what is excused, notes, and the totals."""
    for status in (Status.RED, Status.EXCUSED):
        for finding in judgement.findings:
            if finding.status is status:
                yield _line(finding)
    yield from (f"note: {note}" for note in judgement.notes)
    counts = Counter(finding.status for finding in judgement.findings)
    words = ", ".join(f"{counts[status]} {status}" for status in Status)
    verdict = "green" if judgement.green else "RED"
    yield f"gate: {verdict}; {words}, of {len(judgement.runs)} runs"


def _line(finding: Finding) -> str:
    where = (finding.kernel, finding.arch, finding.layer, finding.dtype)
    cell = " ".join(part for part in where if part) or "the whole"
    reference = f" [{finding.reference}]" if finding.reference else ""
    return f"{finding.status}: {cell}: {finding.hole}: {finding.words}{reference}"


if __name__ == "__main__":
    raise SystemExit(main())
