"""Workers and devices of pretended machines: how many, whose is which, how much each may hold."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from harness import workers
from harness.machine import ROOMS, VISIBLE, Gpu, Machine
from harness.workers import ALONE, GIB, DoesNotFit, Memory, Place, Places

H200, SMALL = 141 * GIB, 24 * GIB


def of(*archs: str, memory: int = H200, cores: int = 64, host: int = 500 * GIB) -> Machine:
    """A machine with devices of these archs."""
    gpus = (Gpu(str(number), arch, memory) for number, arch in enumerate(archs))
    return Machine(tuple(gpus), cores, host)


COUNTS = {
    "one device, as before": (of("sm90", cores=16), 8, "8 a device"),
    "four devices": (of(*["sm90"] * 4), 32, "8 a device"),
    "cores": (of(*["sm90"] * 4, cores=10), 8, "cores"),
    "fewer cores than devices": (of(*["sm90"] * 4, cores=3), 3, "cores"),
    "memory of the host": (of(*["sm90"] * 4, host=31 * GIB), 12, "memory of the host"),
    "small devices": (of(*["sm89"] * 4, memory=SMALL), 8, "memory of the devices"),
    "a small device": (of("sm89", memory=SMALL), 4, "memory of the devices"),
    "no device": (of(cores=4), 4, "cores"),
    "no device and little memory": (of(cores=32, host=9 * GIB), 4, "memory of the host"),
    "memory that nobody tells": (of(cores=32, host=0), 32, "cores"),
    "hardly any memory": (of(cores=2, host=GIB), 1, "memory of the host"),
}


@pytest.mark.parametrize(("machine", "number", "why"), COUNTS.values(), ids=COUNTS)
def test_the_number_of_workers(machine: Machine, number: int, why: str) -> None:
    assert workers.count(machine) == workers.Count(number, why)


@pytest.mark.parametrize("cores", range(1, 40))
@pytest.mark.parametrize("machine", [of("sm90"), of("sm80", "sm90", "sm90"), of(*["sm89"] * 5)])
def test_every_count_has_its_places(machine: Machine, cores: int) -> None:
    """What is counted fits, and each device has as many workers as any other."""
    machine = Machine(machine.gpus, cores, machine.memory)
    number = workers.count(machine).workers
    places = workers.places(machine, number)
    assert len(places) == number <= cores
    owned = Counter(place.names[0] for place in places)
    assert len(set(owned.values())) == 1
    assert len(owned) == min(number, len(machine.gpus))
    assert all(room >= workers.NEED for place in places for room in place.rooms)


def test_a_worker_owns_a_device_and_borrows_the_next() -> None:
    places = workers.places(of(*["sm90"] * 4), 8)
    assert [place.names for place in places[:5]] == [
        ("0", "1"),
        ("1", "2"),
        ("2", "3"),
        ("3", "0"),
        ("0", "1"),
    ]


def test_one_device_is_shared_without_another() -> None:
    places = workers.places(of("sm90"), 3)
    assert [place.names for place in places] == [("0",)] * 3


def test_every_arch_is_seen_from_every_place() -> None:
    machine = of("sm90", "sm120", "sm90", "sm90")
    archs = {gpu.name: gpu.arch for gpu in machine.gpus}
    places = workers.places(machine, 8)
    for worker, place in enumerate(places):
        assert place.names[0] == str(worker % 4)
        assert {archs[name] for name in place.names} == {"sm90", "sm120"}
        assert len(set(place.names)) == len(place.names)
    assert [place.names for place in places[:2]] == [("0", "2", "1"), ("1", "2", "3")]
    lent = Counter(place.names[1] for place in places if archs[place.names[0]] == "sm90")
    assert max(lent.values()) <= 2


@pytest.mark.parametrize("machine", [of("sm90"), of("sm90", "sm90"), of("sm90", "sm120", "sm90")])
@pytest.mark.parametrize("number", [1, 2, 3, 7, 8])
def test_no_device_is_promised_twice(machine: Machine, number: int) -> None:
    held: Counter[str] = Counter()
    for place in workers.places(machine, number):
        for name, room in zip(place.names, place.rooms, strict=True):
            held[name] += room + workers.CONTEXT
    assert all(total <= H200 for total in held.values())


def test_more_workers_have_less() -> None:
    rooms = [workers.places(of("sm90", "sm90"), number)[0].rooms[0] for number in (2, 4, 8, 16)]
    assert all(more > less for more, less in pairwise(rooms))


def test_what_is_asked_for_is_given() -> None:
    machine = of("sm90", "sm90")
    for memory in (Memory.parse("10"), Memory.parse("5%")):
        places = workers.places(machine, 4, memory)
        assert {room for place in places for room in place.rooms} == {memory.of(machine.gpus[0])}
    assert Memory.parse("5%").of(machine.gpus[0]) == int(0.05 * H200)
    # Of 134 GiB of each device that are usable, (20 + 1) GiB for each of its six users.
    assert workers.count(machine, Memory.parse("20")).workers == 6


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    machine = of("sm90", "sm90", memory=SMALL)
    with pytest.raises(DoesNotFit, match=r"16 processes may use device 0 \(24.0 GiB\), each with"):
        workers.places(machine, 16, Memory.parse("8"))
    with pytest.raises(DoesNotFit, match=r"2 would fit: give fewer workers by -n, or another --d"):
        workers.places(machine, 16, Memory.parse("8"))
    with pytest.raises(DoesNotFit, match="64 processes may use device 0"):
        workers.places(machine, 64)
    with pytest.raises(DoesNotFit, match="1 processes may use device 0"):
        workers.alone(machine, Memory.parse("30"))


@pytest.mark.parametrize("text", ["", "0", "-1", "8GB", "101%", "0%", "%", "1e3", "nan"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"'{re.escape(text)}' is no amount of memory; give GiB"):
        Memory.parse(text)


def test_instances_are_seen_one_by_one() -> None:
    gpus = tuple(Gpu(f"MIG-{n}", "sm90", 20 * GIB) for n in "ab")
    places = workers.places(Machine(gpus, 8, 64 * GIB), 4)
    assert [place.names for place in places] == [("MIG-a",), ("MIG-b",)] * 2


def test_instances_of_several_archs_need_several_runs() -> None:
    gpus = (Gpu("MIG-a", "sm90", 20 * GIB), Gpu("GPU-b", "sm120", 20 * GIB))
    with pytest.raises(ValueError, match="run once for each arch, with its devices in CUDA_VIS"):
        workers.places(Machine(gpus, 8, 64 * GIB), 2)


def test_a_place_is_an_environment() -> None:
    assert workers.environment(Place(("2", "0"), (10, 20))) == {VISIBLE: "2,0", ROOMS: "10,20"}
    assert workers.environment(ALONE) == {}


def test_a_dead_workers_place_is_the_next_ones() -> None:
    made = workers.places(of(*["sm90"] * 4), 8)
    places = Places(list(made))
    assert [places.take(f"gw{number}") for number in range(8)] == list(made)
    places.leave("gw3")
    assert places.take("gw8") == made[3]
    assert places.take("gw9") == ALONE
    places.leave("gw10")


def test_the_header_says_who_has_what() -> None:
    machine = of("sm90", "sm90", "sm120")
    assert workers.words(machine, workers.places(machine, 3)) == (
        "3 workers on 3 GPUs (2 of sm90 and 1 of sm120), a worker owns one and may hold 43.6 GiB "
        "of it, borrows others for what needs them"
    )
    one = of("sm90")
    assert workers.words(one, workers.places(one, 2)) == (
        "2 workers on 1 GPUs (1 of sm90), a worker owns one and may hold 66.0 GiB of it"
    )
    assert workers.words(of(), workers.places(of(), 2)) == ""
