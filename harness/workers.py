"""How many workers a machine carries, and what each of them may use: pure policy.

A worker owns one device: the first that it sees. Behind it, it sees what it may borrow: a second
device of the same arch, for the check that a kernel runs on another device than the current one,
and two of each other arch, so that no cell is skipped whose arch the machine has. Every device is
shared out evenly among all who may use it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness.machine import MIG, ROOMS, VISIBLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.machine import Gpu, Machine

__all__ = [
    "ALONE",
    "CORES",
    "Count",
    "DoesNotFit",
    "Memory",
    "Place",
    "Places",
    "alone",
    "count",
    "environment",
    "places",
    "words",
]

GIB: Final = 2**30
CORES: Final = "cores"
PER_DEVICE: Final = 8  # more share one GPU's time slices without getting more done
# Of a device: a context takes half a gigabyte, and a worker may have one beside its child's.
CONTEXT: Final = GIB
# Of a device: the largest generated case takes half of this, see `strategies.within`.
NEED: Final = 4 * GIB
LEAST: Final = GIB // 4  # under this cases would be too small to say anything
# Of the host, what a worker and its child have of their own; pages that all share count once.
HOST: Final = 2 * GIB
_KEPT: Final = 0.95  # of a device; the rest is the driver's and what loaded kernels take
_BORROWED: Final = 2  # devices of an arch that a worker sees


class DoesNotFit(ValueError):
    """More workers or memory than the machine has; says how many fit."""


@dataclass(frozen=True)
class Memory:
    """What a worker may hold of a device: bytes, or a fraction of the device."""

    bytes: int = 0
    fraction: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Memory:
        """``8`` and ``0.5`` are GiB, ``25%`` is a part of the device; raises ValueError."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
        number = float(found[1]) if found else 0.0
        is_part = found is not None and bool(found[2])
        if not number or (is_part and number > 100):  # noqa: PLR2004 - per cent
            msg = f"{text!r} is no amount of memory; give GiB, such as 8, or a part, such as 25%"
            raise ValueError(msg)
        return cls(fraction=number / 100) if is_part else cls(bytes=int(number * GIB))

    def of(self, gpu: Gpu) -> int:
        """Bytes of one device."""
        return self.bytes or int(self.fraction * gpu.memory)


@dataclass(frozen=True)
class Place:
    """What one process may use: devices by name, its own first, and how many bytes of each.

    Without names it sees what the environment shows, and without bytes it may fill it.
    """

    names: tuple[str, ...] = ()
    rooms: tuple[int, ...] = ()


ALONE: Final = Place()


@dataclass(frozen=True)
class Count:
    """A number of workers, and what bounds it."""

    workers: int
    why: str


def environment(place: Place) -> dict[str, str]:
    """What the environment of a process at a place must have before CUDA starts there.

    Its children inherit it, so that a worker's have the same devices and the same bounds.
    """
    found = {VISIBLE: ",".join(place.names), ROOMS: ",".join(map(str, place.rooms))}
    return {name: value for name, value in found.items() if value}


def count(machine: Machine, memory: Memory | None = None) -> Count:
    """How many workers a machine carries: as many on each device where cores and memory let it."""
    devices = len(machine.gpus)
    bounds = {CORES: machine.cores}
    if machine.memory:
        bounds["memory of the host"] = machine.memory // HOST
    if devices:
        bounds[f"{PER_DEVICE} a device"] = PER_DEVICE * devices
        bounds["memory of the devices"] = _most_by_memory(machine, memory)
    why = min(bounds, key=lambda name: bounds[name])
    found = max(1, bounds[why])
    if found > devices > 0:
        found -= found % devices
    return Count(found, why)


def _most_by_memory(machine: Machine, memory: Memory | None) -> int:
    found = len(machine.gpus)
    while found < PER_DEVICE * len(machine.gpus):
        if not _fits(machine, found + len(machine.gpus), memory):
            break
        found += len(machine.gpus)
    return found


def _fits(machine: Machine, workers: int, memory: Memory | None) -> bool:
    users = _users(machine, workers)
    return all(
        _usable(gpu) >= users[gpu.name] * (CONTEXT + (memory.of(gpu) if memory else NEED))
        for gpu in machine.gpus
    )


def _usable(gpu: Gpu) -> int:
    return int(_KEPT * gpu.memory)


def _users(machine: Machine, workers: int) -> Counter[str]:
    return Counter(name for each in range(workers) for name in _names(machine, each))


