"""The judgement: contract, inventory and records compared, a finding for each cell and dtype."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.arch import CPU
from harness.cells import Evidence, Layer, Verdict
from harness.gate import clocks, drifted, duplicates
from harness.gate.checks import Seen, gravest, launched_nothing, missing, seen
from harness.gate.contract import REPORT, nearest
from harness.gate.evidence import CannotJudge
from harness.gate.holes import FAILURES, Hole, Status
from harness.gate.policy import Policies, base
from harness.manifest import Asked, new_asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.gate.contract import Contract, Excuse
    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged, Run
    from harness.gate.policy import Policy
    from harness.record import Record

_Place = tuple[str, str, str]  # of a cell: kernel, arch, layer

__all__ = ["Finding", "Hole", "Judgement", "Status", "judge"]

_ENDS: Final = {2: "was interrupted", 3: "ended with an internal error", 4: "was refused by pytest"}
_NUMERIC: Final = str(Layer.NUMERIC)
_SAID: Final = 20  # runs in one message
_UNSEEN: Final = "passed, and no launch of a kernel was seen; something else computed the result"


class Finding(NamedTuple):
    """What the gate says of a cell in one dtype (or none), or of a whole run (no kernel)."""

    kernel: str
    arch: str
    layer: str
    dtype: str
    status: Status
    hole: Hole | None = None
    words: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Judgement:
    """All findings, notes that are no verdict, the archs that were asked for, the runs' ids."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def green(self) -> bool:
        """Whether nothing is red, and anything was judged."""
        return bool(self.findings) and all(f.status is not Status.RED for f in self.findings)

    @property
    def exit_status(self) -> int:
        """0 if green, else 1."""
        return 0 if self.green else 1


def judge(
    contract: Contract,
    merged: Merged,
    archs: Sequence[str] = (),
    *,
    kernels: Sequence[str] = (),
    now: dt.datetime | None = None,
    drifts: Sequence[Drift] = (),
) -> Judgement:
    """Compare; ``archs`` and ``kernels`` (patterns) restrict what is judged, empty ones do not.

    The cells of the arch ``cpu`` belong to every arch that their kernel claims. Raises CannotJudge
    for an arch or a kernel, and InvalidContract for a pattern, that the inventory does not know.
    """
    if not merged.cells and (archs or kernels or contract.entries):
        raise CannotJudge(_nothing(merged))
    now = now or dt.datetime.now(dt.UTC)
    gathered = _Gathered.of(merged)
    policies = Policies(contract, tuple(asked for asked, _ in gathered.checks), now.date())
    wanted = _wanted(merged, archs, kernels)
    cells = _of_cells(gathered, policies, wanted)
    findings = (*_of_runs(merged), *_of_archs(gathered, wanted, archs), *cells)
    worse = [
        d for d in drifts if d.flagged and ((d.kernel, d.arch) in wanted or drifted.of_bench(d))
    ]
    if contract.drift != REPORT:
        findings += tuple(_of_drift(drift, policies) for drift in worse)
    if all(each.status is Status.RETAINED for each in cells):
        words = "none of these cells gates; a gate that asks for nothing is not green"
        findings = (Finding("", "", "", "", Status.RED, Hole.UNCOVERED, words), *findings)
    notes = (*(n for run in merged.runs for n in clocks.notes(run, now)), *gathered.notes())
    if contract.drift == REPORT:
        notes += tuple(map(drifted.note, worse))
    return Judgement(findings, notes, tuple(archs), tuple(r.manifest.run for r in merged.runs))


