"""A power run in words: tables in Markdown, the last line, a plot; pure functions of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power import scores
from harness.power.matrix import HABITS, Status
from harness.power.session import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from harness.power.matrix import Matrix, Row
    from harness.power.scores import Catcher

_LISTED: Final = 24  # rows of a list; the JSON has all
_CUT: Final = 90
_UNCOUNTED: Final = (
    *(Status.EQUIVALENT, Status.BENIGN, Status.ACCUSED, Status.INAPPLICABLE, Status.UNKNOWN),
)


class NoPlace(ValueError):
    """A document without the marks between which figures go."""


def last_line(matrix: Matrix) -> str:
    """The line that a run ends in."""
    found = scores.score(matrix.rows)
    rejections = matrix.rejections
    return (
        f"killed {found.killed} of {found.of} witnessed mutants; "
        f"false rejections {len(rejections.rejected)} of {rejections.results} correct results"
    )


def doubts(matrix: Matrix) -> list[str]:
    """What keeps a run from being taken at its word."""
    found = [f"{each.kernel} fails on itself: {words}" for each in matrix.originals
             for words in each.fails]  # fmt: skip
    found += [f"{row.id}: {row.words}" for row in matrix.rows if row.status is Status.UNKNOWN]
    if len(matrix.rows) != matrix.run["mutants"]:
        found.append(f"{len(matrix.rows)} of {matrix.run['mutants']} mutants were tried")
    if not matrix.rejections.results:
        found.append("no correct variant was judged; declare some with harness.variants")
    return found


def markdown(matrix: Matrix) -> str:
    """All tables of a run."""
    parts = [
        _run(matrix),
        _scores(matrix.rows),
        _elsewhere(matrix),
        _false(matrix),
        _catchers(matrix.rows),
        _curve(matrix),
        _rules(matrix),
        _listed("Missed", matrix.rows, Status.MISSED),
        _listed("Killed without a witness", matrix.rows, Status.ACCUSED),
        _doubtful(matrix),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def of_row(row: Row) -> str:
    """One mutant: what caught it, or what witnessed it."""
    lines = [f"\n{row.status}: {row.id}, {row.family}, {row.seconds:.1f} s, {row.steps} steps"]
    lines += [f"  witness    {row.witness or 'none'}"]
    for kill in row.kills:
        lines.append(f"  killed by  {kill.layer} {kill.check}, {kill.family}: {kill.oracle},")
        lines.append(f"             {kill.count} times, first {kill.first}")
        lines.append(f"             {kill.words}")
    for habit, rules in row.foreign.items():
        lines.append(f"  others     {habit}: {', '.join(rules) or 'none rejects it'}")
    if row.words:
        lines.append(f"  {row.ending}: {row.words}")
    return "\n".join(lines) + "\n"


def insert(document: str, matrix: Matrix, part: str = "") -> str:
    """``document`` with the tables between the marks of the matrix's arch; raises NoPlace.

    ``part`` is a word of the marks, where a document has several runs on one arch.
    """
    arch = f"{matrix.run['arch']} {part}".strip()
    opening, closing = f"<!-- power {arch} -->", f"<!-- end of power {arch} -->"
    before, found, rest = document.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (found and closed):
        msg = f"the document has no lines {opening!r} and {closing!r}; write them where figures go"
        raise NoPlace(msg)
    tables = f"{markdown(matrix)}\n    {last_line(matrix)}\n"
    return f"{before}{opening}\n{tables}\n{closing}{after}"


def plot(matrix: Matrix, path: Path) -> None:
    """Scores against false rejections, and the kill curve, as an SVG; raises ImportError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_rules(left, matrix)
    points = scores.curve(matrix)
    right.plot([p.cases for p in points], [100 * p.score.share for p in points], "o-",
               label="all layers")  # fmt: skip
    right.plot([p.cases for p in points], [100 * p.numeric.share for p in points], "s-",
               label="numeric cases alone")  # fmt: skip
    right.set_xlabel("cases per configuration and dtype")
    right.set_ylabel("witnessed mutants killed, %")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8)
    figure.savefig(path)


