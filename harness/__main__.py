"""The command line: what is declared, and the verdict table of records made earlier."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import record, registry, table
from harness.cells import cells_of, inventory

if TYPE_CHECKING:
    from collections.abc import Sequence

BUNDLED: Final = ("references", "kernels", "suites.module.subjects", "suites.e2e.subject")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where a record failed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        registry.load_all(options.declare or BUNDLED)
        status: int = options.run(options)
    except (ValueError, LookupError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="op, kernel, backend, archs and layers")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=_list)
    showing = commands.add_parser("table", help="the verdict table of records files")
    showing.add_argument("records", nargs="+", type=Path, metavar="PATH")
    showing.set_defaults(run=_table)
    for command in (listing, showing):
        command.add_argument(
            "--declare",
            action="append",
            metavar="TARGET",
            help="package, module or .py file that declares (default: the bundled ones)",
        )
    return parser


def _list(options: argparse.Namespace) -> int:
    rows = [
        {
            "op": kernel.op,
            "kernel": kernel.name,
            "backend": kernel.backend,
            "archs": list(kernel.archs),
            "layers": sorted({str(c.layer) for c in cells_of(kernel, registry.subjects())}),
            "place": kernel.place,
        }
        for kernel in registry.kernels()
    ]
    for module, error in registry.load_errors().items():
        print(f"{module}: not loaded: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['kernel']}\n  op {row['op']}, backend {row['backend']}, {row['place']}")
        print(f"  archs  {' '.join(row['archs'])}\n  layers {' '.join(row['layers'])}")
    return 0


def _table(options: argparse.Namespace) -> int:
    records = [found for path in options.records for found in record.read(path)]
    claimed = inventory(registry.kernels(), registry.subjects())
    results = table.verdicts(claimed, records)
    for line in table.lines(results):
        print("".join(segment.text for segment in line).rstrip())
    for words in (*table.skips(records), *table.accuracies(records)):
        print(words)
    print(table.totals(results))
    return int(any(found.verdict == "failed" for found in records))


if __name__ == "__main__":
    raise SystemExit(main())
