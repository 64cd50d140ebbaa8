"""Hypothesis strategies for cases: legal sizes that like edges, and shrink before anything else.

Draws that force a recompilation (parameters, optional inputs) come after those that do not
(sizes, values, layout, seed), and dtype and configuration are fixed by the caller, so a failing
case gets small on machine code that is already there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from harness.case import DEFAULT, Case
from harness.values import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.declare import Kernel, Op
    from harness.domain import Domain, Size

EDGES: Final = (0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 1000)
PRIMES: Final = (7, 13, 101, 211, 509, 1021, 4093)


@dataclass(frozen=True)
class Limits:
    """How large generated cases may get: any axis, and the product of all axes."""

    axis: int
    work: int


EMULATED: Final = Limits(axis=600, work=2**20)  # about 50 ms a case in the interpreter
DEVICE: Final = Limits(axis=16384, work=2**26)


def sizes(size: Size, *, cap: int) -> st.SearchStrategy[int]:
    """Legal sizes of one axis up to ``cap``; edges of tiles and primes as often as any other.

    Shrinks to the smallest legal size. Raises ValueError if ``cap`` is below it.
    """
    cap = min(cap, size.max)
    if cap < size.smallest:
        msg = f"cap={cap} is below the smallest legal size {size.smallest}; raise the limits"
        raise ValueError(msg)
    step = size.multiple_of
    every = st.integers(size.smallest // step, cap // step).map(lambda q: q * step)
    liked = [e for e in (*EDGES, *PRIMES) if e <= cap and size.refusal("", e) is None]
    liked += [e * step for e in (1, 2, 3, 5) if size.smallest <= e * step <= cap and e * step not in liked]
    return st.one_of(every, st.sampled_from(sorted(liked))) if liked else every


@st.composite
def size_maps(draw: Callable[..., int], domain: Domain, *, limits: Limits) -> dict[str, int]:
    """Sizes of all axes within the domain and ``limits``; at times one axis is stretched."""
    least = {axis: max(1, value) for axis, value in domain.smallest().items()}
    stretched = draw(st.sampled_from((None, *domain.sizes)))
    fair = int(limits.work ** (1 / len(least)))
    chosen: dict[str, int] = {}
    for axis in sorted(domain.sizes, key=lambda axis: axis != stretched):
        used = math.prod(max(1, value) for value in chosen.values())
        rest = math.prod(value for name, value in least.items() if name not in {*chosen, axis})
        room = limits.work // (used * rest)
        cap = min(limits.axis, room if axis == stretched else min(room, 4 * fair))
        chosen[axis] = draw(sizes(domain.sizes[axis], cap=max(cap, least[axis])))
    return {axis: chosen[axis] for axis in domain.sizes}


@st.composite
def cases(
    draw: Callable[..., object],
    op: Op,
    kernel: Kernel,
    *,
    dtype: str,
    config: str = DEFAULT,
    limits: Limits = EMULATED,
) -> Case:
    """Cases of ``op`` for ``kernel`` with one dtype and one configuration."""
    legal = size_maps(op.domain, limits=limits).filter(lambda found: not op.domain.refusals(found))
    found = draw(legal)
    values = draw(st.sampled_from([f for f in FAMILIES if f not in op.excludes]))
    layout = draw(st.sampled_from(kernel.layouts))
    seed = draw(st.integers(0, 2**16 - 1))
    params = {name: draw(st.sampled_from(list(labels))) for name, labels in op.params.items()}
    without = [group for group in op.groups if draw(st.booleans())]
    return Case(
        kernel=kernel.name,
        sizes=tuple(found.items()),
        dtype=dtype,
        params=tuple(params.items()),
        without=tuple(without),
        values=values,
        layout=layout,
        config=config,
        seed=seed,
    )