def _draw_rules(axes: Axes, matrix: Matrix) -> None:
    """A point a rule and kind of inputs; the names of rules at one place stand together."""
    markers = dict(zip((OURS, *HABITS), "os^", strict=True))
    names: dict[tuple[float, float], list[str]] = {}
    for found in scores.rules(matrix):
        if found.asked and found.score.of:
            at = (100 * found.rejected / found.asked, 100 * found.score.share)
            colour = "tab:red" if found.rule == scores.OWN else "tab:blue"
            axes.plot(*at, markers[found.inputs], color=colour, alpha=0.7)
            if found.inputs == OURS:
                names.setdefault(at, []).append(found.rule)
    middle = sum(axes.get_xlim()) / 2
    for (x, y), rules in names.items():
        side, shift = ("right", -6) if x > middle else ("left", 6)
        axes.annotate("\n".join(rules), (x, y), fontsize=6, ha=side, va="center",
                      xytext=(shift, 0), textcoords="offset points")  # fmt: skip
    axes.set_xlabel("correct results rejected, %")
    axes.set_ylabel("witnessed mutants killed, %")
    axes.set_title("o all families, s few shapes, ^ one shape", fontsize=8)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table that also reads as text."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (list(head), *cells)) for i in range(len(head))]
    lines = [list(head), ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _run(matrix: Matrix) -> str:
    run = matrix.run
    device, versions = run["device"], run["versions"]
    where = ", ".join(f"{k} {v}" for k, v in device.items())  # type: ignore[attr-defined]
    what = ", ".join(f"{k} {v}" for k, v in versions.items())  # type: ignore[attr-defined]
    kind = "quick: each mutant until its first kill" if run["quick"] else "full"
    if run.get("seconds"):
        kind += f", {run['seconds']:g} s at most"
    return (
        f"Arch {run['arch']} ({where}), {run['cores']} cores, {run['jobs']} children at a time, "
        f"seed {run['seed']}, {kind}; {run['wall_seconds']} s; {what}."
    )


def _scores(rows: Sequence[Row]) -> str:
    def line(name: str, group: Sequence[Row]) -> list[object]:
        found, counts = scores.score(group), scores.statuses(group)
        share = f"{100 * found.share:.1f} %" if found.of else "-"
        rest = [counts[s] or "" for s in _UNCOUNTED]
        return [name, len(group), found.of, found.killed, share, *rest]

    lines = [line("all", rows)]
    lines += [line(n, g) for n, g in scores.grouped(rows, _half).items()]
    lines += [line(f"family {n}", g) for n, g in scores.grouped(rows, lambda r: r.family).items()]
    lines += [line(n, g) for n, g in scores.grouped(rows, lambda r: r.kernel).items()]
    head = ("mutants", "made", "witnessed", "killed", "score", *_UNCOUNTED)
    cost = f"{scores.seconds_per_kill(rows):.2f} seconds of one core or device slot per kill."
    return f"{table(head, lines)}\n\n{cost}"


def _elsewhere(matrix: Matrix) -> str:
    """The mutants that no machine of this arch can try: neither killed nor survivors."""
    found: Mapping[str, Mapping[str, object]] = matrix.run.get("elsewhere") or {}  # type: ignore[assignment]
    words = [f"{name} {e['mutants']} (need {e['needs']})" for name, e in found.items()]
    return f"Not tried, in no count: {'; '.join(words)}." if words else ""


def _half(row: Row) -> str:
    return "held out (unseen while tuning)" if row.held_out else "tuning"


def _false(matrix: Matrix) -> str:
    found = matrix.rejections
    bound = scores.upper_bound(len(found.rejected), found.results) if found.results else 1.0
    ops = ", ".join(f"{op} {count}" for op, count in found.by_op.items())
    words = (
        f"False rejections: {len(found.rejected)} of {found.results} results of correct variants "
        f"({ops}), so at most {100 * bound:.2g} % with 95 % confidence; {found.unfair} more were "
        f"unfair cases, beyond float32 itself, which the default run drops too."
    )
    shown = found.rejected[:_LISTED]
    return "\n".join(
        [words, *(f"- {e['variant']}: {e['case']}: {_cut(e['words'])}" for e in shown)]
    )


def _catchers(rows: Sequence[Row]) -> str:
    def part(title: str, found: Sequence[Catcher]) -> str:
        lines = [(each.name, each.killed, each.alone or "") for each in found]
        return table((title, "kills", "alone"), lines) if lines else ""

    shown = [
        part("layer", scores.catchers(rows, scores.layers_of)),
        part("check", scores.catchers(rows, scores.checks_of)),
        part("oracle", scores.catchers(rows, scores.oracles_of)),
        part("value family", scores.catchers(rows, scores.families_of)),
        part("layer, family, oracle", scores.catchers(rows, scores.pairs_of)[:_LISTED]),
    ]
    note = "*alone* counts mutants that nothing else in the same table kills."
    return "\n\n".join([*(part for part in shown if part), note]) if any(shown) else ""


def _curve(matrix: Matrix) -> str:
    if matrix.run["quick"]:
        return ""
    lines = [(p.cases, p.score, p.numeric, f"{p.seconds:.1f}") for p in scores.curve(matrix)]
    head = ("cases per configuration and dtype", "killed, all layers", "killed, these cases alone",
            "seconds on the originals")  # fmt: skip
    return table(head, lines)


def _rules(matrix: Matrix) -> str:
    if matrix.run["quick"]:
        return ""
    lines = [
        (
            found.inputs,
            found.rule,
            found.score,
            found.precision,
            f"{found.rejected} of {found.asked}" if found.asked else "-",
        )
        for found in scores.rules(matrix)
    ]
    head = ("inputs", "rule", "kills", "of them precision", "correct results rejected")
    return table(head, lines)


def _listed(title: str, rows: Iterable[Row], status: Status) -> str:
    chosen = [row for row in rows if row.status is status]
    if not chosen:
        return ""
    lines = [
        (row.id, row.line, f"`{_cut(row.before, 40)}` to `{_cut(row.after, 40)}`", _cut(_seen(row)))
        for row in chosen[:_LISTED]
    ]
    more = f"\n\n{len(chosen) - _LISTED} more in matrix.json." if len(chosen) > _LISTED else ""
    return f"{title}: {len(chosen)}\n\n{table(('mutant', 'line', 'edit', 'seen'), lines)}{more}"


def _seen(row: Row) -> str:
    return row.witness or (row.kills[0].words if row.kills else "")


def _doubtful(matrix: Matrix) -> str:
    found = doubts(matrix)
    return "\n".join(["Doubts:", *(f"- {_cut(words, 200)}" for words in found)]) if found else ""


def _cut(words: str, width: int = _CUT) -> str:
    flat = " ".join(words.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"
