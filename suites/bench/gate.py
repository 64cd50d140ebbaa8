"""How long the gate takes to judge: ``python -m suites.bench.gate`` makes 100,000 records for it.

A kernel has 7 layers on 8 archs and about the checks that the bundled ones have; records have the
figures, versions and device of real ones, those of a comparison with the reference the errors of 98
cases, and come in 8 runs, one for each arch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import manifest
from harness.arch import ARCHES, CPU
from harness.cells import Cell, Layer
from harness.manifest import Asked, KernelFacts, Manifest
from harness.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECORDS: Final = 100_000
REPEATS: Final = 5
DTYPES: Final = ("float32", "float16", "bfloat16")
FAMILIES: Final = ("normal", "huge", "tiny", "ties", "ramp", "zeros", "nonfinite")
CHECKS: Final = {
    Layer.IMPORT_SAFETY: ("test_imports_without_its_backend",),
    Layer.FAKE_SHAPE: ("test_fake_describes_the_real_result",),
    Layer.COMPILE: ("test_compiles_to_the_expected_machine_code",),
    Layer.NUMERIC: (
        "test_matches_the_reference",
        "test_repeats_its_results",
        "test_leaves_other_calls_alone",
        "test_rejects_impostors",
    ),
    Layer.MODULE: ("test_is_its_dense_twin_however_it_runs",),
    Layer.E2E: ("test_does_its_work_with_its_layers_replaced",),
    Layer.BOUNDARY: ("test_refuses_the_neighbours_of_its_domain",),
}
COMPARED: Final = "test_matches_the_reference"
CASES: Final = 98
ERRORS: Final = {f"{0x9E3779B1 * each % 2**32:08x}": each / CASES for each in range(CASES)}
BY_DTYPE: Final = {Layer.NUMERIC, Layer.FAKE_SHAPE}
VERSIONS: Final = {
    "kernel-parity": "0.1.0",
    "torch": "2.13.0",
    "triton": "3.7.1",
    "cuda-core": "1.2.0",
    "nvidia-cutlass-dsl": "4.8.1",
    "hypothesis": "6.150.0",
}
CONTRACT: Final = """
[[tool.kernel-parity.gate.rules]]
policy = "gating"
layer = "numeric"
cases = 12

[[tool.kernel-parity.gate.rules]]
policy = "retained"
arch = ["sm86", "sm103"]
because = "no such machine"
reference = "#1"

[[tool.kernel-parity.gate.exceptions]]
kernel = "op_1?.triton"
arch = "sm120"
holes = ["skipped"]
because = "its runner is away"
reference = "#2"
"""


def asked(name: str, arch: str) -> Iterator[Asked]:
    """The checks of one kernel on one arch."""
    for layer, checks in CHECKS.items():
        if layer is (Layer.COMPILE if arch == CPU else Layer.IMPORT_SAFETY):
            continue
        for dtype in DTYPES if layer in BY_DTYPE else ("",):
            suffix = f"[{dtype}]" if dtype else ""
            yield from (Asked(name, arch, str(layer), f"{each}{suffix}", dtype) for each in checks)


def record_of(check: Asked, run: str) -> Record:
    """A record as long as a real one."""
    figures: dict[str, object] = {f"values_{family}": 14 for family in FAMILIES}
    figures |= {"worst_in_budget": 0.41, "calibration": "H200, torch 2.13.0, 2026"}
    if check.check.startswith(COMPARED):
        figures |= {"errors": ERRORS, "rms_errors": ERRORS}
    return Record(
        **check._asdict(),
        verdict="passed",
        outcome="passed",
        evidence=str(Cell(check.kernel, check.arch, Layer(check.layer)).evidence),
        cases=CASES,
        figures=figures,
        case=f"{check.kernel}/m=117,n=4096,dtype=bfloat16,eps=1e-06,values=ties,"
        "layout=contiguous,config=default,seed=190348712",
        run=run,
        started="2026-11-22T06:30:00.125+00:00",
        backend="triton",
        launched=["triton:kernels.norm.triton._rms_norm_kernel"],
        source="0123456789abcdef",
        versions=VERSIONS,
        device={"device": "NVIDIA H200", "driver": "575.57.08", "cuda": "13.0"},
        seconds=1.25,
    )


def write(folder: Path, count: int) -> None:
    """Write ``count`` records of 8 runs, with their manifests, into ``folder``."""
    archs = (CPU, *ARCHES)
    each = sum(1 for arch in archs for _ in asked("", arch))
    kernels = [f"op_{index}.triton" for index in range(-(-count // each))]
    facts = KernelFacts(
        op="op", backend="triton", archs=ARCHES, dtypes=DTYPES, source="0123456789abcdef"
    )
    for arch in archs:
        collected = tuple(check for name in kernels for check in asked(name, arch))
        found = Manifest(
            run=f"run-{arch}",
            started="2026-11-22T06:00:00.000+00:00",
            finished="2026-11-22T07:00:00.000+00:00",
            versions=VERSIONS,
            archs=(arch,),
            kernels=dict.fromkeys(kernels, facts),
            cells=tuple(dict.fromkeys(check[:3] for check in collected)),
            collected=collected,
        )
        path = folder / f"{arch}.jsonl"
        manifest.write(path, found)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{record_of(c, found.run).to_json()}\n" for c in collected)
        manifest.end(path, finished=found.finished, status=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the seconds that the gate takes, process start included."""
    parser = argparse.ArgumentParser(prog="python -m suites.bench.gate", description=__doc__)
    parser.add_argument("--count", type=int, default=RECORDS, metavar="N")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, contract = Path(name, "records"), Path(name, "contract.toml")
        folder.mkdir()
        write(folder, options.count)
        contract.write_text(CONTRACT, encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
        lines = sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))
        command = [sys.executable, "-m", "harness.gate", f"--records={folder}"]
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            done = subprocess.run(
                [*command, f"--contract={contract}"], check=False, capture_output=True, text=True
            )
            times.append(time.perf_counter() - start)
    print((done.stdout or done.stderr).splitlines()[-1])
    middle, least = statistics.median(times), min(times)
    print(f"{lines} records, {size / 2**20:.0f} MiB: {middle:.2f} s, at best {least:.2f} s")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
