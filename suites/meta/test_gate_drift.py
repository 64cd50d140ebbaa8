"""The gate with a baseline: drift is red, excused, retained or reported as the contract says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness import manifest
from harness.gate import baseline, ratios
from harness.gate.__main__ import main
from harness.gate.baseline import Baseline
from harness.gate.ratios import Ratio
from harness.gate.samples import Sample
from harness.manifest import Asked, KernelFacts, Manifest
from harness.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLE = "tool.kernel-parity.gate"
ENTRY = f'[[{TABLE}.{{0}}]]\nkernel = "double.*"\nbecause = "known"\nreference = "#7"\n'
DTYPES = ("float32", "float16")
CHECKS = [
    Asked("double.triton", "cpu", "numeric", f"test_matches[{dtype}]", dtype) for dtype in DTYPES
]
FACTS = KernelFacts(op="double", backend="triton", archs=("sm90",), dtypes=DTYPES, source="s")
RATIO = Ratio(name="gemm/m=1", ratio=2.5, device="NVIDIA H200")


@dataclass
class Place:
    """A folder with a baseline, where records and contracts are made."""

    path: Path

    def records(self, growth: float, *, cases: int = 30, status: int | None = 0) -> Path:
        """A run of the checks whose errors are ``growth`` times as large."""
        folder = self.path / f"records-{growth}-{cases}-{status}"
        folder.mkdir()
        errors = {f"{n:08x}": round(growth * (0.01 + n / 100), 6) for n in range(cases)}
        found = Manifest(
            run=f"run-{growth}",
            started="2026-11-22T06:00:00.000+00:00",
            kernels={"double.triton": FACTS},
            cells=(CHECKS[0][:3],),
            collected=tuple(CHECKS),
        )
        manifest.write(folder / "cpu.jsonl", found)
        lines = [f"{record_of(check, found.run, errors).to_json()}\n" for check in CHECKS]
        path = folder / "cpu.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        if status is not None:
            manifest.end(path, finished="2026-11-22T07:00:00.000+00:00", status=status)
        return folder

    def bench(self, ratio: float) -> Path:
        """A file of one ratio."""
        path = self.path / f"bench-{ratio}.json"
        found = Ratio(name=RATIO.name, ratio=ratio, device=RATIO.device)
        path.write_text(ratios.to_json([found], {}), encoding="utf-8")
        return path

    def gate(self, growth: float, *options: str, contract: str = f"[{TABLE}]") -> int:
        """The gate's exit status for records whose errors are ``growth`` times as large."""
        path = self.path / "contract.toml"
        path.write_text(contract, encoding="utf-8")
        given = ["--records", str(self.records(growth)), "--contract", str(path), *options]
        return main([*given, "--baseline", str(self.path / "baseline.sqlite")])


def record_of(check: Asked, run: str, errors: dict[str, float]) -> Record:
    return Record(
        **check._asdict(),
        verdict="passed",
        outcome="passed",
        evidence="emulated",
        cases=len(errors),
        figures={"errors": errors},
        run=run,
        started="2026-11-22T06:30:00.000+00:00",
        backend="triton",
        launched=["triton:toys.double"],
        source="s",
    )


def keep(place: Place, folder: Path, *options: str) -> int:
    into = place.path / "baseline.sqlite"
    given = ["keep", "--records", str(folder), "--into", str(into), "--name", "v1", *options]
    return baseline.main(given)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    assert keep(made, made.records(1.0, cases=29), "--bench", str(made.bench(2.5))) == 0
    return made


@pytest.mark.parametrize(("growth", "status"), [(1.0, 0), (0.5, 0), (1.05, 0), (1.5, 1)])
def test_what_got_worse_is_red(
    place: Place, capsys: pytest.CaptureFixture[str], growth: float, status: int
) -> None:
    assert place.gate(growth) == status
    said = capsys.readouterr().out
    assert said.startswith("RED: 2 findings" if status else "GREEN: ")
    assert said.count("errors are 1.5 x those of v1 in the median of the 29 of 29 pairs") >= status
    assert ("test_matches[float16]" in said) == bool(status)


