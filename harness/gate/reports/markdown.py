"""A comment for a pull request: the verdict, the table, and what is red, never too long to post."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from harness.gate.reports import drifts, matrix, red, verdict
from harness.gate.reports.text import count, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged
    from harness.gate.judge import Judgement

LIMIT: Final = 60_000  # characters; GitHub takes 65,536
_TABLE: Final = 30_000  # of them for the table
_DRIFTS: Final = 5_000
_NOTES: Final = 5_000
_PLACES: Final = 12
_WORDS: Final = 1_200
# What Markdown or GitHub would take for markup, a mention, an issue's number or a link.
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>()#+!|~$@&:])")


def render(judgement: Judgement, merged: Merged, changes: Sequence[Drift]) -> str:
    """The whole comment, of fewer than ``LIMIT`` characters."""
    rows = matrix.rows(judgement, merged)
    head = f"## {escaped(verdict.headline(judgement))}\n\n"
    totals = verdict.totals(cell.status for row in rows for cell in row.cells.values())
    said = (totals, verdict.checked(merged), verdict.not_asked_for(judgement, merged))
    facts = "".join(f"{words}.\n" for words in said if words) + "\n"
    rest = "".join((*_drifts(changes), *_notes(judgement.notes)))
    table = "".join(_table(rows))
    # What is red gets all the room that the rest leaves.
    room = LIMIT - sum(map(len, (head, facts, table, rest))) - 1
    return "".join((head, facts, table, *_red(judgement, red.Commands(merged), room), rest))


def escaped(words: object, limit: int = 300) -> str:
    """Text as Markdown that shows it as it is, in one line."""
    return _escaped(line(words, limit))


@lru_cache(4096)
def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\\@", "@\u200b").replace("\\:", ":")


def code(words: object, limit: int = 500) -> str:
    """Text as a span of code that no backtick within it ends."""
    text = line(words, limit)
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{padding}{text}{padding}{ticks}".replace("|", "\\|")


def _table(rows: Sequence[matrix.Row]) -> Iterator[str]:
    """Kernel x arch, red lines first where not all find room."""
    layers = matrix.layers(rows)
    order = list(matrix.GLYPHS)
    lines = [_line(row, layers) for row in rows]
    if sum(map(len, lines)) > _TABLE:
        lines = [_line(row, layers) for row in sorted(rows, key=lambda r: order.index(r.status))]
    heads = " | ".join(escaped(matrix.head(layer)) for layer in layers)
    yield f"| kernel | arch | {heads} |\n|{' --- |' * (2 + len(layers))}\n"
    kept = _fitting(lines, _TABLE)
    yield from kept
    legend = ", ".join(f"{glyph} {matrix.words_of(s)}" for s, glyph in matrix.GLYPHS.items())
    yield f"\n{legend}; the word is the evidence of what passed, or what is wrong.\n\n"
    if left := len(lines) - len(kept):
        yield f"{count(left, 'line')} more, none worse, would not fit here.\n\n"


def _line(row: matrix.Row, layers: Iterable[str]) -> str:
    cells = (row.cells.get(layer) for layer in layers)
    words = " | ".join(
        f"{matrix.GLYPHS[c.status]} {escaped(c.word)}" if c is not None else "" for c in cells
    )
    return f"| {code(row.kernel, 100)} | {escaped(row.arch)} | {words} |\n"


def _red(judgement: Judgement, commands: red.Commands, room: int) -> Iterator[str]:
    """What is red, folded; ends with how many causes found no room."""
    groups = red.groups(judgement)
    if not groups:
        return
    number = sum(len(group.findings) for group in groups)
    head = f"<details><summary>What is red: {count(number, 'finding')}</summary>\n\n"
    foot = "\n</details>\n\n"
    last = f"- and {count(len(groups), 'more cause')}: see the other reports\n"
    items = [_item(group, commands) for group in groups]
    kept = _fitting(items, room - len(head) - len(foot) - len(last))
    yield head
    yield from kept
    if left := len(items) - len(kept):
        yield f"- and {count(left, 'more cause')}: see the other reports\n"
    yield foot


def _item(group: red.Group, commands: red.Commands) -> str:
    name = matrix.words_of(group.hole or "red")
    words = [f"- **{name}**: {escaped(red.places(group.findings, _PLACES), 1_500)}\n"]
    words.append(f"  {escaped(group.cause, _WORDS)}\n" if group.cause else "")
    words.append(f"  Reference: {line(group.reference)}\n" if group.reference else "")
    if command := commands.of(group.findings[0]):
        words.append(f"  {code(command)}\n")
    words.append(f"  {group.way_out}\n" if group.way_out else "")
    return "".join(words)


def _drifts(changes: Sequence[Drift]) -> Iterator[str]:
    if said := drifts.summary(changes):
        yield f"Drift: {said}.\n\n"
    worse = [drift for drift in drifts.ordered(changes) if drift.flagged]
    if worse:
        yield f"<details><summary>Drift: {count(len(worse), 'row')} worse</summary>\n\n"
        lines = [
            f"- {code(d.kernel, 100)} on {escaped(d.arch)}, {escaped(d.check)}"
            f"{escaped(f', {d.dtype}' if d.dtype else '')}: {escaped(d.words)}\n"
            for d in worse
        ]
        yield from _with_rest(lines, _DRIFTS)
        yield "\n</details>\n\n"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"<details><summary>{count(len(notes), 'note')}</summary>\n\n"
        yield from _with_rest([f"- {escaped(note)}\n" for note in notes], _NOTES)
        yield "\n</details>\n"


def _with_rest(lines: Sequence[str], room: int) -> Iterator[str]:
    kept = _fitting(lines, room)
    yield from kept
    if left := len(lines) - len(kept):
        yield f"- and {left:,} more\n"


def _fitting(lines: Iterable[str], room: int) -> list[str]:
    """The first lines that have room together."""
    kept = []
    for text in lines:
        if len(text) > room:
            break
        room -= len(text)
        kept.append(text)
    return kept
