"""The manifest of a run: what was claimed, collected and dropped, whether or not it was run.

Without it a check that left no record could not be told from one that nobody asked for. It lies
beside the records, ``X.manifest.json`` beside ``X.jsonl``, and is documented in docs/records.md.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from harness import documents
from harness.atomic import write_text
from harness.cells import Layer
from harness.record import AGAIN, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SUFFIX: Final = ".manifest.json"


class InvalidManifest(ValueError):
    """A file that is no manifest, or of another schema; the message names file and field."""


class Asked(NamedTuple):
    """One check of one cell, by the words that its record has; ``dtype`` may be empty."""

    kernel: str
    arch: str
    layer: str
    check: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class KernelFacts:
    """What a kernel declares; ``source`` is the hash of the file that defines it."""

    op: str
    backend: str
    archs: tuple[str, ...]
    dtypes: tuple[str, ...]
    source: str
    configs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A run and its inventory; times are in UTC, ISO 8601.

    ``finished`` is empty until the run ended in an orderly way, ``status`` is pytest's exit status
    then. ``archs`` and ``device`` are this machine's. ``cells`` is all that the declarations claim,
    ``collected`` the checks that were to be run, ``deselected`` those that options dropped,
    ``uncovered`` those that are neither, though the layers' table has them for these cells.
    ``not_loaded`` are declaring modules whose import failed: their kernels are in no list.
    ``digest`` is that of the records as the run left them, empty until it ended.
    """

    run: str
    started: str
    finished: str = ""
    status: int | None = None
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    archs: tuple[str, ...] = ()
    device: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, KernelFacts] = field(default_factory=dict)
    cells: tuple[tuple[str, str, str], ...] = ()
    collected: tuple[Asked, ...] = ()
    deselected: tuple[Asked, ...] = ()
    uncovered: tuple[Asked, ...] = ()
    not_loaded: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One JSON document, a line for each field, keys sorted."""
        values = sorted(asdict(self).items())
        lines = [f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in values]
        return "{{\n{}\n}}\n".format(",\n".join(lines))


def beside(records: Path) -> Path:
    """Where the manifest of a records file lies."""
    return records.with_name(f"{records.stem}{SUFFIX}")


def write(records: Path, manifest: Manifest) -> None:
    """Write the manifest of ``records``, all or nothing; raises OSError."""
    write_text(beside(records), manifest.to_json())


def end(records: Path, *, finished: str, status: int) -> None:
    """Say in the manifest of ``records`` that its run ended in an orderly way, and left these."""
    digest = digest_of(records.read_bytes())
    begun = read(beside(records))
    write(records, replace(begun, finished=finished, status=status, digest=digest))


def digest_of(content: bytes) -> str:
    """What tells a file of records from any other: 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read(path: Path) -> Manifest:
    """The manifest in a file; raises InvalidManifest, or OSError without the file."""
    return from_json(path.read_text(encoding="utf-8", errors="backslashreplace"), where=str(path))


def from_json(text: str, *, where: str = "manifest") -> Manifest:
    """The manifest in ``text``; raises InvalidManifest, saying ``where`` it stands."""
    found = documents.parsed(text, where=where, schema=SCHEMA, invalid=InvalidManifest, again=AGAIN)
    try:
        return _of(found)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else error
        msg = f"{where}: {words}; see docs/records.md for the fields of a manifest"
        raise InvalidManifest(msg) from error


_CHECKS: Final = ("collected", "deselected", "uncovered")
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "run": str,
    "started": str,
    "finished": str,
    "digest": str,
    "status": (int, type(None)),
    "seed": int,
    "schema": int,
    "versions": dict,
    "device": dict,
    "kernels": dict,
    "not_loaded": dict,
}


def _of(found: dict[str, Any]) -> Manifest:
    for name in (each.name for each in fields(Manifest)):
        if not isinstance(found[name], _KINDS.get(name, list)):
            msg = f"{name}={reprlib.repr(found[name])} is a {type(found[name]).__name__}"
            raise TypeError(msg)
    words = [found["archs"], *(found[name].values() for name in ("versions", "device"))]
    if not documents.all_words(chain(*words, found["not_loaded"].values())):
        msg = "archs, versions, device or not_loaded hold what is no string"
        raise TypeError(msg)
    made = {
        **found,
        "archs": tuple(found["archs"]),
        "kernels": {name: _kernel(name, value) for name, value in found["kernels"].items()},
        "cells": _cells(found["cells"]),
        **{name: _asked(found[name]) for name in _CHECKS},
    }
    manifest = Manifest(**made)
    _refuse_unknown(manifest)
    return manifest


def _kernel(name: str, value: Mapping[str, Any]) -> KernelFacts:
    lists = {field: tuple(value[field]) for field in ("archs", "dtypes", "configs")}
    facts = KernelFacts(**{**value, **lists})
    if not documents.all_words((facts.op, facts.backend, facts.source, *chain(*lists.values()))):
        msg = f"the facts of kernel {name!r} hold what is no string"
        raise TypeError(msg)
    return facts


def _refuse_unknown(manifest: Manifest) -> None:
    """Refuse what is of no kernel, layer or cell that the manifest has: it would not be judged."""
    claimed: set[tuple[str, ...]] = set(manifest.cells)
    for each in ("cells", *_CHECKS):
        places = {row[:3] for row in getattr(manifest, each)}  # of 100,000 checks some thousands
        others = {
            "kernels": {place[0] for place in places} - manifest.kernels.keys(),
            "layers": {place[2] for place in places} - set(Layer),
            "cells": set(map("-".join, places - claimed)),
        }
        for known, names in others.items():
            if names:
                msg = f"{each} has {min(names)!r}, which is not among the {known}"
                raise ValueError(msg)


# What `Asked._make` does, without a call of Python code for each of 100,000 checks.
new_asked: Final = partial(tuple.__new__, Asked)


def _asked(rows: Sequence[Sequence[str]]) -> tuple[Asked, ...]:
    _check_rows(rows, "a check", Asked._fields)
    return tuple(map(new_asked, rows))


def _cells(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, str, str], ...]:
    _check_rows(rows, "a cell", Asked._fields[:3])
    return tuple((k, a, v) for k, a, v in rows)


def _check_rows(rows: Sequence[Sequence[str]], what: str, words: Sequence[str]) -> None:
    whole = {len(words)}.issuperset(map(len, rows))
    if not (whole and documents.all_words(chain.from_iterable(rows))):
        msg = f"{what} has not the words {', '.join(words)}"
        raise ValueError(msg)
