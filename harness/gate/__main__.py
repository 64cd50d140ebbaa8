"""The gate: ``python -m harness.gate --arch sm90 --records DIR`` judges, with no torch installed.

Exit status 0: green; 1: red; 2: cannot judge.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from harness.gate import baseline, contract, drift, evidence, ratios
from harness.gate.judge import judge
from harness.gate.reports import terminal
from harness.gate.samples import samples_of
from harness.gate.slowdown import compare_ratios

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.gate.drift import Drift

CANNOT_JUDGE: Final = 2
_WIDTH: Final = 300


def main(arguments: Sequence[str] | None = None, *, kept: list[object] | None = None) -> int:
    """Judge; returns the exit status. ``kept`` takes what is not to be freed on return."""
    options = _parser().parse_args(arguments)
    try:
        with evidence.all_kept():
            return _judged(options, [] if kept is None else kept)
    except (ValueError, OSError) as error:
        words = str(error)
    except Exception as error:  # noqa: BLE001 - Python ends with 1, which would read as red
        words = _defect(error)
    sys.stderr.write(f"cannot judge: {words}\n")
    return CANNOT_JUDGE


def _judged(options: argparse.Namespace, kept: list[object]) -> int:
    wanted = contract.read(options.contract)
    merged = evidence.read(options.records)
    drifts = drifts_of(options, merged)
    judgement = judge(wanted, merged, options.arch, kernels=options.kernel, drifts=drifts)
    kept += (merged, judgement)
    summary = terminal.render(judgement, merged, drifts)
    if options.report:
        from harness.gate.reports import folder

        folder.write(options.report, judgement, merged, drifts)
    sys.stdout.write(summary)
    sys.stdout.flush()  # a verdict that nobody can read is none
    return judgement.exit_status


def _defect(error: Exception) -> str:
    """The last resort: what nobody foresaw, in one line, and where it came up."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    said = " ".join(f"{type(error).__name__}: {error}".split())[:_WIDTH]
    return (
        f"{said} (in {Path(frame.f_code.co_filename).name}:{line}); a file is damaged, or this is "
        "a defect of the gate: make the records again, and report it if that does not help"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.gate", description=__doc__)
    add = parser.add_argument
    add("--records", type=Path, required=True, metavar="DIR", help="*.jsonl with their manifests")
    add("--arch", action="append", default=[], help="judge this arch and cpu; may be given again")
    add("--kernel", action="append", default=[], metavar="PATTERN", help="judge these kernels only")
    add("--contract", type=Path, default=Path("pyproject.toml"), metavar="FILE")
    add("--baseline", type=Path, metavar="FILE", help="releases kept by harness.gate.baseline")
    add("--baseline-name", default="", metavar="NAME", help="which (default: the one kept last)")
    add("--bench", type=Path, metavar="FILE", help="ratios of `python -m suites.bench --json FILE`")
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write report.html, report.md (a comment for a pull request) and junit.xml into DIR",
    )
    return parser


def drifts_of(options: argparse.Namespace, merged: evidence.Merged) -> tuple[Drift, ...]:
    """How errors and ratios moved since the baseline, if one is named; there is something then."""
    if options.baseline is None:
        if options.baseline_name or options.bench:
            msg = "--baseline-name and --bench need --baseline FILE, to compare with"
            raise ValueError(msg)
        return ()
    before = baseline.load(options.baseline, options.baseline_name)
    now = ratios.read(options.bench) if options.bench else ()
    samples = samples_of(merged.records)
    moved = (*drift.compare(before, samples), *compare_ratios(before.ratios, now))
    drift.refuse_nothing(moved, before, samples)
    return moved


def _run() -> NoReturn:
    """Judge and end: to look for garbage among 100,000 records, or free them, takes its time."""
    gc.disable()
    kept: list[object] = []
    status = main(kept=kept)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _run()
