"""One page of HTML with everything in it: no network, no build step, and nothing taken on trust.

Text of records is escaped in the markup, and set as text by the script; the data is JSON that no
browser can take for markup; the content security policy lets only this page's own script run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from harness import __version__, reproduction
from harness.cells import Evidence, Outcome
from harness.gate.holes import Status
from harness.gate.reports import details, drifts, matrix, red, verdict
from harness.gate.reports.text import clean, count, line, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.gate.drift import Drift
    from harness.gate.evidence import Merged
    from harness.gate.judge import Finding, Judgement
    from harness.gate.reports.matrix import Row, Shown

LINES: Final = 3_000  # of the matrix: more take a phone too long to lay out
_GROUPS: Final = 40  # causes of one hole that are told
_PLACES: Final = 200  # cells of one cause that are linked
_WORDS: Final = 3_000
_RUNS: Final = 60
_NOTES: Final = 100
# In a script element, even one of data, `</script>` ends it and `<!--` changes how it ends.
_MARKUP: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(judgement: Judgement, merged: Merged, changes: Sequence[Drift]) -> str:
    """The whole page."""
    rows = matrix.rows(judgement, merged)
    shown = _worst(rows)
    layers = matrix.layers(rows)
    cells = [cell for row in shown for cell in row.cells.values()]
    behind = details.of_cells(cells, merged, changes)
    script, style = _part("page.js"), _part("page.css")
    return _filled(
        _part("page.html"),
        headline=escape(verdict.headline(judgement)),
        colour="green" if judgement.green else "red",
        totals=escape(verdict.totals(c.status for row in rows for c in row.cells.values())),
        checked=escape(verdict.checked(merged)),
        not_asked_for=_paragraph(verdict.not_asked_for(judgement, merged)),
        findings="".join(_findings(judgement, red.Commands(merged))),
        archs=_options(dict.fromkeys(row.arch for row in shown)),
        layers=_options(layers),
        statuses="".join(f"<option value={s}>{matrix.words_of(s)}</option>" for s in Status),
        evidences=_options(map(str, Evidence)),
        legend="".join(_legend()),
        matrix="".join(_matrix(shown, layers)),
        left_out="".join(_left_out(len(rows) - len(shown), behind.left)),
        drift="".join(drifts.table(changes)),
        runs="".join(_runs(merged)),
        notes="".join(_notes(judgement.notes)),
        version=escape(__version__),
        data=embedded(_data(behind, layers)),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def embedded(value: object) -> str:
    """JSON that can stand in a script element: none of its characters ends one, or a line."""
    return json.dumps(value, separators=(",", ":")).translate(_MARKUP)


def _part(name: str) -> str:
    return resources.files("harness.gate.reports").joinpath(name).read_text(encoding="utf-8")


def _filled(template: str, **parts: str) -> str:
    """The template with its parts; what they contain is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _text(words: object) -> str:
    return escape(clean(words))


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>" if words else ""


def _options(values: Iterable[str]) -> str:
    return "".join(f"<option>{_text(value)}</option>" for value in values)


def _worst(rows: Sequence[Row]) -> list[Row]:
    """As many lines as there is room for, the red ones before others; in their own order."""
    order = list(matrix.GLYPHS)
    worst = sorted(range(len(rows)), key=lambda place: order.index(rows[place].status))
    return [rows[place] for place in sorted(worst[:LINES])]


def _legend() -> Iterator[str]:
    for status, words in matrix.MEANINGS.items():
        yield f"<span>{matrix.GLYPHS[status]} {matrix.words_of(status)}: {words}.</span> "


def _findings(judgement: Judgement, commands: red.Commands) -> Iterator[str]:
    holes = red.by_hole(red.groups(judgement))
    if not holes:
        yield "<p>Nothing.</p>"
    linked: set[str] = set()
    for hole, groups in holes.items():
        number = sum(len(group.findings) for group in groups)
        name = matrix.words_of(hole or "red")
        yield f"<details class=hole open><summary>{_text(name)} ({number:,})</summary>"
        yield f"<p class=note>{_text(groups[0].way_out)}</p>" if groups[0].way_out else ""
        for group in groups[:_GROUPS]:
            yield from _cause(group, commands, linked)
        if (left := len(groups) - _GROUPS) > 0:
            yield f"<p class=note>And {count(left, 'more cause')}: filter the matrix by status.</p>"
        yield "</details>"


