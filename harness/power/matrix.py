"""The kill matrix: what became of every mutant and what caught it, as rows of JSON, and the scores.

A mutant is *killed* if the default run fails on it where it passes on the original. Rows keep, for
each layer, check, value family and oracle, how often and where first.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from harness import documents
from harness.power import foreign
from harness.power.isolation import Ending
from harness.power.session import LOADS, MAIN, OURS, Began, Concluded, Uncompiled
from harness.power.trace import Step
from harness.power.witness import SEARCH, Difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from harness.power.correct import Judged
    from harness.power.isolation import Finished
    from harness.power.mutation import Mutation
    from harness.power.session import TryMutant
    from harness.power.trace import Key
    from harness.power.witness import Original

SCHEMA: Final = 1
HABITS: Final = ("few shapes", "one shape")


class InvalidMatrix(ValueError):
    """A file that holds no matrix of this schema; the message says what is wrong."""


class Status(StrEnum):
    """What became of a mutant; the first two make the denominator."""

    KILLED = "killed"
    MISSED = "missed"  # witnessed, and not killed
    EQUIVALENT = "equivalent"  # never differed
    BENIGN = "benign"  # differed in bits, and is not worse
    ACCUSED = "accused"  # killed without a witness: perhaps a correct kernel
    INAPPLICABLE = "inapplicable"  # does not compile: no mutant of the kernel at all
    UNKNOWN = "unknown"  # the harness itself failed on it


@dataclass(frozen=True)
class Kill:
    """That an oracle caught a mutant in a family of a check: how often, and where first."""

    layer: str
    check: str
    family: str
    oracle: str
    count: int
    first: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mutant. ``curve`` holds the first failing position by dtype and config of the cases.

    ``foreign`` names, by input habit, the rules of others that reject it where they accept the
    original; ``by_habit`` the habits in which the harness's own numeric check does.
    """

    id: str
    kernel: str
    module: str
    family: str
    rule: str
    line: int
    before: str
    after: str
    held_out: bool
    status: Status
    witness: str
    kills: tuple[Kill, ...]
    curve: Mapping[str, int]
    foreign: Mapping[str, tuple[str, ...]]
    by_habit: tuple[str, ...]
    ending: str
    words: str
    seconds: float
    steps: int

    @property
    def witnessed(self) -> bool:
        """Whether it counts."""
        return self.status in {Status.KILLED, Status.MISSED}


def row(mutation: Mutation, finished: Finished[TryMutant], original: Original) -> Row:
    """What became of one mutant."""
    steps = [message for message in finished.messages if isinstance(message, Step)]
    began = [message.key for message in finished.messages if isinstance(message, Began)]
    ends = [message for message in finished.messages if isinstance(message, Concluded)]
    concluded = ends[0] if ends else Concluded(Difference.NONE, "")
    default = [step for step in steps if _in_default_run(step)]
    kills = [*_kills(default, original), *_violent(finished, began)]
    if words := _uncompiled(finished):
        kills, concluded = [], Concluded(Difference.NONE, words)
    elif finished.ending not in {Ending.DONE, Ending.FAILED}:
        concluded = Concluded(Difference.WITNESSED, f"{finished.ending}: {began[-1].name}")
    return Row(
        id=mutation.id,
        kernel=mutation.kernel,
        module=mutation.module,
        family=mutation.family,
        rule=mutation.rule,
        line=mutation.line,
        before=mutation.before,
        after=mutation.after,
        held_out=mutation.held_out,
        status=_status(finished, concluded, killed=bool(kills)),
        witness=concluded.words,
        kills=tuple(kills),
        curve=_curve(default, original),
        foreign=_foreign(steps, original),
        by_habit=_by_habit(steps, original),
        ending=str(finished.ending),
        words=finished.words[-1000:],
        seconds=round(finished.seconds, 3),
        steps=len(steps),
    )


def _in_default_run(step: Step) -> bool:
    return step.key.layer != SEARCH and step.key.check not in {SEARCH, *HABITS}


