"""The command line of a power run: faults by rule, what catches them, who is accused wrongly."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import project
from harness.arch import ARCHES, CPU
from harness.atomic import write_text
from harness.check import Settings
from harness.power import matrix, report
from harness.power.campaign import QUICK, BrokenOriginal, Campaign, Wanted
from harness.power.session import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.power.matrix import Row

OUT: Final = Path("build", "power")
STEP_SECONDS: Final = {True: 120.0, False: 600.0}  # by whether nothing has to be compiled


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0, 1 for an incomplete or doubtful result, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        return _report_only(options) if options.read else _run(options)
    except (ValueError, LookupError, ImportError, OSError, BrokenOriginal) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say(f"interrupted; what is finished stays in {options.out}, run again to go on")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.power", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help=f"{QUICK} mutants, each until its first kill")
    add("--arch", default=CPU, choices=[CPU, *ARCHES], help="where kernels run (default: cpu)")
    add("--kernel", action="append", default=[], metavar="NAME", help="only this kernel's mutants")
    add("--count", type=_positive, metavar="N", help="a sample of N mutants (default: all)")
    add(
        "--only", choices=["tuning", "held-out"], help="the mutants to tune on, or the unseen third"
    )
    add("--mutant", metavar="ID", help="this one, with its difference and what caught it")
    add("--list", action="store_true", help="print the ids of the chosen mutants and end")
    add("--seed", type=int, default=0, metavar="N", help="seed of the default run (default 0)")
    add("--cases", type=_positive, metavar="N", help="generated cases per cell, as for pytest")
    add("--jobs", type=_positive, default=_cores(), metavar="N", help="children at a time")
    add(
        "--limit",
        type=_seconds,
        metavar="S",
        help="seconds a step may take before it counts as hung",
    )
    add("--seconds", type=_seconds, default=math.inf, metavar="S", help="for a mutant (no bound)")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"where results go (default {OUT})")
    add("--declare", action="append", default=[], metavar="TARGET", help="as for pytest")
    add(
        "--module",
        action="append",
        default=[],
        type=_pair,
        metavar="KERNEL=MODULE",
        help="a further module to mutate for a kernel",
    )
    add(
        "--read",
        type=Path,
        metavar="PATH",
        help="report on a matrix.json made earlier, run nothing",
    )
    add("--into", type=Path, metavar="PATH", help="replace the figures of this run in a document")
    add("--part", default="", metavar="WORD", help="of the document, as its marks name it")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"{text!r} is not a whole number of at least 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        msg = f"{text!r} is not a number of seconds above 0"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _pair(text: str) -> tuple[str, str]:
    kernel, sign, module = text.partition("=")
    if not (kernel and sign and module):
        msg = f"{text!r} is not of the form KERNEL=MODULE"
        raise argparse.ArgumentTypeError(msg)
    return kernel, module


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _run(options: argparse.Namespace) -> int:
    campaign = Campaign(
        Options(
            targets=(*_declared(Path()), *options.declare),
            arch=options.arch,
            settings=Settings(seed=options.seed, cases=options.cases),
            quick=options.quick,
            folder=options.out,
            seconds=options.seconds,
        ),
        Wanted(
            kernels=tuple(options.kernel),
            modules=tuple(options.module),
            count=options.count or (QUICK if options.quick and not options.mutant else None),
            only=options.only,
            mutant=options.mutant,
            jobs=options.jobs,
            step_seconds=options.limit or STEP_SECONDS[options.arch == CPU],
        ),
        tell=_say,
    )
    if options.list:
        sys.stdout.writelines(f"{mutation.id}\n" for mutation in campaign.mutants)
        return 0
    if options.mutant:
        return _one(campaign)
    return _all(campaign, options)


def _all(campaign: Campaign, options: argparse.Namespace) -> int:
    total = len(campaign.mutants)
    _say(f"{total} mutants, {options.jobs} at a time, on {campaign.inventory.device['device']}")
    rejections = campaign.correct()
    _say(f"{len(rejections.rejected)} of {rejections.results} correct results rejected")
    rows: list[Row] = []
    try:
        for row in campaign.rows():
            rows.append(row)
            _say(f"{len(rows)}/{total} {row.status} {row.id} {row.seconds:.1f} s")
    except KeyboardInterrupt:
        _say(f"interrupted: {total - len(rows)} of {total} mutants were not tried")
    found = campaign.matrix(rows, rejections)
    write_text(options.out / "matrix.json", found.to_json())
    return _show(found, options)


def _report_only(options: argparse.Namespace) -> int:
    return _show(matrix.read(options.read), options)


def _show(found: matrix.Matrix, options: argparse.Namespace) -> int:
    text = report.markdown(found)
    write_text(options.out / "report.md", text)
    with suppress(ImportError):
        report.plot(found, options.out / "power.svg")
    if options.into:
        before = options.into.read_text("utf-8")
        write_text(options.into, report.insert(before, found, options.part))
    sys.stdout.write(f"{text}\n{report.last_line(found)}\n")
    return int(bool(report.doubts(found)))


def _one(campaign: Campaign) -> int:
    (mutation,) = campaign.mutants
    source = campaign.sources[mutation.module]
    lines = difflib.unified_diff(
        source.splitlines(keepends=True),
        mutation.apply(source).splitlines(keepends=True),
        mutation.module,
        mutation.id,
    )
    sys.stdout.writelines(lines)
    (row,) = campaign.rows()
    sys.stdout.write(report.of_row(row))
    return int(row.status is matrix.Status.UNKNOWN)


def _declared(folder: Path) -> tuple[str, ...]:
    """What a pyproject.toml names: correct variants of kernels, and what pytest loads there."""
    tool = project.read(folder)
    # Variants import no kernel; what comes before the kernels is imported once for all children.
    return (*project.variants_in(tool), *project.declared_in(tool))


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


if __name__ == "__main__":
    raise SystemExit(main())
