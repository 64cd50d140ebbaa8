"""Tries the budget on many correct results and prints, or writes, its calibration.

    python -m suites.calibrate [--device cuda] [--results 2000] [--seed 0] [--write]

Exits with 1 if a correct result was rejected; each is printed with its case.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness import calibration, record
from harness import device as devices
from suites.calibrate.measure import MODES, Tally, of_products, of_variants

if TYPE_CHECKING:
    from collections.abc import Sequence

RULE = (
    "|error| <= ulp/2 + u*(c*sqrt(n) [+ chain_roundoff*ceil(n/chain_depth) on tensor cores])"
    "*scale + declared terms + smallest subnormal"
)


def entry_of(tally: Tally, device: torch.device, *, command: str, date: str) -> calibration.Entry:
    """The entry that a measurement makes, at the constants that it was judged by."""
    known = tally.constants
    return calibration.Entry(
        arch=devices.arch_of(device),
        accumulates=tally.accumulates,
        rule=RULE,
        safety=known.safety,
        chain_roundoff=known.chain_roundoff,
        chain_depth=known.chain_depth,
        results=tally.results,
        rejected=len(tally.rejected),
        worst=round(tally.worst, 4),
        quantiles={name: round(value, 4) for name, value in tally.quantiles().items()},
        variants=tuple(sorted(tally.sources)),
        command=command,
        device=devices.describe(device),
        versions=record.versions(),
        date=date,
    )


def show(tally: Tally) -> None:
    """Print one line a source and the distribution."""
    print(f"\n{tally.accumulates}: {tally.results} correct results")
    for source, worst in sorted(tally.sources.items(), key=lambda item: -item[1]):
        shown = f"{worst:.3f} of the budget" if worst >= 0 else "no float32 sums"
        print(f"  {source:64} {shown}")
    for name, value in tally.quantiles().items():
        print(f"  {name:20} {value:.4g}")
    by_reason = defaultdict(list)
    for rejection in tally.rejected:
        by_reason[rejection.source].append(rejection)
    for source, found in by_reason.items():
        print(f"  REJECTED {len(found)} of {source}, the first in {found[0].case}")
        print(f"    {found[0].words}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write if asked; the number of rejected results decides the exit code."""
    parser = argparse.ArgumentParser(prog="python -m suites.calibrate", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--results", type=int, default=2000, help="of variants (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the entries into the package")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    tallies = {mode: Tally.at(devices.arch_of(device), mode) for mode in MODES}
    of_variants(tallies, device, results=chosen.results, seed=chosen.seed)
    of_products(tallies, device, seed=chosen.seed)
    tried = [tally for tally in tallies.values() if tally.results]
    for tally in tried:
        show(tally)
    if chosen.write:
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "suites.calibrate", *given])
        date = dt.datetime.now(tz=dt.UTC).date().isoformat()
        path = Path(calibration.__file__).with_name(calibration.FILE)
        made = [entry_of(tally, device, command=command, date=date) for tally in tried]
        calibration.write(path, made)
        print(f"\nwrote {', '.join(str(entry) for entry in made)} to {path.name}")
    rejected = sum(len(tally.rejected) for tally in tried)
    print(f"\nfalse rejections {rejected} of {sum(tally.results for tally in tried)} results")
    return 1 if rejected else 0


if __name__ == "__main__":
    sys.exit(main())