def _caught(step: Step, original: Original) -> bool:
    """Whether the step fails, and passes on the original."""
    before = original.steps.get(step.key)
    return not step.passed and (before is None or before.passed)


def _kills(steps: Iterable[Step], original: Original) -> list[Kill]:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    first: dict[tuple[str, str, str, str], Step] = {}
    for step in steps:
        if _caught(step, original):
            for oracle in step.oracles:
                place = (step.key.layer, step.key.check, step.family, oracle)
                counts[place] += 1
                first.setdefault(place, step)
    return [
        Kill(*place, count, first[place].key.name, first[place].words)
        for place, count in counts.items()
    ]


def _violent(finished: Finished[TryMutant], began: Sequence[Key]) -> list[Kill]:
    """A crash, a hang or a flood of memory, blamed on the step that had begun."""
    if finished.ending in {Ending.DONE, Ending.FAILED} or not began:
        return []
    layer, check, _, name = began[-1]
    if layer == SEARCH or check in {SEARCH, *HABITS}:
        return []
    family = name.partition("values=")[2].partition(",")[0] or "probe"
    return [Kill(layer, check, family, str(finished.ending), 1, name, finished.words[-300:])]


def _uncompiled(finished: Finished[TryMutant]) -> str:
    """What the compiler said of a mutant that it refused."""
    return next((m.words for m in finished.messages if isinstance(m, Uncompiled)), "")


def _status(finished: Finished[TryMutant], concluded: Concluded, *, killed: bool) -> Status:
    if _uncompiled(finished):
        return Status.INAPPLICABLE
    if finished.ending is Ending.FAILED:
        return Status.UNKNOWN
    if concluded.difference is Difference.WITNESSED:
        return Status.KILLED if killed else Status.MISSED
    if killed:
        return Status.ACCUSED
    return Status.BENIGN if concluded.difference is Difference.BITS else Status.EQUIVALENT


def _curve(steps: Iterable[Step], original: Original) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in steps:
        if step.key.check == MAIN and _caught(step, original):
            place = f"{step.key.dtype}/{step.config}"
            found[place] = min(found.get(place, step.position), step.position)
    return found


def _habit(step: Step) -> str:
    if step.key.check == MAIN:
        return OURS
    return step.key.check if step.key.check in HABITS else ""


def _foreign(steps: Sequence[Step], original: Original) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    if any(step.key == LOADS for step in steps):  # it does not import: no test of any kind passes
        return dict.fromkeys((OURS, *HABITS), tuple(foreign.RULES))
    for step in steps:
        if (habit := _habit(step)) and (before := original.steps.get(step.key)):
            found.setdefault(habit, set()).update(set(step.foreign) - set(before.foreign))
    return {h: tuple(rule for rule in foreign.RULES if rule in names) for h, names in found.items()}


def _by_habit(steps: Sequence[Step], original: Original) -> tuple[str, ...]:
    if any(step.key == LOADS for step in steps):
        return (OURS, *HABITS)
    caught = {_habit(step) for step in steps if _habit(step) and _caught(step, original)}
    return tuple(habit for habit in (OURS, *HABITS) if habit in caught)


