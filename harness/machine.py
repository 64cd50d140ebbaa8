"""What a machine has for workers: its CUDA devices by name, its cores, its free memory.

CUDA is asked in a child process that runs this file alone: whoever asks must not start CUDA itself,
since what it sees is settled with that, for good and for its forked children. It needs no package.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MIG", "ROOMS", "VISIBLE", "Gpu", "Machine", "here", "named", "names_of", "read_devices"]

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ROOMS: Final = "KERNEL_PARITY_DEVICE_BYTES"  # of each device in sight, for whom we start alone
MIG: Final = "MIG-"  # how the names of instances begin; CUDA shows a process one of them only
_SECONDS: Final = 60  # the driver takes one or two a device at worst
_CGROUP: Final = Path("/sys/fs/cgroup")
_MEMORY: Final = Path("/proc/meminfo")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: what ``CUDA_VISIBLE_DEVICES`` calls it, its arch, its memory in bytes."""

    name: str
    arch: str
    memory: int


@dataclass(frozen=True)
class Machine:
    """Devices in CUDA's order, cores that may be used, and free memory of the host in bytes."""

    gpus: tuple[Gpu, ...]
    cores: int
    memory: int


def here() -> Machine:
    """This machine, as this process may use it."""
    return Machine(_devices(os.environ), _cores(), _free_memory())  # noqa: TID251


def names_of(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """The devices that an environment names; None where it names none and all count."""
    if VISIBLE not in environment:
        return None
    return tuple(name.strip() for name in environment[VISIBLE].split(",") if name.strip())


def named(found: Sequence[tuple[str, int]], names: Sequence[str] | None) -> tuple[Gpu, ...]:
    """Devices of some arch and memory, in CUDA's order, with the names that lead to them.

    CUDA stops at the first name that it does not know, so that the names of what is there come
    first. Without names they are called by their numbers, in an order that the environment decides
    (``CUDA_DEVICE_ORDER``) and that child processes share with it.
    """
    called = [str(number) for number in range(len(found))] if names is None else names
    return tuple(Gpu(name, *each) for name, each in zip(called, found, strict=False))


def _devices(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    names = names_of(environment)
    if not Path("/dev/nvidiactl").exists() or names == ():
        return ()
    if names is None or not any(name.startswith(MIG) for name in names):
        return named(_ask(environment), names)
    return tuple(
        gpu for name in names for gpu in named(_ask({**environment, VISIBLE: name}), [name])
    )


def _ask(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    """Arch and memory of the devices that a child process sees; none if it cannot tell."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            env=dict(environment),
            capture_output=True,
            check=True,
            timeout=_SECONDS,
        )
        return [(str(arch), int(memory)) for arch, memory in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def read_devices(driver: Any) -> list[tuple[str, int]]:  # noqa: ANN401 - a loaded library
    """Arch and memory in bytes of each device that CUDA's ``driver`` library shows.

    Raises OSError for a call that fails, as all do on a machine without a working driver.
    """
    _call(driver, "cuInit", 0)
    count = ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.pointer(count))
    return [_read(driver, index) for index in range(count.value)]


def _read(driver: Any, index: int) -> tuple[str, int]:  # noqa: ANN401
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    _call(driver, "cuDeviceGet", ctypes.pointer(device), index)
    _call(driver, "cuDeviceGetAttribute", ctypes.pointer(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.pointer(minor), _MINOR, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.pointer(memory), device)
    return f"sm{major.value}{minor.value}", memory.value


def _call(driver: Any, name: str, *arguments: Any) -> None:  # noqa: ANN401
    if status := getattr(driver, name)(*arguments):
        msg = f"{name} failed with CUresult {status}; see `nvidia-smi` for what the driver says"
        raise OSError(msg)


def _cores() -> int:
    """Cores that this process may run on, by affinity and by the quota of its control group."""
    of_linux = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if of_linux else os.cpu_count() or 1
    quota, _, period = _first_line(_CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        found = min(found, max(1, int(quota) // int(period)))
    return found


def _free_memory() -> int:
    """Bytes that the kernel says can be had, at most what the control group leaves; 0: unknown."""
    lines = _MEMORY.read_text("ascii").splitlines() if _MEMORY.exists() else []
    free = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    limit, used = (_first_line(_CGROUP / f"memory.{what}") for what in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        return min(1024 * free, max(0, int(limit) - int(used)))
    return 1024 * free


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read_devices(ctypes.CDLL("libcuda.so.1"))))