def places(machine: Machine, workers: int, memory: Memory | None = None) -> tuple[Place, ...]:
    """The place of each worker: worker K owns device K mod D of the D that there are.

    Each gets its even part of what it may use, or ``memory`` of each device.

    Raises:
        DoesNotFit: a part is too small for anything, or ``memory`` is more than there is.
        ValueError: MIG instances of several archs, of which a process sees one only.
    """
    if not machine.gpus:
        return (ALONE,) * workers
    _refuse_mixed_instances(machine)
    users = _users(machine, workers)
    by_name = {gpu.name: gpu for gpu in machine.gpus}
    rooms = {name: _room(by_name[name], users[name], memory) for name in users}
    return tuple(
        Place(names, tuple(rooms[name] for name in names))
        for names in (_names(machine, worker) for worker in range(workers))
    )


def alone(machine: Machine, memory: Memory) -> Place:
    """The place of the only process, which sees every device; raises DoesNotFit."""
    return Place((), tuple(_room(gpu, 1, memory) for gpu in machine.gpus))


def _room(gpu: Gpu, users: int, memory: Memory | None) -> int:
    room = _usable(gpu) // users - CONTEXT
    asked = memory.of(gpu) if memory else room
    if asked > room or asked < LEAST:
        most = _usable(gpu) // (CONTEXT + max(asked, LEAST))
        least = LEAST / GIB
        msg = (
            f"{users} processes may use device {gpu.name} ({gpu.memory / GIB:.1f} GiB), each with "
            f"{asked / GIB:.2f} GiB and {CONTEXT // GIB} GiB for contexts; the least is {least} "
            f"GiB and {most} would fit: give fewer workers by -n, or another --device-memory"
        )
        raise DoesNotFit(msg)
    return asked


def _names(machine: Machine, worker: int) -> tuple[str, ...]:
    """The devices of a worker: its own, then those that it borrows."""
    gpus = machine.gpus
    own = gpus[worker % len(gpus)]
    if own.name.startswith(MIG):
        return (own.name,)
    found = [gpu.name for gpu in _ring(gpus, own.arch, own)]
    for arch in dict.fromkeys(gpu.arch for gpu in gpus if gpu.arch != own.arch):
        others = [gpu for gpu in gpus if gpu.arch == arch]
        found += [gpu.name for gpu in _ring(gpus, arch, others[worker % len(others)])]
    return tuple(found)


def _ring(gpus: tuple[Gpu, ...], arch: str, first: Gpu) -> Iterator[Gpu]:
    """``first``, and the device of its arch after it, the one after the last being the first."""
    same = [gpu for gpu in gpus if gpu.arch == arch]
    start = same.index(first)
    yield from (same + same)[start : start + min(_BORROWED, len(same))]


def _refuse_mixed_instances(machine: Machine) -> None:
    archs = sorted({gpu.arch for gpu in machine.gpus})
    if len(archs) > 1 and any(gpu.name.startswith(MIG) for gpu in machine.gpus):
        msg = (
            f"{VISIBLE} names MIG instances beside devices of other archs ({', '.join(archs)}), "
            f"and a process that sees an instance sees nothing else; run once for each arch, with "
            f"its devices in {VISIBLE}"
        )
        raise ValueError(msg)


@dataclass
class Places:
    """Which worker has which place; the place of one that died is the next one's.

    xdist counts on with its names: after gw3 of gw0 to gw7 follows gw8, and device 8 mod D would
    be another worker's.
    """

    free: list[Place]
    taken: dict[str, Place] = field(default_factory=dict)

    def take(self, worker: str) -> Place:
        """The first free place, for good until it is left."""
        self.taken[worker] = self.free.pop(0) if self.free else ALONE
        return self.taken[worker]

    def leave(self, worker: str) -> None:
        """Free the place of a worker that is gone."""
        if (place := self.taken.pop(worker, None)) is not None:
            self.free.append(place)


def words(machine: Machine, found: Iterable[Place]) -> str:
    """What the header says of the places."""
    found = tuple(found)
    if not machine.gpus or not any(place.names for place in found):
        return ""
    counted = Counter(gpu.arch for gpu in machine.gpus)
    devices = " and ".join(f"{number} of {arch}" for arch, number in counted.items())
    sizes = [place.rooms[0] / GIB for place in found]
    borrow = any(len(place.names) > 1 for place in found)
    least, most = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    size = least if least == most else f"{least} to {most}"
    return (
        f"{len(found)} workers on {len(machine.gpus)} GPUs ({devices}), a worker owns one and may "
        f"hold {size} GiB of it" + (", borrows others for what needs them" if borrow else "")
    )
