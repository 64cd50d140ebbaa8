"""Hypothesis strategies for cases: legal sizes that like edges, and shrink before anything else.

Draws that force a recompilation (parameters, optional inputs) come after those that do not
(sizes, values, layout, seed), and dtype and configuration are fixed by the caller, so a failing
case gets small on machine code that is already there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from harness.case import DEFAULT, Case
from harness.values import families_of

if TYPE_CHECKING:
    from harness.declare import Kernel, Op
    from harness.domain import Size

EDGE_WEIGHT: Final = 4  # how many times more often the end of a tile is drawn than another size
_SMALLEST: Final = 2  # sizes up to this one are edges too
EVERY: Final = 128  # legal sizes of an axis from the smallest on that are all in its table
PRIMES: Final = (211, 509, 1021, 4093, 8191)


@dataclass(frozen=True)
class Limits:
    """How large generated cases may get: any axis, and all inputs and outputs together."""

    axis: int
    elements: int


def within(limits: Limits, room: int | None) -> Limits:
    """``limits`` in ``room`` bytes of a device, of which references and truths have the half."""
    if room is None:
        return limits
    return replace(limits, elements=min(limits.elements, room // 2 // ELEMENT_BYTES))


# What an element of an input or output takes: itself, its snapshot, poisoned runs and their graph,
# and 8 bytes for each of the reference's float64 intermediates. Rounded up to a power of two.
ELEMENT_BYTES: Final = 256
EMULATED: Final = Limits(axis=400, elements=2**17)  # the largest take about a second
DEVICE: Final = Limits(axis=16384, elements=2**23)
SMALL: Final = Limits(axis=200, elements=2**13)  # for what runs a case again and again


def table(size: Size, *, cap: int) -> tuple[int, ...]:
    """Legal sizes of one axis up to ``cap``, ascending: every small one, then edges and primes.

    Beyond the small ones stand the neighbours of powers of two, of their halfway points, and
    primes, each also in units of the multiple. Raises ValueError if ``cap`` admits none.
    """
    cap, step = min(cap, size.max), size.multiple_of
    powers = [2**e for e in range(cap.bit_length() + 1)]
    edges = [v + d for p in powers for v in (p, p + p // 2) for d in (-1, 0, 1)]
    wanted = [*edges, *PRIMES, *(e * step for e in (*edges, *PRIMES))]
    wanted += [size.smallest + i * step for i in range(EVERY)]
    legal = {v for v in wanted if v <= cap and size.refusal("", v) is None}
    if not legal:
        msg = f"cap={cap} is below the smallest legal size {size.smallest}; raise the limits"
        raise ValueError(msg)
    return tuple(sorted(legal))


def sizes(size: Size, *, cap: int) -> st.SearchStrategy[int]:
    """Legal sizes of one axis from its ``table``, those at the ends of tiles more often.

    And one in eight times the largest that is one more than a power of two: it begins another tile
    whatever power of two a tile is, and nothing else shows a loop that ends one too early. One draw
    from an ascending list, so that it shrinks to the smallest.
    """
    found = table(size, cap=cap)
    edges = [v for v in found if v <= _SMALLEST or _is_edge(v) or _is_edge(v // size.multiple_of)]
    often = [*found, *edges * EDGE_WEIGHT]
    begins = [v for v in found if (v // size.multiple_of - 1).bit_count() == 1]
    return st.sampled_from(sorted(often + begins[-1:] * (len(often) // 7)))


def _is_edge(value: int) -> bool:
    """Whether a tile of 16 or more, a power of two or one and a half, ends within one of it."""
    centres = {2**e + half for e in range(4, value.bit_length() + 1) for half in (0, 2**e // 2)}
    return bool({value - 1, value, value + 1} & centres)


def size_maps(op: Op, *, limits: Limits) -> st.SearchStrategy[dict[str, int]]:
    """Sizes of all axes within the op's domain and ``limits``.

    Axes are drawn apart from each other, then the largest is halved until the tensors fit, one
    axis last of all: every axis gets long at times. Small sizes fit whichever axis that is, so the
    choice, drawn after them, does not stand in the way of shrinking.
    """
    axes = {axis: sizes(size, cap=limits.axis) for axis, size in op.domain.sizes.items()}
    drawn = st.tuples(st.tuples(*axes.values()), st.sampled_from(list(axes)))
    fitted = drawn.map(lambda d: _fit(dict(zip(axes, d[0], strict=True)), d[1], op, limits))
    return fitted.filter(lambda found: not op.domain.refusals(found))


def _fit(found: dict[str, int], kept: str, op: Op, limits: Limits) -> dict[str, int]:
    fitted = dict(found)
    while op.elements(fitted) > limits.elements:
        halves = {axis: _half(op.domain.sizes[axis], value) for axis, value in fitted.items()}
        free = [axis for axis in fitted if halves[axis] < fitted[axis]]
        if not free:
            break  # every axis is at its smallest: the op's smallest case is above the limit
        axis = max(free, key=lambda axis: (axis != kept, fitted[axis]))
        fitted[axis] = halves[axis]
    return fitted


def _half(size: Size, value: int) -> int:
    return max(size.smallest, value // 2 // size.multiple_of * size.multiple_of)


@st.composite
def cases(
    draw: st.DrawFn,
    op: Op,
    kernel: Kernel,
    *,
    dtype: str,
    config: str = DEFAULT,
    limits: Limits = EMULATED,
) -> Case:
    """Cases of ``op`` for ``kernel`` with one dtype and one configuration."""
    found = draw(size_maps(op, limits=limits))
    values = draw(st.sampled_from(list(families_of(op))))
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