@dataclass(frozen=True)
class _Gathered:
    """All that is known of each check, over all runs."""

    merged: Merged
    cells: Mapping[_Place, Mapping[Asked, list[Record]]]  # and the records of each check

    @property
    def checks(self) -> Iterator[tuple[Asked, list[Record]]]:
        """Each check with its records, if it has any."""
        for checks in self.cells.values():
            yield from checks.items()

    @classmethod
    def of(cls, merged: Merged) -> _Gathered:
        known = [run.manifest for run in merged.runs]
        listed = chain.from_iterable((*m.uncovered, *m.deselected, *m.collected) for m in known)
        cells: defaultdict[_Place, dict[Asked, list[Record]]] = defaultdict(dict)
        for asked in listed:
            cells[asked[:3]][asked] = []
        for found in merged.records:
            place = found.kernel, found.arch, found.layer
            asked = new_asked((*place, found.check, found.dtype))
            cells[place].setdefault(asked, []).append(found)
        for place in merged.cells:
            if place not in cells:
                cells[place][Asked(*place, "", "")] = []
        return cls(merged, cells)

    @cached_property
    def collected(self) -> Mapping[Asked, Run]:
        """The run that was to make each check."""
        return {asked: run for run in self.merged.runs for asked in run.manifest.collected}

    @cached_property
    def deselected(self) -> frozenset[Asked]:
        """What options dropped in any run."""
        return frozenset(each for run in self.merged.runs for each in run.manifest.deselected)

    def seen(self, asked: Asked, policy: Policy, found: list[Record], backend: str) -> Seen:
        """What was found about one check."""
        if found:
            return seen(asked, policy, found, backend)
        return missing(asked, policy, self.collected, self.deselected)

    def notes(self) -> Iterator[str]:
        """Checks that ran more than once; versions that differ."""
        yield from duplicates.notes(self.checks)
        for name in sorted({name for run in self.merged.runs for name in run.manifest.versions}):
            found = {run.manifest.versions.get(name, "none") for run in self.merged.runs}
            if len(found) > 1:
                yield f"versions: runs used {name} {', '.join(sorted(found))}"


@dataclass(frozen=True)
class _Wanted:
    kernels: frozenset[str]
    archs: frozenset[str]

    def __contains__(self, cell: tuple[str, ...]) -> bool:
        return cell[0] in self.kernels and cell[1] in self.archs


def _wanted(merged: Merged, archs: Sequence[str], kernels: Sequence[str]) -> _Wanted:
    every, known = merged.kernels, {arch for _, arch, _ in merged.cells}
    for pattern in kernels:
        if not any(fnmatchcase(name, pattern) for name in every):
            msg = f"kernel={pattern!r} matches none of these records; {nearest(pattern, every)}"
            raise CannotJudge(msg)
    for arch in archs:
        if arch not in known:
            msg = f"arch={arch!r} is claimed by no kernel of these records; {nearest(arch, known)}"
            raise CannotJudge(msg)
    chosen = {name for name in every if not kernels or _matches(name, kernels)}
    on_arch = {k for k, a, _ in merged.cells if not archs or a in archs}
    return _Wanted(frozenset(chosen & on_arch), frozenset({CPU, *archs} if archs else known))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _of_cells(gathered: _Gathered, policies: Policies, wanted: _Wanted) -> tuple[Finding, ...]:
    return tuple(
        finding
        for cell, checks in gathered.cells.items()
        if cell in wanted
        for finding in _of_cell(cell, checks, gathered, policies)
    )


def _of_cell(
    cell: _Place,
    checks: Mapping[Asked, list[Record]],
    gathered: _Gathered,
    policies: Policies,
) -> Iterator[Finding]:
    backend, policy = gathered.merged.kernels[cell[0]].backend, policies.of_cell(cell)
    groups: defaultdict[str, list[Seen]] = defaultdict(list)
    for asked, records in checks.items():
        asks = policy(asked.dtype, base(asked.check))
        groups[asked.dtype].append(gathered.seen(asked, asks, records, backend))
    return (_finding(found, policies) for found in groups.values())


def _finding(found: list[Seen], policies: Policies) -> Finding:
    kernel, arch, layer, _, dtype = found[0].asked
    if layer == _NUMERIC and launched_nothing([r for each in found for r in each.records]):
        found = [each if each.hole else each.but(Hole.OTHER_BACKEND, _UNSEEN) for each in found]
    gating = [each for each in found if each.policy.gating]
    said = _of_gating(gating, policies) if gating else _of_retained(found)
    return Finding(kernel, arch, layer, dtype, *said)


def _of_drift(drift: Drift, policies: Policies) -> Finding:
    status, reference = drifted.status_of(drift, policies)
    place = (drift.kernel, drift.arch, drift.layer, drift.dtype)
    return Finding(*place, status, Hole.DRIFT, drifted.said(drift), reference)


_Said = tuple[Status, Hole | None, str, str]


def _of_retained(found: list[Seen]) -> _Said:
    policy = found[0].policy
    holes = [each for each in found if each.hole is not None]
    words = _words(holes) if holes else ""
    said = "; ".join(part for part in (f"retained: {policy.because}", words) if part)
    return Status.RETAINED, gravest(holes).hole if holes else None, said, policy.reference


