"""A release out of a baseline: as JSON, or as Parquet where pyarrow is installed."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from harness import atomic
from harness.gate.baseline_file import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.gate.baseline import Baseline
    from harness.gate.samples import Sample


class CannotExport(ValueError):
    """A format that is not known, or whose package is not installed; the message says which is."""


def export(release: Baseline, path: Path) -> None:
    """Write a release to ``path``, all or nothing, in the format that its name ends in.

    ``.parquet`` has a row for each record, its errors as a map; beside it ``.ratios.parquet`` has
    the ratios, if there are any. Raises CannotExport, and OSError naming the folder.
    """
    if path.suffix not in FORMATS:
        msg = f"{path.name!r} ends in none of {sorted(FORMATS)}, which are the formats known"
        raise CannotExport(msg)
    FORMATS[path.suffix](release, path)


def _to_json(release: Baseline, path: Path) -> None:
    fields = {
        "schema": SCHEMA,
        "name": release.name,
        "kept": release.kept,
        "records": [record_row(sample) for sample in release.samples],
        "ratios": [asdict(ratio) for ratio in release.ratios],
    }
    atomic.write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")


def to_parquet(release: Baseline, path: Path, load: Callable[[], Any] | None = None) -> None:
    """Write the tables of a release; ``load`` imports pyarrow, or raises ImportError."""
    arrow = _pyarrow(load or _import)
    text, number = arrow.string(), arrow.float64()
    words, errors = arrow.map_(text, text), arrow.map_(text, number)
    kinds = {"seed": arrow.int64(), "cases": arrow.int64(), "versions": words, "device": words}
    kinds |= {"errors": errors, "rms_errors": errors}
    records = [record_row(sample) for sample in release.samples]
    _write_table(arrow, records, kinds, path)
    if release.ratios:
        kinds = {"ratio": number, "spread": number, "environment": words}
        ratios = [asdict(ratio) for ratio in release.ratios]
        _write_table(arrow, ratios, kinds, path.with_suffix(f".ratios{path.suffix}"))


def record_row(sample: Sample) -> dict[str, object]:
    """A record's row in every format; its fields are those of docs/drift.md."""
    return {
        **sample.key._asdict(),
        "verdict": sample.verdict,
        "evidence": sample.evidence,
        "seed": sample.seed,
        "cases": sample.cases,
        "case": sample.case,
        "source": sample.source,
        "versions": dict(sample.versions),
        "device": dict(sample.device),
        "errors": dict(sample.worst),
        "rms_errors": dict(sample.rms),
    }


def _write_table(
    arrow: Any,  # noqa: ANN401 - pyarrow has no types
    rows: list[dict[str, Any]],
    kinds: Mapping[str, object],
    path: Path,
) -> None:
    fields = [(name, kinds.get(name, arrow.string())) for name in rows[0]]
    columns = {name: [_of_map(row[name]) for row in rows] for name in rows[0]}
    table = arrow.table(columns, schema=arrow.schema(fields))
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(table, sink)
    atomic.write_bytes(path, sink.getvalue().to_pybytes())


def _of_map(value: object) -> object:
    return list(value.items()) if isinstance(value, dict) else value


def _import() -> Any:  # noqa: ANN401 - as above
    importlib.import_module("pyarrow.parquet")
    return importlib.import_module("pyarrow")


def _pyarrow(load: Callable[[], Any]) -> Any:  # noqa: ANN401 - as above
    try:
        return load()
    except ImportError as error:
        msg = (
            f"Parquet needs pyarrow, which cannot be imported ({error}); "
            "`pip install 'kernel-parity[parquet]'`, or export to a file that ends in .json"
        )
        raise CannotExport(msg) from error


FORMATS: Final[Mapping[str, Callable[[Baseline, Path], None]]] = {
    ".json": _to_json,
    ".parquet": to_parquet,
}
