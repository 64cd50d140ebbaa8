"""A captured launch interpreted: all its blocks on its tensors, with no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from suites.numeric.ptx import Block
from suites.numeric.ptx_memory import Memory, octets_of
from suites.numeric.ptx_program import parse

if TYPE_CHECKING:
    from harness.launches import Launch


@dataclass(frozen=True)
class Counts:
    """What the blocks of a launch did: products of warps, and waits for banks."""

    products: int
    conflicts: int


def interpret(launch: Launch, ptx: str, *, written: str, seed: int = 0) -> Counts:
    """Run all blocks of a captured launch on its tensors, and count.

    ``written`` names the one argument that may be written, a contiguous tensor.
    """
    memory, program = Memory(), parse(ptx)
    arguments: list[int] = []
    for name, value in launch.arguments.items():
        if isinstance(value, torch.Tensor):
            arguments.append(memory.place(octets_of(value), writable=name == written))
        else:
            arguments.append(_number(value))
    blocks = []
    for index in range(launch.grid[0]):
        shared = launch.options["shared_bytes"]
        block = Block(program, memory, tuple(arguments), index, shared, seed=seed + index)
        block.run()
        blocks.append(block)
    result = launch.arguments[written]
    place = arguments[list(launch.arguments).index(written)]
    made = memory.at(place, np.uint8, result.numel() * result.element_size())
    result.view(torch.uint8).view(-1).copy_(torch.from_numpy(made))
    return Counts(sum(each.products for each in blocks), sum(each.conflicts for each in blocks))


def _number(value: object) -> int:
    assert value is None or isinstance(value, int), value
    return value or 0
