"""The verdict table: kernel x arch, a glyph and the evidence per layer, with totals."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.cells import Cell, Evidence, Layer, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.record import Record

GLYPHS: Final = {
    Verdict.PASSED: "✓",
    Verdict.FAILED: "✗",
    Verdict.SKIPPED: "-",
    Verdict.UNCOVERED: "?",
}
_ASCII: Final = {**GLYPHS, Verdict.PASSED: "+", Verdict.FAILED: "X"}
COLOURS: Final = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "yellow",
    Verdict.UNCOVERED: "purple",
}
_SHORT: Final = {
    Evidence.DEVICE: "dev",
    Evidence.EMULATED: "emu",
    Evidence.COMPILED: "cmp",
    Evidence.FAKE: "fake",
    Evidence.NONE: "",
}
_HEADS: Final = {Layer.IMPORT_SAFETY: "import", Layer.FAKE_SHAPE: "fake"}
_WIDTH: Final = 9


@dataclass(frozen=True)
class Segment:
    """A piece of a line and the colour that a terminal may give it."""

    text: str
    colour: str | None = None


def verdicts(
    inventory: Iterable[Cell], records: Iterable[Record]
) -> dict[Cell, tuple[Verdict, Evidence]]:
    """The verdict and evidence of every cell: failed beats skipped beats passed beats nothing."""
    found: dict[Cell, list[Record]] = defaultdict(list)
    for record in records:
        found[record.cell].append(record)
    return {
        cell: _of(found[cell]) if cell in found else (Verdict.UNCOVERED, Evidence.NONE)
        for cell in dict.fromkeys((*inventory, *found))
    }


def _of(records: list[Record]) -> tuple[Verdict, Evidence]:
    seen = {Verdict(record.verdict): Evidence(record.evidence) for record in records}
    order = (Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED)
    verdict = next(v for v in order if v in seen)
    return verdict, seen[verdict]


def totals(results: Mapping[Cell, tuple[Verdict, Evidence]]) -> str:
    """``cells: 12 passed, 0 failed, 3 skipped, 1 uncovered of 16 claimed``."""
    counts = Counter(verdict for verdict, _ in results.values())
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)
    return f"cells: {words} of {len(results)} claimed"


def skips(records: Iterable[Record]) -> list[str]:
    """``20 checks skipped: sm100 is not on this machine, ...``, one line for each reason."""
    reasons = Counter(r.message for r in records if r.verdict == Verdict.SKIPPED)
    return [f"{count} checks skipped: {reason}" for reason, count in reasons.items()]


def unfair(records: Iterable[Record]) -> list[str]:
    """Families of which too many cases were dropped as beyond float32, a line for each check."""
    said = [
        f"little said, {r.kernel} on {r.arch}, {r.check}: {words}"
        for r in records
        for words in _listed(r.figures.get("mostly_unfair"))
    ]
    return list(dict.fromkeys(said))


def accuracies(records: Iterable[Record]) -> list[str]:
    """How accurate kernels are beside what they were ported from, a line for each check."""
    said = []
    for found in records:
        families, case = found.figures.get("of_upstream_error"), found.figures.get
        if isinstance(families, dict) and families:
            worst = max(families, key=families.__getitem__)
            said.append(
                f"rms error of {found.kernel} on {found.arch}, {found.check}: at most "
                f"{families[worst]:.3g} x the original's, over values={worst}; worst case "
                f"{case('worst_of_upstream_error'):.3g} x, {case('worst_of_upstream')}"
            )
    return said


def _listed(figure: object) -> list[object]:
    return figure if isinstance(figure, list) else []


def lines(
    results: Mapping[Cell, tuple[Verdict, Evidence]], *, unicode: bool = True
) -> Iterator[list[Segment]]:
    """The table's lines; an arch of a kernel none of whose cells was checked is left to totals."""
    glyphs = GLYPHS if unicode else _ASCII
    layers = _columns(results)
    heads = "".join(_HEADS.get(layer, layer.value).ljust(_WIDTH) for layer in layers)
    yield [Segment(f"{'':8}{heads}".rstrip())]
    shown = {(c.kernel, c.arch) for c, (v, _) in results.items() if v is not Verdict.UNCOVERED}
    for kernel in dict.fromkeys(kernel for kernel, _ in (_key(cell) for cell in results)):
        archs = [a for k, a in dict.fromkeys(map(_key, results)) if (k, a) in shown and k == kernel]
        if archs:
            yield [Segment(kernel)]
        for arch in archs:
            yield [Segment(f"  {arch:6}"), *_row(results, kernel, arch, glyphs, layers)]
    legend = ", ".join(f"{glyphs[verdict]} {verdict}" for verdict in Verdict)
    yield [Segment(f"{legend}, blank not claimed; dev ran on that arch, emu interpreted,")]
    yield [Segment("cmp machine code inspected, fake metadata only")]


def _columns(results: Iterable[Cell]) -> list[Layer]:
    """Every layer, the one that a run has to ask for only where it was asked for."""
    asked = any(cell.layer is Layer.SANITIZE for cell in results)
    return [layer for layer in Layer if asked or layer is not Layer.SANITIZE]


def _key(cell: Cell) -> tuple[str, str]:
    return cell.kernel, cell.arch


def _row(
    results: Mapping[Cell, tuple[Verdict, Evidence]],
    kernel: str,
    arch: str,
    glyphs: Mapping[Verdict, str],
    layers: Iterable[Layer],
) -> Iterator[Segment]:
    for layer in layers:
        result = results.get(Cell(kernel, arch, layer))
        if result is None:
            yield Segment(" " * _WIDTH)
            continue
        verdict, evidence = result
        yield Segment(f"{glyphs[verdict]} {_SHORT[evidence]}".ljust(_WIDTH), COLOURS[verdict])
