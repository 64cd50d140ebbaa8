"""The command line: what is declared, the table of records made earlier, and authoring."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.authoring import commands as authoring
from harness.project import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BUNDLED", "main", "parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    0, 1 where something failed, 2 for bad input, 130 for an interrupt, as a shell has it.
    """
    commands = parser()
    options, rest = commands.parse_known_args(arguments)
    if rest and not options.takes_sizes:
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options, rest)
    except (ValueError, LookupError, ImportError, OSError, NotImplementedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    parser.set_defaults(takes_sizes=False)
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
    authoring.add_to(commands)
    return parser


def _list(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness import registry
    from harness.cells import cells_of

    registry.load_all(options.declare or BUNDLED)
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


def _table(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness import record, registry, table
    from harness.cells import inventory

    registry.load_all(options.declare or BUNDLED)
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
