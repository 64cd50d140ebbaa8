"""The SQLite file that baselines are kept in: whole and of this schema, or refused with words."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from harness import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Change = Callable[[sqlite3.Connection], object]

SCHEMA: Final = 1
APPLICATION: Final = 0x4B50424C  # "KPBL" in the file's header says whose it is
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 100  # bytes; https://www.sqlite.org/fileformat.html has the places below
_LOCKED: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_OF_THE_DISK: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
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


def write(path: Path, change: Change, *, patience: float = 30.0) -> None:
    """Make a change to the file at ``path``, which is made if need be; all or nothing.

    Whatever ``change`` raises leaves the file as it was. It is called again, on the file that is
    there by then, where another process makes the file meanwhile. Waits ``patience`` seconds for
    another writer. Raises InvalidBaseline for a file that is no baseline, is broken, or cannot be
    written.
    """
    if not path.exists() and _make(path, change, patience):
        return
    check(path)
    with _transaction(path, path, patience) as connection:
        change(connection)


def _make(path: Path, change: Change, patience: float) -> bool:
    """Make the file with the change in it; whether it is this one that is there now."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{atomic.PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _transaction(part, path, patience) as connection:
                _create(connection)
                change(connection)
            return _published(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _published(part: Path, path: Path) -> bool:
    try:
        os.link(part, path)  # unlike a renaming it replaces nobody's file
    except FileExistsError:
        return False
    return True


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
    except sqlite3.DatabaseError as error:
        raise _failed(shown, error) from error


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    for statement in _TABLES.split(";")[:-1]:
        connection.execute(statement)


@contextmanager
def reading(path: Path, *, patience: float = 5.0) -> Iterator[sqlite3.Connection]:
    """The file at ``path``, read-only; raises InvalidBaseline for what is no baseline, or broken.

    What is raised within because a row is not what it should be counts as broken. Waits
    ``patience`` seconds for a writer.
    """
    check(path)
    try:
        with closing(sqlite3.connect(_address(path, "ro"), patience, uri=True)) as connection:
            yield connection
    except InvalidBaseline:
        raise
    except sqlite3.DatabaseError as error:
        raise (_locked(path) if _code(error) in _LOCKED else broken(path, str(error))) from error
    except (ValueError, TypeError) as error:
        raise broken(path, str(error)) from error


def _address(path: Path, mode: str) -> str:
    return f"{path.resolve().as_uri()}?mode={mode}"


def broken(path: Path, reason: str) -> InvalidBaseline:
    """What to raise for a baseline that was damaged since it was written."""
    return InvalidBaseline(f"{path}: the baseline is broken ({reason}); keep it again from records")


def _failed(path: Path, error: sqlite3.DatabaseError) -> InvalidBaseline:
    """What to raise for what SQLite says of a write: another's, the disk's or the file's fault."""
    if _code(error) in _LOCKED:
        return _locked(path)
    return (_unwritable if _code(error) in _OF_THE_DISK else broken)(path, str(error))


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code; 0 of an error that is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _locked(path: Path) -> InvalidBaseline:
    return InvalidBaseline(
        f"{path}: the baseline is locked by another process that writes to it; "
        "wait until that has ended"
    )


def _unwritable(path: Path, reason: str) -> InvalidBaseline:
    return InvalidBaseline(
        f"baseline {path.name!r} cannot be written to the folder {str(path.parent)!r}: {reason}; "
        "name a folder that this user may write to, on a disk with space left"
    )


def check(path: Path) -> None:
    """Refuse what is no baseline of this schema, by its header of 100 bytes and its length.

    What a process that was killed left half written is rolled back before its length is looked at.
    """
    _check_header(path, _header(path))
    if any(journal.exists() for journal in _journals(path)):
        _recover(path)
    header = _header(path)
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    length = (1 << 16 if page == 1 else page) * pages
    if path.stat().st_size < length:
        raise broken(path, f"it was cut off: {path.stat().st_size} of {length} bytes are there")


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER)


def _check_header(path: Path, header: bytes) -> None:
    if not header.startswith(_MAGIC):
        msg = f"{path} is no SQLite file; `python -m harness.gate.baseline keep` makes a baseline"
        raise InvalidBaseline(msg)
    version, application = int.from_bytes(header[60:64]), int.from_bytes(header[68:72])
    if application != APPLICATION:
        msg = f"{path} is an SQLite file, but no baseline: application_id={application:#x}"
        raise InvalidBaseline(msg)
    if version != SCHEMA:
        msg = (
            f"{path}: baseline of schema {version}, this version reads {SCHEMA}; keep it again "
            "from the release's records, or export it with the version that wrote it"
        )
        raise InvalidBaseline(msg)


def _journals(path: Path) -> tuple[Path, ...]:
    """Where SQLite keeps what a writer has not finished."""
    return tuple(path.with_name(f"{path.name}-{kind}") for kind in ("journal", "wal"))


def _recover(path: Path) -> None:
    """Let SQLite take back what a killed process began: whoever reads needs to write for that.

    A journal whose writer lives is left alone.
    """
    try:
        with closing(sqlite3.connect(_address(path, "rw"), uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if _code(error) in _LOCKED:
            raise _locked(path) from error
        msg = (
            f"{path}: a process was killed while it wrote to the baseline, and what it began "
            f"cannot be taken back ({error}); `python -m harness.gate.baseline list {path}` does "
            "it, run by a user who may write to the file and its folder"
        )
        raise InvalidBaseline(msg) from error
