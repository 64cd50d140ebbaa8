"""What the contract asks of each check, once its patterns are held against the inventory."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from harness.cells import Cell, Layer
from harness.gate.contract import Excuse, InvalidContract, Rule, nearest

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Iterable, Mapping

    from harness.gate.contract import Contract
    from harness.manifest import Asked

_FIELDS: Final = ("kernel", "arch", "layer", "dtype", "check")


@dataclass(frozen=True)
class Policy:
    """What is asked of one check; ``lapsed`` is a rule that took it out of gating once."""

    gating: bool
    evidence: str
    cases: int
    because: str = ""
    reference: str = ""
    lapsed: Rule | None = None


@dataclass(frozen=True, eq=False)
class Bound:
    """A rule or an excuse, and the names that its patterns match."""

    entry: Rule | Excuse
    names: Mapping[str, frozenset[str]]

    def covers_cell(self, cell: tuple[str, str, str]) -> bool:
        """Whether it is about some checks of a cell."""
        names = self.names
        return cell[0] in names["kernel"] and cell[1] in names["arch"] and cell[2] in names["layer"]

    def covers(self, dtype: str, check: str) -> bool:
        """Whether it is about a check of such a cell."""
        return dtype in self.names["dtype"] and check in self.names["check"]


@cache
def base(check: str) -> str:
    """The test's name, without its dtype."""
    return check.partition("[")[0]


class Policies:
    """A contract held against an inventory; raises InvalidContract for what matches nothing."""

    def __init__(self, contract: Contract, asked: Collection[Asked], today: dt.date) -> None:
        self._today = today
        cells = dict.fromkeys((a.kernel, a.arch, a.layer) for a in asked)
        known = {
            "kernel": {cell[0] for cell in cells},
            "arch": {cell[1] for cell in cells},
            "layer": {cell[2] for cell in cells},
            "dtype": {a.dtype for a in asked},
            "check": {base(a.check) for a in asked},
        }
        bound = [
            tuple(_bind(entry, known, cells) for entry in entries)
            for entries in (contract.rules, contract.exceptions, contract.known_failures)
        ]
        self._rules, self._exceptions, self._known_failures = bound
        self._of_cell = cache(self._of_cell_uncached)
        self._resolved = cache(self._resolve)

    @property
    def knows_failures(self) -> bool:
        """Whether any failure is known."""
        return bool(self._known_failures)

    def of_cell(self, cell: tuple[str, str, str]) -> Callable[[str, str], Policy]:
        """What is asked of the checks of a cell, by dtype and the test's name."""
        return partial(self._resolved, self._of_cell(self._rules, cell), cell[1], cell[2])

    def exceptions(self, asked: Asked) -> Iterable[Excuse]:
        """The exceptions that are about a check."""
        return self._excuses(self._exceptions, asked)

    def known_failures(self, asked: Asked) -> Iterable[Excuse]:
        """The known failures that are about a check."""
        return self._excuses(self._known_failures, asked)

    def is_past(self, entry: Rule | Excuse) -> bool:
        """Whether an entry has expired; the day that it names is its last."""
        return entry.expires is not None and entry.expires < self._today

    def _excuses(self, entries: tuple[Bound, ...], asked: Asked) -> Iterable[Excuse]:
        for each in self._of_cell(entries, asked[:3]):
            if isinstance(each.entry, Excuse) and each.covers(asked.dtype, base(asked.check)):
                yield each.entry

    @staticmethod
    def _of_cell_uncached(
        entries: tuple[Bound, ...], cell: tuple[str, str, str]
    ) -> tuple[Bound, ...]:
        return tuple(each for each in entries if each.covers_cell(cell))

    def _resolve(
        self, rules: tuple[Bound, ...], arch: str, layer: str, dtype: str, check: str
    ) -> Policy:
        natural = Cell("", arch, Layer(layer)).evidence
        evidence, cases, gating = str(natural), 1, True
        decided: Rule | None = None  # which one said whether it gates
        for rule in (b.entry for b in rules if b.covers(dtype, check)):
            if not isinstance(rule, Rule):
                continue
            past = self.is_past(rule)
            if not past:
                evidence, cases = rule.evidence or evidence, rule.cases or cases
            if rule.gating is False or (rule.gating and not past):
                decided, gating = rule, rule.gating or past  # what was retained gates from then on
        if decided is None:
            return Policy(gating, evidence, cases)
        lapsed = decided if gating and not decided.gating else None
        return Policy(gating, evidence, cases, decided.because, decided.reference, lapsed)


def _bind(
    entry: Rule | Excuse,
    known: Mapping[str, set[str]],
    cells: Iterable[tuple[str, str, str]],
) -> Bound:
    names = {}
    for name in _FIELDS:
        words: tuple[str, ...] = getattr(entry.pattern, name)
        names[name] = frozenset(
            found for word in words for found in _matching(entry, name, word, known[name])
        )
    bound = Bound(entry, names)
    if not any(map(bound.covers_cell, cells)):
        wanted = ", ".join(f"{n}={list(getattr(entry.pattern, n))}" for n in _FIELDS[:3])
        msg = f"{entry.where}: no claimed cell has {wanted} together; remove or correct this entry"
        raise InvalidContract(msg)
    return bound


def _matching(entry: Rule | Excuse, name: str, word: str, known: set[str]) -> list[str]:
    found = [each for each in known if fnmatchcase(each, word)]
    if not found:
        msg = (
            f"{entry.where}: {name}={word!r} matches nothing in the inventory of these records; "
            f"{nearest(word, known - {''})}"
        )
        raise InvalidContract(msg)
    return found