def _cause(group: red.Group, commands: red.Commands, linked: set[str]) -> Iterator[str]:
    words = shortened(clean(group.cause), _WORDS)
    yield f"<div class=cause><pre class=words tabindex=0>{escape(words)}</pre>"
    if group.reference:
        yield f"<p>Reference: {_text(group.reference)}</p>"
    if command := commands.of(group.findings[0]):
        yield f"<pre>{_text(command)}</pre>"
    links = [_place(finding, linked) for finding in group.findings[:_PLACES]]
    if (left := len(group.findings) - _PLACES) > 0:
        links.append(f"and {left:,} more")
    yield f"<p class=cells>{'; '.join(links)}</p></div>"


def _place(finding: Finding, linked: set[str]) -> str:
    """A link to the cell; the first has its anchor, for a browser without JavaScript."""
    if not finding.kernel:
        return escape(red.place(finding))
    address = _address(matrix.Key(finding.kernel, finding.arch, finding.layer))
    anchor = "" if address in linked else f' id="{address[1:]}"'
    linked.add(address)
    return f'<a href="{address}"{anchor}>{escape(red.place(finding))}</a>'


def _address(key: matrix.Key) -> str:
    return f"#cell={quote(clean(key))}"


def _matrix(rows: Sequence[Row], layers: Sequence[str]) -> Iterator[str]:
    if not rows:
        yield "<p>There is no cell.</p>"
        return
    heads = "".join(f"<th scope=col role=columnheader>{_text(matrix.head(v))}</th>" for v in layers)
    yield '<table class=matrix role=table aria-labelledby="matrix-title" aria-describedby=keys>'
    yield "<thead role=rowgroup><tr role=row><th scope=col role=columnheader>arch</th>"
    yield f"{heads}</tr></thead>"
    kernel = None
    for row in rows:
        if row.kernel != kernel:
            yield "</tbody>" if kernel is not None else ""
            kernel = row.kernel
            yield "<tbody role=rowgroup><tr role=row>"
            yield f"<th scope=rowgroup role=rowheader colspan={len(layers) + 1}>"
            yield f"{_text(kernel)}</th></tr>"
        cells = "".join(_cell(row.cells.get(layer)) for layer in layers)
        yield f"<tr role=row><th scope=row role=rowheader>{_text(row.arch)}</th>{cells}</tr>\n"
    yield "</tbody></table>"


def _cell(cell: Shown | None) -> str:
    if cell is None:
        return "<td role=cell></td>"
    status = cell.status
    words = f"{matrix.GLYPHS[status]} {_text(cell.word)}"
    head = _text(matrix.head(cell.key.layer))
    return (
        f"<td role=cell class={status} data-e={cell.evidence}>"
        f'<a href="{_address(cell.key)}"><i>{head}</i>{words}</a></td>'
    )


def _left_out(lines: int, cells: int) -> Iterator[str]:
    if lines > 0:
        words = f"{count(lines, 'line')} of the matrix, none worse than those that are here"
        yield f"<p class=note>Left out to keep the page small: {words}.</p>"
    if cells:
        words = f"what is behind {count(cells, 'cell')}; red ones come first"
        yield f"<p class=note>Left out to keep the page small: {words}. The records have it.</p>"


def _runs(merged: Merged) -> Iterator[str]:
    names = ("run", "started", "finished", "archs", "device", "seed", "versions")
    heads = "".join(f"<th scope=col>{name}</th>" for name in names)
    yield "<div class=scroll tabindex=0 role=region aria-label=Runs><table class=plain>"
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    manifests = [run.manifest for run in merged.runs]
    for run in manifests[:_RUNS]:
        facts = (
            run.run,
            run.started,
            run.finished or "not finished",
            ", ".join(run.archs) or "no GPU",
            _pairs(run.device),
            run.seed,
            _pairs(run.versions),
        )
        cells = "".join(f"<td>{escape(line(fact))}</td>" for fact in facts)
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table></div>"
    if (left := len(manifests) - _RUNS) > 0:
        yield f"<p class=note>And {count(left, 'more run')}.</p>"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        items = "".join(f"<li>{escape(line(note, 500))}</li>" for note in notes[:_NOTES])
        yield f"<h3>Notes</h3><ul>{items}</ul>"
    if (left := len(notes) - _NOTES) > 0:
        yield f"<p class=note>And {count(left, 'more note')}.</p>"


def _data(behind: details.Details, layers: Sequence[str]) -> dict[str, object]:
    return {
        "layers": list(layers),
        "meanings": {str(status): words for status, words in matrix.MEANINGS.items()},
        "glyphs": {str(Outcome.PASSED): "✓", str(Outcome.UNAVAILABLE): "-"},
        "command": reproduction.of_cell("KERNEL", "ARCH", "LAYER"),
        "environments": behind.environments,
        "cells": behind.cells,
    }
