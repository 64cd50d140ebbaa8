"""Judgements and records as a gate has them, made up: for tests of what is reported of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.gate.drift import Drift, Errors
from harness.gate.evidence import Merged, Run
from harness.gate.holes import Hole, Status
from harness.gate.judge import Finding, Judgement
from harness.manifest import Manifest
from harness.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

EVIL: Final = "</script><img src=x onerror=alert(1)>\u2028'\"&|`@team #1 \x1b[31m\x00]]>"
COMMAND: Final = (
    "python -m pytest suites/numeric/test_numeric.py -m sm90 --case "
    "norm.triton/m=1,n=8,dtype=float16,values=normal,layout=contiguous,config=default,seed=1"
)
LAYERS: Final = ("import_safety", "fake_shape", "compile", "numeric", "module", "boundary")
VERSIONS: Final = {"kernel-parity": "0.1.0", "torch": "2.13.0", "triton": "3.7.1"}
H200: Final = {"device": "NVIDIA H200", "driver": "580.159.04", "cuda": "13.0"}
MAP: Final[dict[str, object]] = {
    "output": "y",
    "shape": [70, 96],
    "tile": [1, 2],
    "exact": False,
    "where": "in columns 64 to 95: 5 % of the elements there",
    "lines": ["..:." * 8 + ".1.3.5.9.X..:.:." for _ in range(28)],
}
FAILURE: Final = f"""norm.triton on sm90, numeric (device): 1 problem
  case       norm.triton/m=1,n=8,dtype=float16
  reproduce  {COMMAND}
  - y: budget: 28 of 6720 elements wrong; worst at [0, 90]: actual nan, expected 0.5"""


def record(
    kernel: str = "norm.triton",
    arch: str = "sm90",
    layer: str = "numeric",
    *,
    outcome: str = "passed",
    message: str = "",
    dtype: str = "float16",
    **figures: object,
) -> Record:
    """The record of a check; a message without more says that it failed."""
    verdict = {"passed": "passed", "unavailable": "skipped"}.get(outcome, "failed")
    known: dict[str, object] = {"worst_in_budget": 0.5}
    return Record(
        kernel=kernel,
        arch=arch,
        layer=layer,
        check=f"test_{layer}[{dtype}]",
        verdict=verdict,
        outcome=outcome,
        evidence="none" if verdict == "skipped" else "compiled" if layer == "compile" else "device",
        cases=0 if verdict == "skipped" else 96,
        figures={} if verdict == "skipped" else known | figures,
        message=message,
        dtype=dtype,
        run="5f3c",
        started="2026-11-22T06:00:00.000Z",
        backend="triton",
        launched=["triton:kernels.norm.triton.norm"],
        source="0123456789abcdef",
        versions=VERSIONS,
        device=H200,
        seconds=1.5,
    )


def merged(records: Iterable[Record], name: str = "sm90") -> Merged:
    """One finished run with these records."""
    manifest = Manifest(
        run="5f3c",
        started="2026-11-22T06:00:00.000Z",
        finished="2026-11-22T06:10:00.000Z",
        status=0,
        versions=VERSIONS,
        device=H200,
        archs=("sm90",),
    )
    return Merged((Run(Path(f"{name}.jsonl"), manifest, tuple(records)),))


def finding(found: Record, status: Status, hole: Hole | None = None, words: str = "") -> Finding:
    """What the gate says of a record's check."""
    return Finding(found.kernel, found.arch, found.layer, found.dtype, status, hole, words)


def drift(found: Record, *, flagged: bool = True) -> Drift:
    """A drift of that check."""
    return Drift(
        kernel=found.kernel,
        arch=found.arch,
        layer=found.layer,
        check=found.check,
        dtype=found.dtype,
        measure="errors",
        before=Errors(96, 0.04, 0.2),
        after=Errors(96, 0.1, 0.5),
        pairs=96,
        moved=90,
        ratio=2.5,
        p=1e-9,
        corrected=1e-7,
        flagged=flagged,
        words="errors are 2.5 x those of v1 in the median; worse beyond chance",
        points=tuple((0.002 * n, 0.005 * n) for n in range(1, 97)),
    )


