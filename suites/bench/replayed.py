"""Times of calls that CUDA graphs replay, in turns and with weights that no cache holds."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

CACHED: Final = 1 << 28  # bytes of weights that no GPU keeps in its L2 cache
ROUNDS: Final = 10
BETWEEN: Final = 3  # replays of one before it is the other's turn


def copies_of(weight_bytes: int) -> int:
    """How many layers with weights of so many bytes no cache holds."""
    return -(-CACHED // weight_bytes)


def dense(x: Tensor, n: int, layers: int) -> list[Callable[[], object]]:
    """Products of ``x [m, k]`` with the weights ``[n, k]`` of as many layers, in its dtype."""
    generator = torch.Generator(x.device).manual_seed(1)
    size = (n, x.shape[1])
    made = [
        torch.randn(size, generator=generator, device=x.device, dtype=x.dtype)
        for _ in range(layers)
    ]
    return [partial(torch.matmul, x, weight.T) for weight in made]


def rounds(
    lists: Sequence[Sequence[Callable[[], object]]], device: torch.device
) -> list[list[float]]:
    """Seconds of one call of each list in each round, replayed in turns from one graph a list.

    Each call of a list has weights of its own, so that none of them lies in the cache: as in a
    model, where another layer ran before.
    """
    graphs = [
        devices.replay(lambda calls=calls: [call() for call in calls], (), device).graph  # type: ignore[misc]
        for calls in lists
    ]
    times: list[list[float]] = [[] for _ in lists]
    for _ in range(ROUNDS):
        for graph, found in zip(graphs, times, strict=True):
            taken = devices.elapsed(graph.replay, device, repeats=BETWEEN)
            found.extend(one / len(lists[0]) for one in taken)
    return times


def in_turns(lists: Sequence[Sequence[Callable[[], object]]], device: torch.device) -> list[float]:
    """Median seconds of one call of each list, measured in ``rounds``."""
    return [statistics.median(found) for found in rounds(lists, device)]
