"""Baselines: what the records and benchmarks of a release came to, kept in one SQLite file.

``python -m harness.gate.baseline keep --records DIR --into FILE --name NAME`` adds a release.
SQLite and not DuckDB: Python has it, so a gate on a bare machine reads a baseline without
installing anything; its file format is stable for decades and readable everywhere; a write is a
transaction; and a release is some thousand rows, where columns would gain nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.case_errors import RMS, WORST, errors_of
from harness.gate import evidence
from harness.gate import ratios as benchmarks
from harness.gate.baseline_file import InvalidBaseline, reading, writing
from harness.gate.export import export
from harness.gate.ratios import Ratio
from harness.gate.samples import Sample, samples_of, words_of
from harness.manifest import Asked

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


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

    Raises InvalidBaseline where the name is taken (unless ``replace``), where two samples are of
    one check, or for a file that is no baseline or cannot be written; so within ``patience``
    seconds, where another process writes to it.
    """
    _refuse_twice(release)
    with writing(path, patience=patience) as connection:
        _make_room(connection, release.name, replace=replace)
        _add(connection, release)


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
        ((name, *_row(sample)) for sample in release.samples),
    )
    connection.executemany(
        "INSERT INTO ratios VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (name, r.name, r.ratio, r.unit, r.spread, r.better, r.device, _text(r.environment))
            for r in release.ratios
        ),
    )


def _row(sample: Sample) -> tuple[object, ...]:
    figures = (sample.versions, sample.device, sample.worst, sample.rms)
    return (
        *(*sample.key, sample.verdict, sample.evidence, sample.seed, sample.cases),
        *(sample.case, sample.source, *map(_text, figures)),
    )


def _text(values: object) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


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
        samples = tuple(_sample(row) for row in records)
        ratios = connection.execute(
            "SELECT * FROM ratios WHERE release = ? ORDER BY rowid", (name,)
        )
        return Baseline(name=name, kept=kept, samples=samples, ratios=tuple(map(_ratio, ratios)))


def _sample(row: Sequence[Any]) -> Sample:
    _, kernel, arch, layer, check, dtype, verdict, evidence, seed, cases, case, source = row[:12]
    versions, device, worst, rms = (json.loads(text) for text in row[12:])
    figures = {WORST: worst, RMS: rms}
    return Sample(
        key=Asked(kernel, arch, layer, check, dtype),
        verdict=verdict,
        evidence=evidence,
        seed=int(seed),
        cases=int(cases),
        case=case,
        source=source,
        versions=versions,
        device=device,
        worst=errors_of(figures, WORST),
        rms=errors_of(figures, RMS),
    )


def _ratio(row: Sequence[Any]) -> Ratio:
    _, name, ratio, unit, spread, better, device, environment = row
    return Ratio(
        name=name,
        ratio=float(ratio),
        unit=unit,
        spread=float(spread),
        better=better,
        device=device,
        environment=json.loads(environment),
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