def errors(count: int, top: float) -> dict[str, float]:
    """Errors of so many cases, evenly up to the largest."""
    return {f"{n:08x}": round(top * (n + 1) / count, 4) for n in range(count)}


def small(evil: str = "silu.triton") -> tuple[Judgement, Merged, tuple[Drift, ...]]:
    """Two kernels on four archs, with every status; one kernel is named ``evil``."""
    records = [*_good("norm.triton", ("cpu", "sm90"))]
    bad = record(outcome="wrong", message=FAILURE, error_map=[MAP], errors=errors(96, 1.4))
    away = record(evil, "sm100", outcome="unavailable", message=f"sm100 is not here {evil}")
    known = record(evil, layer="module", outcome="crashed", message=f"signal 6 {evil}")
    other = [*_good(evil, ("sm90",))]
    aside = record("norm.triton", "sm120", "compile")
    findings = [
        *(finding(each, Status.GREEN) for each in records),
        finding(bad, Status.RED, Hole.FAILED, FAILURE),
        finding(away, Status.RED, Hole.SKIPPED, f"sm100 is not on this machine {evil}"),
        Finding(evil, "sm100", "boundary", "", Status.RED, Hole.UNCOVERED, "never collected"),
        Finding("", "", "", "", Status.RED, Hole.UNFINISHED, "run 5f3c was killed"),
        Finding(evil, "sm90", "module", "", Status.EXCUSED, None, "known", f"#12 {evil}"),
        *(finding(each, Status.RETAINED) for each in other),
    ]
    judgement = Judgement(tuple(findings), (f"a note {evil}",), ("sm90", "sm100"), ("5f3c",))
    found = merged([*records, bad, away, known, *other, aside])
    return judgement, found, (drift(bad), drift(records[-1], flagged=False))


def narrow() -> tuple[Judgement, Merged, tuple[Drift, ...]]:
    """A judgement of the CPU, with records of sm120 of which one failed."""
    asked, retained = record(arch="cpu"), record(arch="cpu", layer="module", outcome="wrong")
    left = [record(arch="sm120", layer="compile", outcome=o) for o in ("passed", "wrong")]
    judged = (finding(asked, Status.GREEN), finding(retained, Status.RETAINED, Hole.FAILED))
    return Judgement(judged, (), ("cpu",)), merged([asked, retained, *left]), ()


def _good(kernel: str, archs: Sequence[str]) -> Iterator[Record]:
    for arch, layer in itertools.product(archs, LAYERS):
        yield record(kernel, arch, layer, errors=errors(96, 0.8), calibration="budget of 2026")


def large(count: int, *, red: int = 50) -> tuple[Judgement, Merged, tuple[Drift, ...]]:
    """So many records, four to a cell, one in ``red`` of them failed."""
    archs = ("cpu", "sm80", "sm86", "sm89", "sm90", "sm100", "sm103", "sm120")
    cells = itertools.product(range(count // (4 * len(archs) * len(LAYERS)) + 1), archs, LAYERS)
    dtypes = ("float32", "float16", "bfloat16", "float64")
    made = (
        _of_many(f"kernel_{n:04}.triton", arch, layer, dtype, failed=place % red == red - 1)
        for place, ((n, arch, layer), dtype) in enumerate(itertools.product(cells, dtypes))
    )
    records = list(itertools.islice(made, count))
    judged = [
        finding(r, Status.RED, Hole.FAILED, r.message)
        if r.outcome == "wrong"
        else finding(r, Status.GREEN)
        for r in records
    ]
    drifts = tuple(drift(r, flagged=r.outcome == "wrong") for r in records[:2000])
    return Judgement(tuple(judged), (), archs, ("5f3c",)), merged(records), drifts


def _of_many(kernel: str, arch: str, layer: str, dtype: str, *, failed: bool) -> Record:
    if not failed:
        return record(kernel, arch, layer, dtype=dtype, errors={"00000000": 0.2})
    words = FAILURE.replace("norm.triton", kernel)
    return record(kernel, arch, layer, dtype=dtype, outcome="wrong", message=words, error_map=[MAP])
