"""Compiled kernels on disk: an entry is whole and what was asked for, or it is not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import locks

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Binary", "default_folder", "load", "load_or_make", "store"]


@dataclass(frozen=True)
class Binary:
    """Machine code with the symbol of its kernel, and what the compiler said beside it.

    ``ptx`` is empty where the compiler keeps none.
    """

    cubin: bytes
    symbol: str
    log: str
    ptx: str = ""


def default_folder() -> Path:
    """Where the user's compiled kernels lie; to empty it costs a compilation each, no more."""
    return Path.home() / ".cache" / "kernel-parity" / "cubins"


def load_or_make(folder: Path, key: str, make: Callable[[], Binary]) -> Binary:
    """The entry of ``key``, made and kept if it is not there: once, whoever asks at the same time.

    A process that comes while another makes it waits, see `locks.alone`. What ``make`` raises is
    raised; who waited then tries by itself.
    """
    if (found := load(folder, key)) is not None:
        return found
    with locks.alone(folder / f"{key}.lock"):
        if (found := load(folder, key)) is None:
            found = make()
            store(folder, key, found)
    return found


def load(folder: Path, key: str) -> Binary | None:
    """The entry of ``key``; None if there is none, or none that is whole."""
    try:
        head, _, cubin = _path(folder, key).read_bytes().partition(b"\n")
        fields = json.loads(head)
        if fields["sha256"] != hashlib.sha256(cubin).hexdigest():
            return None
        return Binary(cubin, fields["symbol"], fields["log"], fields["ptx"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(folder: Path, key: str, binary: Binary) -> None:
    """Keep ``binary``; processes that store the same key at once leave one whole entry.

    A folder that cannot be written costs time, not results, and so is no error.
    """
    digest = hashlib.sha256(binary.cubin).hexdigest()
    head = {"sha256": digest, "symbol": binary.symbol, "log": binary.log, "ptx": binary.ptx}
    path = _path(folder, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{key}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + binary.cubin)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.cubin"