def test_what_was_compared_is_said_where_nothing_got_worse(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.gate(1.0, "--report", str(place.path / "report")) == 0
    said = (
        "2 rows compared: 2 paired, 0 unpaired; 0 too few to tell, 0 worse beyond chance; "
        "0 without a counterpart (0 in the baseline alone, 0 in these records)"
    )
    assert f"drift: {said}\n" in capsys.readouterr().out
    assert f"Drift: {said}.\n" in (place.path / "report" / "report.md").read_text("utf-8")
    assert said in (place.path / "report" / "report.html").read_text("utf-8")


def test_a_baseline_with_nothing_in_common_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Sample(key=CHECKS[0]._replace(kernel="other.cuda"), verdict="passed", worst={"0a": 0.5})
    baseline.keep(tmp_path / "baseline.sqlite", Baseline(name="v0", kept="", samples=(other,)))
    assert Place(tmp_path).gate(1.0) == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    assert "release 'v0' of the baseline and these records have errors of no check" in said.err
    assert "other.cuda-cpu-numeric, test_matches[float32] there, double.triton-cpu" in said.err
    assert "test_matches[float16] here; name a release of the same kernels" in said.err


@pytest.mark.parametrize(
    ("contract", "status", "words"),
    [
        (f'[{TABLE}]\ndrift = "report"', 0, "note: drift: double.triton cpu numeric float16: "),
        (f'[{TABLE}]\ndrift = "gate"', 1, "RED: 2 findings"),
        (ENTRY.format("exceptions") + 'holes = ["drift"]', 0, "! 1 excused"),
        (
            ENTRY.format("exceptions") + 'holes = ["drift"]\ndtype = "float16"',
            1,
            "RED: 1 finding against",
        ),
        (
            ENTRY.format("exceptions") + 'holes = ["drift"]\nexpires = 2020-01-01',
            1,
            "RED: 2 findings",
        ),
        (ENTRY.format("exceptions") + 'holes = ["skipped"]', 1, "RED: 2 findings"),
        (ENTRY.format("rules") + 'policy = "retained"', 1, "none of these cells gates"),
    ],
)
def test_the_contract_says_what_drift_may_do(
    place: Place, capsys: pytest.CaptureFixture[str], contract: str, status: int, words: str
) -> None:
    assert place.gate(1.5, contract=contract) == status
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "status"), [(2.5, 0), (2.0, 1)])
def test_a_ratio_that_got_worse_is_red(place: Place, ratio: float, status: int) -> None:
    assert place.gate(1.0, "--bench", str(place.bench(ratio + 1e-9))) == status


@pytest.mark.parametrize(
    ("options", "contract", "message"),
    [
        (["--baseline-name", "v9"], f"[{TABLE}]", r"no release 'v9' is kept there; .*['v1']"),
        (["--bench", "absent.json"], f"[{TABLE}]", "absent.json"),
        ([], f'[{TABLE}]\ndrift = "reports"', "drift='reports' is unknown; nearest: 'report'"),
    ],
)
def test_what_cannot_be_compared_is_exit_2(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    contract: str,
    message: str,
) -> None:
    assert place.gate(1.0, *options, contract=contract) == 2
    said = capsys.readouterr()
    assert said.err.startswith("cannot judge: ")
    assert message.partition("; .*")[0] in said.err
    assert not said.out


def test_a_broken_baseline_is_exit_2(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    path = place.path / "baseline.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    assert place.gate(1.0) == 2
    assert "it was cut off: 5000 of" in capsys.readouterr().err


def test_ratios_without_a_baseline_are_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--records", str(place.records(2.0)), "--contract", str(place.path / "contract.toml")]
    (place.path / "contract.toml").write_text(f"[{TABLE}]", encoding="utf-8")
    assert main([*given, "--bench", str(place.bench(2.0))]) == 2
    assert "--bench need --baseline FILE" in capsys.readouterr().err


def test_a_run_that_was_killed_makes_no_baseline(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place.path / "baseline.sqlite").read_bytes()
    assert keep(place, place.records(1.0, status=None), "--replace") == 2
    assert "did not come to its end; a baseline is made of whole runs" in capsys.readouterr().err
    assert (place.path / "baseline.sqlite").read_bytes() == before
