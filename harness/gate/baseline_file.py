"""The SQLite file that baselines are kept in: whole and of this schema, or refused with words."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from harness import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA: Final = 1
APPLICATION: Final = 0x4B50424C  # "KPBL" in the file's header says whose it is
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 100  # bytes; https://www.sqlite.org/fileformat.html has the places below
_TABLES: Final = """
CREATE TABLE releases (name TEXT PRIMARY KEY, kept TEXT NOT NULL);
CREATE TABLE records (
  release TEXT NOT NULL, kernel TEXT NOT NULL, arch TEXT NOT NULL, layer TEXT NOT NULL,
  "check" TEXT NOT NULL, dtype TEXT NOT NULL, verdict TEXT NOT NULL, evidence TEXT NOT NULL,
  seed INTEGER NOT NULL, cases INTEGER NOT NULL, "case" TEXT NOT NULL, source TEXT NOT NULL,
  versions TEXT NOT NULL, device TEXT NOT NULL, errors TEXT NOT NULL, rms_errors TEXT NOT NULL,
  PRIMARY KEY (release, kernel, arch, layer, "check", dtype)
);
CREATE TABLE ratios (
  release TEXT NOT NULL, name TEXT NOT NULL, ratio REAL NOT NULL, unit TEXT NOT NULL,
  spread REAL NOT NULL, better TEXT NOT NULL, device TEXT NOT NULL,
  environment TEXT NOT NULL,
  PRIMARY KEY (release, name)
);
"""


class InvalidBaseline(ValueError):
    """A file that is no baseline, is broken, or lacks a release; the message says what to do."""


@contextmanager
def writing(path: Path, *, patience: float = 30.0) -> Iterator[sqlite3.Connection]:
    """One transaction on the file at ``path``, which is made if need be; all or nothing.

    Whatever is raised within leaves the file as it was. Waits ``patience`` seconds for another
    writer. Raises InvalidBaseline for a file that is no baseline, is broken, or cannot be written.
    """
    if path.exists():
        check(path)
        with _transaction(path, path, patience) as connection:
            yield connection
        return
    part = path.with_name(f"{path.name}{atomic.PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            with _transaction(part, path, patience) as connection:
                _create(connection)
                yield connection
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


@contextmanager
def _transaction(path: Path, shown: Path, patience: float) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, patience, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise _unwritable(shown, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise broken(shown, str(error)) from error


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    for statement in _TABLES.split(";")[:-1]:
        connection.execute(statement)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The file at ``path``, read-only; raises InvalidBaseline for what is no baseline, or broken.

    What is raised within because a row is not what it should be counts as broken.
    """
    check(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except InvalidBaseline:
        raise
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise broken(path, str(error)) from error


def broken(path: Path, reason: str) -> InvalidBaseline:
    """What to raise for a baseline that was damaged since it was written."""
    return InvalidBaseline(f"{path}: the baseline is broken ({reason}); keep it again from records")


def _unwritable(path: Path, reason: str) -> InvalidBaseline:
    return InvalidBaseline(
        f"baseline {path.name!r} cannot be written to the folder {str(path.parent)!r}: {reason}; "
        "name a folder that this user may write to, on a disk with space left"
    )


def check(path: Path) -> None:
    """Refuse what is no baseline of this schema, by its header of 100 bytes and its length."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if not header.startswith(_MAGIC):
        msg = f"{path} is no SQLite file; `python -m harness.gate.baseline keep` makes a baseline"
        raise InvalidBaseline(msg)
    page, pages, version, application = (
        int.from_bytes(header[start:end]) for start, end in ((16, 18), (28, 32), (60, 64), (68, 72))
    )
    length = (1 << 16 if page == 1 else page) * pages
    if path.stat().st_size < length:
        raise broken(path, f"it was cut off: {path.stat().st_size} of {length} bytes are there")
    if application != APPLICATION:
        msg = f"{path} is an SQLite file, but no baseline: application_id={application:#x}"
        raise InvalidBaseline(msg)
    if version != SCHEMA:
        msg = (
            f"{path}: baseline of schema {version}, this version reads {SCHEMA}; keep it again "
            "from the release's records, or export it with the version that wrote it"
        )
        raise InvalidBaseline(msg)
