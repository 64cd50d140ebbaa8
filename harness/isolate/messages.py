"""What the processes of an isolated run say to each other: frozen, and nothing but data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.cells import Cell, Outcome
    from harness.check import Scope, Settings
    from harness.judge import ParityFailure
    from harness.reproduction import Reproduction


@dataclass(frozen=True)
class Setup:
    """What a server loads before it has children: what declares, and what tests import.

    ``logs`` is the folder of what its processes write, which it removes when nobody is left to.
    """

    targets: tuple[str, ...]
    modules: tuple[str, ...] = ()
    logs: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """The server is ready; ``error`` says why it is not."""

    error: str = ""


@dataclass(frozen=True)
class Bear:
    """Start a child whose output goes to ``log``."""

    log: Path


@dataclass(frozen=True)
class Born:
    """A child's process; its connection follows."""

    pid: int


@dataclass(frozen=True)
class Bury:
    """Wait for a child's end, for some seconds before it is killed."""

    seconds: float


@dataclass(frozen=True)
class Buried:
    """How a child ended: as `os.waitstatus_to_exitcode`, and its largest resident memory."""

    code: int
    peak_bytes: int


@dataclass(frozen=True)
class Ready:
    """A child is there; ``devices`` describes the devices of every arch that it sees."""

    devices: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One test to run in a child: a function of a module, called with the check of a cell.

    ``done`` are ids of probes that are not asked again. ``filters`` are those of `warnings`.
    """

    module: str
    path: Path
    function: str
    cell: Cell
    dtype: str | None
    kind: str
    settings: Settings
    reproduce: Reproduction
    done: frozenset[str] = frozenset()
    filters: tuple[Any, ...] = ()
    images: Path | None = None


@dataclass(frozen=True)
class Searching:
    """A search over generated cases of one configuration begins; None: a list of probes does."""

    config: str
    index: int
    scope: Scope


@dataclass(frozen=True)
class Listing:
    """A list of probes begins."""


@dataclass(frozen=True)
class Began:
    """A case or probe begins: whatever ends the child now is its doing."""

    case: str


@dataclass(frozen=True)
class Ended:
    """A case or probe is over; ``words`` say what is wrong with it."""

    case: str
    words: str = ""


@dataclass(frozen=True)
class Progress:
    """Words for whoever looks on."""

    words: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a test came to. ``spent`` says that the child is of no further use, and ends.

    ``failure`` is the report of a check that failed, ``text`` that of any other exception or the
    reason of what is unavailable.
    """

    outcome: Outcome
    figures: Mapping[str, object] = field(default_factory=dict)
    case: str = ""
    launched: tuple[str, ...] = ()
    failure: ParityFailure | None = None
    text: str = ""
    spent: bool = False
