"""The reference of a case is evaluated once and shared by all kernels of the op."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from harness import device as devices
from harness.arch import CPU
from harness.case import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from torch import Tensor

    from harness.budget import Expected
    from harness.case import Case
    from harness.declare import Op

MAX_BYTES: Final = {"cpu": 2**28, "cuda": 2**31}


@dataclass(frozen=True)
class _Entry:
    op: Op  # kept alive, so that its identity stays its own
    values: Mapping[str, Expected]
    size: int


class TruthCache:
    """What references said, by op and case without kernel and config; bounded in bytes a device.

    The least recently used entries go first, those of other ops before any of the same: the kernels
    of an op run through the same cases one after another, and would evict what comes next.
    """

    def __init__(self, max_bytes: Mapping[str, int] = MAX_BYTES) -> None:
        self._max_bytes = dict(max_bytes)
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(
        self,
        op: Op,
        case: Case,
        inputs: Mapping[str, Tensor | None],
        make: Callable[[], dict[str, Expected]],
    ) -> Mapping[str, Expected]:
        """The values of ``case``, made by ``make`` unless they are here.

        ``inputs`` must be what the case's id says; only their device is looked at.
        """
        device = next((str(t.device) for t in inputs.values() if t is not None), "cpu")
        key = (id(op), _shared(case), device)
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key].values
        self.misses += 1
        entry = _Entry(op, values := make(), _bytes(values))
        if self._make_room(entry, device):
            self._entries[key] = entry
        return values

    def _make_room(self, entry: _Entry, device: str) -> bool:
        limit = self._limit(device.partition(":")[0])
        while self._held() + entry.size > limit:
            others = (key for key, held in self._entries.items() if held.op is not entry.op)
            oldest = next(others, None)
            if oldest is None:
                return False
            del self._entries[oldest]
        return True

    def _limit(self, kind: str) -> int:
        """Bytes on a kind of device, and a quarter at most of what a process may hold of one."""
        limit, room = self._max_bytes.get(kind, 0), None if kind == CPU else devices.room()
        return limit if room is None else min(limit, room // 4)

    def _held(self) -> int:
        return sum(entry.size for entry in self._entries.values())


def _shared(case: Case) -> Case:
    """The case as all kernels have it: only the layout ``expanded`` changes values."""
    layout = "expanded" if case.layout == "expanded" else "contiguous"
    return replace(case, kernel="", config=DEFAULT, layout=layout)


def _bytes(values: Mapping[str, Expected]) -> int:
    tensors = [
        tensor
        for value in values.values()
        for tensor in (value.value, value.magnitude, value.squares, value.near_ties, *_ends(value))
        if tensor is not None
    ]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _ends(value: Expected) -> tuple[Tensor, ...]:
    return () if value.within is None else (value.within.low, value.within.high)


SHARED: Final = TruthCache()  # of this process
