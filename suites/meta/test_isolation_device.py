"""On a GPU: what ends a CUDA context is its own cell's outcome; a profiler sees what really ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import torch

from harness import device as devices
from harness import provenance
from harness.cells import Outcome
from harness.launches import Launch
from suites.meta import scaling
from suites.meta.users_project import ONE_CHECK, RECORDS, ROOT, ran

if TYPE_CHECKING:
    from suites.meta.users_project import Project

pytestmark = pytest.mark.gpu
pytest_plugins = ("pytester",)

# Not imported here: its kernels must be no cells of the run that this test is in.
DECLARE: Final = f"--declare={ROOT / 'suites' / 'meta' / 'crashing_device.py'}"
FIRST: Final = 5  # columns from which the faults there show
OUTCOMES: Final = {
    "aborts": (Outcome.CRASHED, "ended by SIGABRT"),
    "hangs": (Outcome.HUNG, "nothing happened for 10 s (--cell-seconds)"),
    "takes_all_memory": (Outcome.OUT_OF_MEMORY, "OutOfMemoryError"),
    "traps": (Outcome.CRASHED, "the CUDA context is lost: "),
    "writes_far_away": (Outcome.CRASHED, "the CUDA context is lost: "),
    "writes_late": (Outcome.CRASHED, "the CUDA context is lost: "),
}
NO_CONTEXT: Final = """
pytest_plugins = ("harness.plugin",)

def pytest_sessionfinish():
    import torch
    assert not torch.cuda.is_initialized(), "the process that reports has touched the GPU"
"""


def test_every_fault_is_its_own_cells_outcome(project: Project) -> None:
    arch = devices.present_archs()[0]
    project.pytester.makeconftest(NO_CONTEXT)
    selected = ("-m", arch, "--cell-seconds=10", "--cases=6")
    result = project.run_apart("--pyargs", ONE_CHECK, *selected, RECORDS, DECLARE)
    count = len(OUTCOMES)
    assert ran(result) == {"passed": count, "failed": count}, str(result.stdout)
    assert "has touched the GPU" not in f"{result.stdout}{result.stderr}"
    records = {r.kernel.removeprefix("crash.triton."): r for r in project.read()}
    for name, (outcome, words) in OUTCOMES.items():
        record, then = records[name], records[f"{name}_then"]
        assert (record.outcome, words in record.message) == (outcome, True), record.message
        assert f"m=1,n={FIRST},dtype=float32,values=normal," in record.case, record.message
        assert (then.outcome, then.cases) == (Outcome.PASSED, 6), then.message
        assert then.launched == ["triton:declared_crashing_device._double"]
        assert then.figures["device_kernels"] in ([], ["_double"])
        assert then.device["device"]


def test_the_profiler_names_what_ran() -> None:
    device = devices.first_device(devices.present_archs()[0])
    values = torch.ones(64, device=device)
    seen = devices.executed_kernels(lambda: values + values, device)
    assert seen, "CUPTI sees nothing on this machine"
    assert any("at::native" in name for name in seen)
    launches = [Launch("cuda", "scaled<float>", scaling.__name__, None, (1,), {})]
    with scaling.declared(scaling.right) as _:
        from harness import registry

        kernel = registry.kernel("scaled.cuda")
    words = provenance.doubt_of_device(kernel, launches, seen)
    assert words.startswith("launches of scaled were told of, but the device ran ")
