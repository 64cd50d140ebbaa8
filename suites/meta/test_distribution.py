"""Runs with workers on pretended machines: each has its place, and all run what one would run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from suites.meta.users_project import BAD, GOOD, NUMERIC, RECORDS, ran, refusal

if TYPE_CHECKING:
    from suites.meta.users_project import Project

pytest_plugins = ("pytester",)

# A machine with two devices of one arch and one of another. Tests that tell what they see.
PRETENDS: Final = """
import pytest

from harness.distribution import MACHINE
from harness.machine import Gpu, Machine

pytest_plugins = ("harness.plugin",)

@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    gpus = tuple(Gpu(f"GPU-{n}", arch, 80 * 2**30) for n, arch in enumerate(ARCHS))
    config.stash[MACHINE] = Machine(gpus, cores=4, memory=64 * 2**30)
"""
TELLS: Final = """
import json, os
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(8))
def test_tell(worker_id, number):
    names = ("CUDA_VISIBLE_DEVICES", "KERNEL_PARITY_DEVICE_BYTES")
    seen = [os.environ.get(name) for name in names]
    Path(f"{worker_id}.json").write_text(json.dumps(seen))
"""


def pretend(project: Project, *archs: str) -> None:
    """Let runs in the project take their machine for one with devices of these archs."""
    project.pytester.makeconftest(f"ARCHS = {archs!r}\n{PRETENDS}")
    project.write(test_tells=TELLS)


def told(project: Project) -> dict[str, list[str | None]]:
    """What the environment of each worker said."""
    found = sorted(project.pytester.path.glob("gw*.json"))
    return {path.stem: json.loads(path.read_text()) for path in found}


def test_workers_have_devices_of_their_own(project: Project) -> None:
    pretend(project, "sm90", "sm120", "sm90")
    result = project.run_apart("-n", "auto", "--dist=load", "--device-memory=10", "test_tells.py")
    result.assert_outcomes(passed=8)
    rooms = ",".join([str(10 * 2**30)] * 3)
    assert told(project) == {
        "gw0": ["GPU-0,GPU-2,GPU-1", rooms],
        "gw1": ["GPU-1,GPU-2,GPU-0", rooms],
        "gw2": ["GPU-2,GPU-0,GPU-1", rooms],
    }
    result.stdout.fnmatch_lines(
        ["kernel-parity: 3 workers on 3 GPUs (2 of sm90 and 1 of sm120), *, as many as cores allow"]
    )


def test_what_does_not_fit_is_a_usage_error(project: Project) -> None:
    pretend(project, "sm90")
    said = refusal(project.run_apart("-n", "2", "--device-memory=60", "test_tells.py"))
    assert "2 processes may use device GPU-0 (80.0 GiB), each with 60.00 GiB" in said
    said = refusal(project.run_apart("--device-memory=99%", "test_tells.py"))
    assert "1 processes may use device GPU-0 (80.0 GiB), each with 79.20 GiB" in said


@pytest.mark.parametrize("option", ["--device-memory=much", "--seconds-from=nowhere.jsonl"])
def test_a_mistyped_option_is_refused(project: Project, option: str) -> None:
    said = refusal(project.run(*NUMERIC, option))
    assert f"{option.partition('=')[0]}='{option.partition('=')[2]}' is no " in said


def test_former_records_are_read_before_anything_runs(project: Project) -> None:
    path = project.pytester.path / "former.jsonl"
    path.write_text("{}\n")
    assert "former.jsonl:1: schema=None" in refusal(project.run(*NUMERIC, f"--seconds-from={path}"))
    same = (f"--seconds-from={path}", f"--records={path}")
    assert "is what --records writes anew" in refusal(project.run(*NUMERIC, *same))
    assert path.read_text() == "{}\n"


def test_the_seed_decides_on_the_order(project: Project) -> None:
    def order(seed: int) -> list[str]:
        asked = ("--pyargs", "suites.numeric", "suites.boundary", "-m", "cpu", "--collect-only")
        result = project.run(*asked, "-q", GOOD, BAD, f"--parity-seed={seed}")
        return [line for line in result.outlines if "[" in line]

    orders = [order(seed) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(each) for each in orders}) > 1
    assert {tuple(sorted(each)) for each in orders} == {tuple(sorted(orders[0]))}
    for each in orders:
        boundary = ["boundary" in line for line in each]
        assert boundary == sorted(boundary), "numeric comes before boundary"
        assert any(boundary)


def test_what_took_longest_comes_first_and_finds_the_same(project: Project) -> None:
    def found(*options: str) -> dict[str, tuple[object, ...]]:
        asked = (*NUMERIC, GOOD, "--kernel=double.triton.wide", RECORDS)
        assert ran(project.run(*asked, *options)) == {"passed": 4}
        return {f"{r.kernel}/{r.check}": (r.case, dict(r.figures)) for r in project.read()}

    usual = found()
    former = [replace(r, seconds=60.0 * ("32" in r.check)) for r in project.read()]
    path = project.pytester.path / "former.jsonl"
    path.write_text("".join(f"{record.to_json()}\n" for record in former))
    longest_first = found(f"--seconds-from={path}")
    assert longest_first == usual
    assert ["32" in name for name in longest_first] == [True, True, False, False]
