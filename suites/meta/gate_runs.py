"""Runs of one small kernel for tests of the gate: whole and good, until a test plants a hole."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from harness import manifest
from harness.cells import Cell, Layer
from harness.gate import contract
from harness.gate.evidence import Merged, Run
from harness.gate.judge import Judgement, judge
from harness.manifest import Asked, KernelFacts, Manifest
from harness.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

KERNEL: Final = "double.triton"
DTYPES: Final = ("float32", "float16")
NUMERIC: Final = "test_matches_the_reference"
VERSIONS: Final = {"kernel-parity": "0.1.0", "torch": "2.13.0"}
NOW: Final = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
EVERYTHING: Final = contract.Contract()
STARTED: Final = "2026-03-01T10:00:00.000+00:00"
FINISHED: Final = "2026-03-01T11:00:00.000+00:00"
FACTS: Final = KernelFacts(
    op="double", backend="triton", archs=("sm90", "sm100"), dtypes=DTYPES, source="5eed"
)


def checks_of(arch: str, kernel: str = KERNEL) -> tuple[Asked, ...]:
    """All checks of the kernel on an arch."""
    first = ("import_safety", "imports") if arch == "cpu" else ("compile", "compiles")
    numeric = (Asked(kernel, arch, "numeric", f"{NUMERIC}[{d}]", d) for d in DTYPES)
    single = ((layer, f"test_{name}") for layer, name in (first, ("boundary", "refuses")))
    return (*(Asked(kernel, arch, *each, "") for each in single), *numeric)


CPU: Final = checks_of("cpu")
SM90: Final = checks_of("sm90")
SM100: Final = checks_of("sm100")
ALL: Final = (*CPU, *SM90, *SM100)
HALF: Final = next(each for each in SM90 if each.dtype == "float16")


def good(asked: Asked, **changes: Any) -> Record:  # noqa: ANN401 - values of any field
    """A record of a check that passed."""
    values: dict[str, Any] = {
        "verdict": "passed",
        "outcome": "passed",
        "evidence": str(Cell(asked.kernel, asked.arch, Layer(asked.layer)).evidence),
        "cases": 20,
        "run": "a1",
        "started": "2026-03-01T10:30:00.000+00:00",
        "backend": "triton",
        "launched": ["triton:toys.double"],
        "source": "5eed",
        "versions": VERSIONS,
    }
    return Record(**asked._asdict(), **(values | changes))


def skipped(asked: Asked, **changes: Any) -> Record:  # noqa: ANN401 - as above
    """A record of a check whose arch was not there."""
    words = f"{asked.arch} is not on this machine, which has no GPU"
    skip = {"verdict": "skipped", "outcome": "unavailable", "evidence": "none", "cases": 0}
    return good(asked, **(skip | {"message": words} | changes))


def failed(asked: Asked, outcome: str = "wrong", **changes: Any) -> Record:  # noqa: ANN401
    """A record of a check that failed."""
    message = f"{asked.kernel} on {asked.arch}: 1 problem\n  - y: budget: 3 of 8 elements wrong"
    fail = {"verdict": "failed", "outcome": outcome, "message": message, "case": "double/m=1"}
    return good(asked, **(fail | changes))


def run_of(
    records: Iterable[Record],
    collected: Iterable[Asked] = ALL,
    *,
    name: str = "a1",
    **changes: Any,  # noqa: ANN401 - as above
) -> Run:
    """A run that ended; its records get its id."""
    from pathlib import Path

    found = Manifest(
        run=name,
        started=STARTED,
        finished=FINISHED,
        status=0,
        versions=VERSIONS,
        kernels={KERNEL: FACTS},
        cells=tuple(dict.fromkeys(each[:3] for each in ALL)),
        collected=tuple(collected),
    )
    made = tuple(replace(each, run=name) for each in records)
    return Run(Path(f"{name}.jsonl"), replace(found, **changes), made)


def whole(change: Callable[[Asked], Record | None] = good, **changes: Any) -> Merged:  # noqa: ANN401
    """One run of all checks, each with the record that ``change`` gives, or none."""
    records = (change(each) for each in ALL)
    return Merged((run_of((each for each in records if each), **changes),))


def only(asked: Asked, made: Record | None) -> Callable[[Asked], Record | None]:
    """Records of a run that is good but for one check."""
    return lambda each: made if each == asked else good(each)


def write(folder: Path, run: Run) -> Path:
    """Write a run's two files as its end leaves them; returns the one of the records."""
    path, known = folder / run.path, run.manifest
    manifest.write(path, known)
    path.write_text("".join(f"{each.to_json()}\n" for each in run.records), encoding="utf-8")
    if known.finished and known.status is not None:
        manifest.end(path, finished=known.finished, status=known.status)
    return path


def contract_of(*entries: str) -> contract.Contract:
    """A contract from its tables, named without what all their names begin with."""
    text = "\n".join(each.replace("[[", f"[[{contract.TABLE}.") for each in entries)
    return contract.parse(f"[{contract.TABLE}]\n{text}", where="contract.toml")


def judged(merged: Merged, *entries: str, archs: Sequence[str] = ()) -> Judgement:
    """The judgement by these entries, else by an empty contract, on a day after the runs."""
    return judge(contract_of(*entries) if entries else EVERYTHING, merged, archs, now=NOW)
