"""What pytest-xdist is told, and its workers: how many, who has which device, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from harness import machine, order, workers
from harness.cells import Layer
from harness.reporting import asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.selection import Request

_PLACE: Final = "kernel_parity_place"
_HANDS: Final = "kernel_parity_hands"
MACHINE: Final = pytest.StashKey[machine.Machine]()
_TOOK: Final = pytest.StashKey[dict[tuple[str, ...], float]]()
_HEADER: Final = pytest.StashKey[str]()


def auto_workers(config: pytest.Config) -> int | None:
    """How many workers ``-n auto`` means; None leaves it to xdist, which counts cores."""
    found = _machine(config)
    counted = workers.count(found, config.option.device_memory)
    if not found.gpus and counted.why == workers.CORES:
        return None
    config.stash[_HEADER] = f", as many as {counted.why} allow"
    return counted.workers


def configure(config: pytest.Config) -> None:
    """Take this worker's place; in the controller, decide on all; in the only process, bound it.

    Raises pytest.UsageError where the machine has too little, and for records that are none.
    """
    given = getattr(config, "workerinput", None)
    try:
        config.stash[_TOOK] = _former(config)
        if given is not None:
            _take(workers.Place(*map(tuple, given.get(_PLACE, ((), ())))))
        elif count := len(getattr(config.option, "tx", None) or ()):
            _divide(config, count)
        elif config.option.device_memory:
            _take(workers.alone(_machine(config), config.option.device_memory))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def header(config: pytest.Config) -> list[str]:
    """A line about the workers, where they share devices."""
    words = config.stash.get(_HEADER, "")
    return [f"kernel-parity: {words}"] if words and not words.startswith(",") else []


def arrange(
    config: pytest.Config,
    items: list[pytest.Item],
    requests: Mapping[pytest.Item, Request],
) -> None:
    """Bring the checks of cells into their order, in the places that they have among ``items``."""
    from harness import registry

    units = {
        item: order.Unit(
            layer=list(Layer).index(request.cell.layer),
            check=getattr(item, "originalname", item.name),
            op=registry.kernel(request.cell.kernel).op,
            arch=request.cell.arch,
            dtype=request.dtype or "",
        )
        for item, request in requests.items()
    }
    places = [index for index, item in enumerate(items) if item in requests]
    ordered = order.arranged(
        [items[index] for index in places],
        units,
        seed=config.option.parity_seed,
        hands=getattr(config, "workerinput", {}).get(_HANDS, 1),
        seconds=_seconds(config, requests),
    )
    for index, item in zip(places, ordered, strict=True):
        items[index] = item


def _seconds(
    config: pytest.Config, requests: Mapping[pytest.Item, Request]
) -> dict[pytest.Item, float]:
    """What each check took in the run whose records are given."""
    took = config.stash[_TOOK]
    return {i: took.get(asked(i, r)[:4], 0.0) for i, r in requests.items()} if took else {}


def _former(config: pytest.Config) -> dict[tuple[str, ...], float]:
    """Seconds of checks by the words of their records; raises InvalidRecord, a ValueError."""
    path, written = config.option.seconds_from, config.option.records
    if path is None:
        return {}
    if written is not None and path.resolve() == written.resolve():
        msg = f"--seconds-from={path} is what --records writes anew; give either another file"
        raise ValueError(msg)
    from harness import record

    return {(r.kernel, r.arch, r.layer, r.check): r.seconds for r in record.read(path)}


def _machine(config: pytest.Config) -> machine.Machine:
    if MACHINE not in config.stash:
        config.stash[MACHINE] = machine.here()
    return config.stash[MACHINE]


def _take(place: workers.Place) -> None:
    if place != workers.ALONE:
        from harness import device

        device.take(place)


def _divide(config: pytest.Config, count: int) -> None:
    found = workers.places(_machine(config), count, config.option.device_memory)
    config.stash[_HEADER] = workers.words(_machine(config), found) + config.stash.get(_HEADER, "")
    sharing = _Sharing(workers.Places(list(found)), config.option.dist)
    config.pluginmanager.register(sharing, "kernel-parity-workers")


class _Sharing:
    """Gives each worker its place when it starts, and that of a dead one to the next."""

    def __init__(self, places: workers.Places, dist: str) -> None:
        self._places = places
        self._dist = dist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - xdist has no types here
        """Hand a worker on this machine its place."""
        given = node.workerinput
        given[_HANDS] = given["workercount"] if self._dist == "worksteal" else 1
        if node.gateway.spec.popen:
            place = self._places.take(given["workerid"])
            given[_PLACE] = [list(place.names), list(place.rooms)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401
        """Take the place back."""
        self._places.leave(node.workerinput["workerid"])
