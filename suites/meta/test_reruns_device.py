"""On a GPU: launches on the wrong stream, graphs that go stale, devices that are mixed up."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import device as devices
from harness.case import parse
from harness.reruns import check_case
from suites.meta.scaling import check_of, computed, declared, launch, right

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.gpu
CASE = (
    "scaled.cuda/m=33,n=17,dtype=float16,sign=plus,values=normal,"
    "layout={layout},config=default,seed={seed}"
)


def on_the_default_stream(x: Tensor, **rest: object) -> Tensor:
    default = torch.cuda.default_stream(x.device)  # noqa: TID251
    with torch.cuda.stream(default):  # noqa: TID251
        return right(x, **rest)  # type: ignore[arg-type]


def waits_for_a_value(x: Tensor, **rest: object) -> Tensor:
    y = right(x, **rest)  # type: ignore[arg-type]
    return y if float(y.abs().sum()) >= 0 else -y


def keeps_a_copy_of_its_input() -> Callable[..., Tensor]:
    """Scales of an input at an address are taken once."""
    known: dict[int, Tensor] = {}

    def run(x: Tensor, weight: Tensor, **rest: object) -> Tensor:
        kept = known.setdefault(weight.data_ptr(), weight.clone())
        return right(x, weight=kept, **rest)  # type: ignore[arg-type]

    return run


def computes_on_the_current_device(x: Tensor, **rest: object) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device="cuda")
    launch()
    y.copy_(computed(x, **rest))  # type: ignore[arg-type]
    return y


def said(function: Callable[..., object], *, layout: str = "contiguous", seed: int = 5) -> str:
    """What the reruns on this machine's first GPU say."""
    with declared(function):
        check, case = check_of(), parse(CASE.format(layout=layout, seed=seed))
        device = devices.first_device(devices.present_archs()[0])
        found = check_case(check.op, check.kernel, case, device, repeats=4)
    return "\n".join(f"{finding.oracle}: {finding.words}" for finding in found)


@pytest.mark.parametrize("layout", ["contiguous", "rows", "offset", "transposed", "expanded"])
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_sound_kernel_passes(layout: str, seed: int) -> None:
    assert said(right, layout=layout, seed=seed) == ""


def test_a_launch_on_the_default_stream_is_found() -> None:
    words = said(on_the_default_stream)
    assert "stream: y: on a stream of its own, differs from the first run: exact: " in words


def test_a_kernel_that_waits_for_a_value_cannot_be_captured() -> None:
    assert "graph: cannot be captured in a CUDA graph: " in said(waits_for_a_value)
    assert said(right) == ""  # the failed capture leaves the device usable


def test_a_graph_that_holds_on_to_old_inputs_is_found() -> None:
    words = said(keeps_a_copy_of_its_input())
    assert "graph: y: replayed from a CUDA graph, differs from the first run: exact: " in words


def test_the_current_device_is_not_the_tensors_device() -> None:
    device = devices.first_device(devices.present_archs()[0])
    wrong = "device: " in said(computes_on_the_current_device)
    assert wrong == bool(devices.twins(device))


def test_a_process_can_hide_all_devices_but_one() -> None:
    arch = devices.present_archs()[0]
    script = (
        "from harness import device\n"
        f"device.see_only({devices.visible(arch)[-1]!r})\n"
        f"only = device.first_device({arch!r})\n"
        "assert device.twins(only) == (), device.twins(only)\n"
        "print(only)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "cuda:0\n", done.stderr


def test_it_is_too_late_once_cuda_runs() -> None:
    name = devices.visible(devices.present_archs()[0])[0]
    with pytest.raises(RuntimeError, match="choose it before"):
        devices.see_only(name)
