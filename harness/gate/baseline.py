"""Baselines: what the records and benchmarks of a release came to, kept in one SQLite file.

``python -m harness.gate.baseline keep --records DIR --into FILE --name NAME`` adds a release.
SQLite and not DuckDB: Python has it, so a gate on a bare machine reads a baseline without
installing anything; its file format is stable for decades and readable everywhere; a write is a
transaction; and a release is some thousand rows, where columns would gain nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from harness.gate import evidence
from harness.gate import ratios as benchmarks
from harness.gate.baseline_file import InvalidBaseline, reading, write
from harness.gate.baseline_rows import ratio_of_row, row_of_ratio, row_of_sample, sample_of_row
from harness.gate.export import export
from harness.gate.samples import samples_of, words_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from harness.gate.ratios import Ratio
    from harness.gate.samples import Sample
    from harness.manifest import Asked


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One release: its name, when it was kept (UTC, ISO 8601), and what it came to."""

    name: str
    kept: str
    samples: tuple[Sample, ...] = ()
    ratios: tuple[Ratio, ...] = ()


@dataclass(frozen=True)
class Release:
    """A line of the list of releases."""

    name: str
    kept: str
    records: int
    ratios: int


def keep(path: Path, release: Baseline, *, replace: bool = False, patience: float = 30.0) -> None:
    """Add a release to the file at ``path``, all or nothing; the file is made if need be.

    Raises InvalidBaseline where the name is empty or taken (unless ``replace``), where two samples
    are of one check, or for a file that is no baseline or cannot be written; so within ``patience``
    seconds, where another process writes to it.
    """
    _refuse_nameless(release)
    _refuse_twice(release)
    write(path, partial(_put, release=release, replace=replace), patience=patience)


def _refuse_nameless(release: Baseline) -> None:
    if not release.name.strip():
        msg = f"name={release.name!r} is none that --baseline-name could choose; give one as v1.2"
        raise InvalidBaseline(msg)


def _refuse_twice(release: Baseline) -> None:
    if not release.samples:
        msg = f"release {release.name!r} would be empty: no record tells of a check that ran"
        raise InvalidBaseline(msg)
    seen: set[Asked] = set()
    for sample in release.samples:
        if sample.key in seen:
            msg = f"{words_of(sample.key)}: two records of one check; keep those of one run"
            raise InvalidBaseline(msg)
        seen.add(sample.key)


def _put(connection: sqlite3.Connection, release: Baseline, *, replace: bool) -> None:
    _make_room(connection, release.name, replace=replace)
    _add(connection, release)


def _make_room(connection: sqlite3.Connection, name: str, *, replace: bool) -> None:
    if not connection.execute("SELECT 1 FROM releases WHERE name = ?", (name,)).fetchone():
        return
    if not replace:
        msg = f"release {name!r} is kept there already; give another --name, or --replace it"
        raise InvalidBaseline(msg)
    connection.execute("DELETE FROM releases WHERE name = ?", (name,))
    connection.execute("DELETE FROM records WHERE release = ?", (name,))
    connection.execute("DELETE FROM ratios WHERE release = ?", (name,))


def _add(connection: sqlite3.Connection, release: Baseline) -> None:
    name = release.name
    connection.execute("INSERT INTO releases VALUES (?, ?)", (name, release.kept))
    connection.executemany(
        f"INSERT INTO records VALUES ({', '.join('?' * 16)})",  # noqa: S608 - no text of others
        map(row_of_sample, repeat(name), release.samples),
    )
    connection.executemany(
        "INSERT INTO ratios VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        map(row_of_ratio, repeat(name), release.ratios),
    )


def releases(path: Path) -> tuple[Release, ...]:
    """The releases of a file, in the order in which they were kept."""
    with reading(path) as connection:
        rows = connection.execute(
            "SELECT name, kept, (SELECT count(*) FROM records WHERE release = releases.name),"
            " (SELECT count(*) FROM ratios WHERE release = releases.name)"
            " FROM releases ORDER BY kept, rowid"
        )
        return tuple(Release(*row) for row in rows)


def load(path: Path, name: str = "") -> Baseline:
    """A release by its name, or the one kept last; raises InvalidBaseline, listing the names."""
    names = [release.name for release in releases(path)]
    if not names or (name and name not in names):
        msg = f"{path}: no release {name!r} is kept there; there are {names!r}"
        raise InvalidBaseline(msg)
    name = name or names[-1]
    with reading(path) as connection:
        (kept,) = connection.execute("SELECT kept FROM releases WHERE name = ?", (name,)).fetchone()
        records = connection.execute(
            "SELECT * FROM records WHERE release = ? ORDER BY rowid", (name,)
        )
        samples = tuple(map(sample_of_row, records))
        ratios = connection.execute(
            "SELECT * FROM ratios WHERE release = ? ORDER BY rowid", (name,)
        )
        return Baseline(
            name=name, kept=kept, samples=samples, ratios=tuple(map(ratio_of_row, ratios))
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.gate.baseline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keeping = commands.add_parser("keep", help="add a release to a baseline")
    keeping.add_argument("--records", type=Path, required=True, metavar="DIR", help="its records")
    keeping.add_argument("--bench", type=Path, metavar="FILE", help="its ratios, as JSON")
    keeping.add_argument("--into", type=Path, required=True, metavar="FILE", help="the baseline")
    keeping.add_argument("--name", required=True, help="of the release, such as v1.2")
    keeping.add_argument("--replace", action="store_true", help="a release of that name")
    keeping.set_defaults(run=_keep)
    listing = commands.add_parser("list", help="the releases of a baseline")
    listing.add_argument("baseline", type=Path, metavar="FILE")
    listing.set_defaults(run=_list)
    exporting = commands.add_parser("export", help="a release as .json or .parquet")
    exporting.add_argument("baseline", type=Path, metavar="FILE")
    exporting.add_argument("--name", default="", help="of the release (default: kept last)")
    exporting.add_argument("--into", type=Path, required=True, metavar="FILE")
    exporting.set_defaults(run=lambda asked: export(load(asked.baseline, asked.name), asked.into))
    return parser


def _keep(options: argparse.Namespace) -> None:
    merged = evidence.read(options.records)
    for run in merged.runs:
        if not run.finished:
            msg = f"{run} did not come to its end; a baseline is made of whole runs: run it again"
            raise InvalidBaseline(msg)
    release = Baseline(
        name=options.name,
        kept=datetime.now(UTC).isoformat(timespec="milliseconds"),
        samples=samples_of(merged.records),
        ratios=benchmarks.read(options.bench) if options.bench else (),
    )
    keep(options.into, release, replace=options.replace)
    sys.stdout.write(
        f"{options.into}: kept {release.name} with {len(release.samples)} records "
        f"and {len(release.ratios)} ratios\n"
    )


def _list(options: argparse.Namespace) -> None:
    sys.stdout.writelines(
        f"{one.name}  kept {one.kept}, {one.records} records, {one.ratios} ratios\n"
        for one in releases(options.baseline)
    )


if __name__ == "__main__":
    raise SystemExit(main())