@dataclass(frozen=True, kw_only=True)
class Rejections:
    """How many results of correct variants were judged, and what rejected some of them.

    By input habit, ``asked`` counts results, ``own`` those that the harness rejects, ``foreign``
    those that each rule of others does.
    """

    results: int = 0
    unfair: int = 0
    rejected: tuple[Mapping[str, str], ...] = ()
    by_op: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    foreign: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was seen of an original: seconds of its checks, and steps that fail on itself.

    ``own``, ``foreign`` and ``asked`` are those of ``Rejections``, of the original's results.
    """

    kernel: str
    examples: int
    configs: int
    cases: int
    searched: int
    seconds: Mapping[str, float]
    by_position: Mapping[int, float]
    fails: tuple[str, ...]
    own: Mapping[str, int]
    foreign: Mapping[str, Mapping[str, int]]
    asked: Mapping[str, int]


def rejections(judged: Iterable[Judged]) -> Rejections:
    """What the results of correct variants come to; an unfair case is no result."""
    everything = list(judged)
    ours = [each for each in everything if each.habit == OURS]
    fair = [each for each in ours if not each.unfair]
    wrong = [each for each in fair if each.oracles]
    asked = Counter(each.habit for each in everything)
    counts: dict[str, Counter[str]] = {habit: Counter() for habit in asked}
    for each in everything:
        counts[each.habit].update(each.foreign)
    return Rejections(
        results=len(fair),
        unfair=len(ours) - len(fair),
        rejected=tuple(
            {"variant": f"{e.op}: {e.variant}", "case": e.case, "words": e.words} for e in wrong
        ),
        by_op=dict(Counter(each.op for each in fair)),
        own=dict(Counter(each.habit for each in everything if each.oracles)),
        asked=dict(asked),
        foreign={habit: dict(found) for habit, found in counts.items()},
    )


def look(kernel: str, examples: int, configs: int, original: Original) -> Looked:
    """What a report says of an original."""
    steps = list(original.steps.values())
    seconds: dict[str, float] = {}
    positions: dict[int, float] = {}
    rejected: dict[str, Counter[str]] = {}
    asked: Counter[str] = Counter()
    own: Counter[str] = Counter()
    for step in steps:
        if _in_default_run(step):
            name = f"{step.key.layer}/{step.key.check}"
            seconds[name] = seconds.get(name, 0.0) + step.seconds
        if step.key.check == MAIN:
            positions[step.position] = positions.get(step.position, 0.0) + step.seconds
        if habit := _habit(step):
            asked[habit] += 1
            own[habit] += not step.passed
            rejected.setdefault(habit, Counter()).update(step.foreign)
    return Looked(
        kernel=kernel,
        examples=examples,
        configs=configs,
        cases=sum(_in_default_run(step) for step in steps),
        searched=sum(not _in_default_run(step) for step in steps),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        by_position={place: round(value, 4) for place, value in sorted(positions.items())},
        fails=tuple(f"{s.key.name}: {s.words}" for s in steps if not s.passed),
        own=dict(own),
        foreign={habit: dict(counts) for habit, counts in rejected.items()},
        asked=dict(asked),
    )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A power run: its rows, the originals, the correct variants, and what it ran on."""

    rows: tuple[Row, ...]
    originals: tuple[Looked, ...]
    rejections: Rejections
    run: Mapping[str, object]
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The whole matrix as one JSON document."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)


def row_from(fields: Mapping[str, object]) -> Row:
    """A row from its JSON fields; raises InvalidMatrix."""
    try:
        plain = dict(fields)
        plain["kills"] = tuple(Kill(**each) for each in plain["kills"])  # type: ignore[attr-defined]
        plain["status"] = Status(str(plain["status"]))
        plain["by_habit"] = tuple(plain["by_habit"])  # type: ignore[arg-type]
        plain["foreign"] = {k: tuple(v) for k, v in plain["foreign"].items()}  # type: ignore[attr-defined]
        return Row(**plain)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        msg = f"row={str(fields)[:80]!r} is none of schema {SCHEMA} ({error}); run again"
        raise InvalidMatrix(msg) from error


def read(path: Path) -> Matrix:
    """The matrix in a file; raises InvalidMatrix, OSError without the file."""
    text = path.read_text(encoding="utf-8")
    fields = documents.parsed(
        text, where=path, schema=SCHEMA, invalid=InvalidMatrix, again="run again"
    )
    try:
        positions = [
            {**each, "by_position": {int(k): v for k, v in each["by_position"].items()}}
            for each in fields["originals"]
        ]
        return Matrix(
            rows=tuple(row_from(each) for each in fields["rows"]),
            originals=tuple(
                Looked(**{**each, "fails": tuple(each["fails"])}) for each in positions
            ),
            rejections=Rejections(
                **{**fields["rejections"], "rejected": tuple(fields["rejections"]["rejected"])}
            ),
            run=fields["run"],
        )
    except (TypeError, KeyError, AttributeError) as error:
        msg = f"{path}: {error!r}; the file was not written by this version, run again"
        raise InvalidMatrix(msg) from error
