"""What a machine has, as pretended drivers and environments tell it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness import machine
from harness.machine import Gpu, named, names_of, read_devices

Pointer = Any  # or a number, of ctypes
DEVICES = [("sm90", 141), ("sm120", 96), ("sm80", 40)]

ENVIRONMENTS = {
    "none": ({}, None),
    "all hidden": ({"CUDA_VISIBLE_DEVICES": ""}, ()),
    "numbers": ({"CUDA_VISIBLE_DEVICES": "2, 0"}, ("2", "0")),
    "uuids": ({"CUDA_VISIBLE_DEVICES": "GPU-1f,GPU-22"}, ("GPU-1f", "GPU-22")),
    "instances": ({"CUDA_VISIBLE_DEVICES": "MIG-1f,"}, ("MIG-1f",)),
}


@pytest.mark.parametrize(("environment", "names"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_devices_are_named_by_the_environment(
    environment: dict[str, str], names: tuple[str, ...] | None
) -> None:
    assert names_of(environment) == names


def test_without_names_devices_are_numbered() -> None:
    assert named(DEVICES, None) == tuple(
        Gpu(str(number), *each) for number, each in enumerate(DEVICES)
    )


def test_names_that_lead_nowhere_are_left_out() -> None:
    """CUDA stops at the first name that it does not know."""
    found = named(DEVICES[:1], ["GPU-22", "GPU-missing", "GPU-1f"])
    assert found == (Gpu("GPU-22", "sm90", 141),)


def driver(devices: list[tuple[str, int]], failing: str = "") -> SimpleNamespace:
    """What answers as libcuda does, through pointers."""

    def count(found: Pointer) -> int:
        found.contents.value = len(devices)
        return 0

    def get(device: Pointer, index: int) -> int:
        device.contents.value = index
        return 0

    def attribute(value: Pointer, which: int, device: Pointer) -> int:
        number = int(devices[device.value][0].removeprefix("sm"))
        value.contents.value = {75: number // 10, 76: number % 10}[which]
        return 0

    def memory(value: Pointer, device: Pointer) -> int:
        value.contents.value = devices[device.value][1]
        return 0

    functions = {
        "cuInit": lambda flags: flags,
        "cuDeviceGetCount": count,
        "cuDeviceGet": get,
        "cuDeviceGetAttribute": attribute,
        "cuDeviceTotalMem_v2": memory,
    }
    broken = {failing: lambda *_: 999} if failing else {}
    return SimpleNamespace(**functions | broken)


def test_a_driver_tells_arch_and_memory() -> None:
    large = [("sm90", 150_000_000_000), ("sm120", 96)]
    assert read_devices(driver(large)) == large
    assert read_devices(driver([])) == []


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGetCount", "cuDeviceTotalMem_v2"])
def test_a_driver_that_fails_is_an_error(failing: str) -> None:
    with pytest.raises(OSError, match=f"{failing} failed with CUresult 999"):
        read_devices(driver(DEVICES, failing))


def test_this_machine_can_be_asked() -> None:
    found = machine.here()
    assert found.cores >= 1
    assert found.memory >= 0