def _of_gating(found: list[Seen], policies: Policies) -> _Said:
    if policies.knows_failures and (unexpected := _unexpected_pass(found, policies)):
        return unexpected
    holes = [each for each in found if each.hole is not None]
    if not holes:
        return Status.GREEN, None, "", ""
    excused: list[tuple[Seen, Excuse]] = []
    red: list[Seen] = []
    for each in holes:
        excuses = _excuses(each, policies)
        valid = next((e for e in excuses if not policies.is_past(e)), None)
        if valid is not None:
            excused.append((each, valid))
        else:
            red.append(_expired(each, excuses))
    if red:
        return Status.RED, gravest(red).hole, _words(red), ""
    worst = gravest([each for each, _ in excused])
    excuse = next(excuse for each, excuse in excused if each is worst)
    words = f"{_words([each for each, _ in excused])}; excused: {excuse.because}"
    return Status.EXCUSED, worst.hole, words, excuse.reference


def _excuses(each: Seen, policies: Policies) -> list[Excuse]:
    known = policies.known_failures if each.hole in FAILURES else policies.exceptions
    return [excuse for excuse in known(each.asked) if each.hole in excuse.holes]


def _expired(each: Seen, excuses: Sequence[Excuse]) -> Seen:
    """A hole that an entry of the contract excused once."""
    entry = excuses[0] if excuses else each.policy.lapsed
    if entry is None:
        return each
    words = f"{entry.where} expired on {entry.expires} ({entry.reference}), and still {each.hole}"
    return each.but(Hole.EXPIRED, f"{words}: {each.words}")


def _unexpected_pass(found: list[Seen], policies: Policies) -> _Said | None:
    """A known failure none of whose checks fails any more, all of them having run."""
    entries: defaultdict[str, list[tuple[Seen, Excuse]]] = defaultdict(list)
    for each in found:
        for entry in policies.known_failures(each.asked):
            entries[entry.where].append((each, entry))
    for where, pairs in entries.items():
        if all(each.hole is None for each, _ in pairs):
            words = f"passed, though {where} knows it as a failure; remove that entry"
            return Status.RED, Hole.UNEXPECTED_PASS, words, pairs[0][1].reference
    return None


def _words(found: list[Seen]) -> str:
    """The gravest in words, and how many more."""
    worst = gravest(found)
    name = f"{worst.asked.check}: " if worst.asked.check else ""
    others = Counter(str(each.hole) for each in found if each is not worst)
    more = ", ".join(f"{count} {hole}" for hole, count in others.items())
    return f"{name}{worst.words}" + (f"; {more} more" if more else "")


def _of_runs(merged: Merged) -> Iterator[Finding]:
    for run in merged.runs:
        if not run.finished:
            yield Finding("", "", "", "", Status.RED, Hole.UNFINISHED, _unfinished(run))
    failed = [run.manifest.not_loaded for run in merged.runs]
    for module in sorted(set.intersection(*map(set, failed)) if failed else ()):
        words = f"{module} could not be imported, so its kernels are not here: {failed[0][module]}"
        yield Finding("", "", "", "", Status.RED, Hole.UNCOVERED, words)


def _unfinished(run: Run) -> str:
    known = run.manifest
    recorded = len({(r.kernel, r.arch, r.layer, r.check) for r in run.records})
    files = f"{run.path.name} and its manifest"
    counts = f"{recorded} of {len(known.collected)} collected checks have a record"
    return f"{run} {_ending(run)}; {counts}; run it again, or take {files} away"


def _ending(run: Run) -> str:
    if run.finished:
        return "ended"
    return _ENDS.get(run.manifest.status or 0, "did not come to its end")


def _nothing(merged: Merged) -> str:
    """Why no name is known that a contract or an option could be about."""
    ends = [f"{run} {_ending(run)}" for run in merged.runs]
    more = [f"{len(ends) - _SAID} more"] if len(ends) > _SAID else []
    modules = dict.fromkeys(name for run in merged.runs for name in run.manifest.not_loaded)
    failed = [f"{name} could not be imported" for name in modules]
    said = "; ".join([*ends[:_SAID], *more, *failed[:_SAID]])
    return f"the runs collected nothing, so that no kernel is known: {said}; run pytest again"


def _of_archs(gathered: _Gathered, wanted: _Wanted, archs: Sequence[str]) -> Iterator[Finding]:
    """An arch that was asked for, and on which nothing was run, is red whatever is retained."""
    ran = {
        asked[1]
        for asked, found in gathered.checks
        if asked[1] in archs and asked in wanted and any(map(_ran, found))
    }
    for arch in archs:
        if arch not in {CPU, *ran}:
            words = f"no check ran on {arch}: none of its records has evidence 'device'"
            yield Finding("", arch, "", "", Status.RED, Hole.WEAK_EVIDENCE, words)


def _ran(found: Record) -> bool:
    return found.verdict == Verdict.PASSED and found.evidence == Evidence.DEVICE
