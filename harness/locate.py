"""Where the wrong elements of an output lie, in words that are true: the simplest that fit.

First comes what fits exactly: a product of ranges, blocks or periods of every axis, a diagonal, a
triangle, a checkerboard, whole tiles. Then what merely holds all wrong elements, where chance would
not have put them there: a structure must save ``SIGNIFICANT`` bits over naming the elements one by
one. The rest is called scattered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from harness import cause, patterns
from harness.patterns import Place
from harness.spans import SIGNIFICANT, Axis, Span, cover, exact, hull

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Marks = NDArray[np.bool_]

_NAMED: Final = 4  # so many elements or tiles are named one by one
_LEAST_PERCENT: Final = 0.001
_HINT_BITS: Final = 4.0  # where scattered elements lie is worth saying from here on


def describe(wrong: Tensor, *, actual: Tensor | None = None, expected: Tensor | None = None) -> str:
    """Words for the true elements of a boolean tensor of any rank; empty if there are none.

    With ``actual`` and ``expected`` of the same shape, words for what the wrong values are follow,
    where one sentence is true of all of them.
    """
    marks = wrong.cpu().numpy()
    count = int(np.count_nonzero(marks))
    if not count:
        return ""
    where = "every element is wrong" if count == marks.size else _where(marks, count)
    if actual is None or expected is None:
        return where
    return "; ".join(filter(None, (where, cause.explain(wrong, actual, expected))))


def _where(wrong: Marks, count: int) -> str:
    axes = [axis for axis in _axes(wrong.shape) if axis.length > 1]
    wrong = wrong.reshape([axis.length for axis in axes])
    hits = [_hit(wrong, axis) for axis in range(wrong.ndim)]
    spans = [exact(hit, axis) for hit, axis in zip(hits, axes, strict=True)]
    is_product = math.prod(span.size for span in spans) == count
    if is_product and not any(span.scattered for span in spans):
        return _product(spans, wrong.shape, count)
    found = [*_patterns(wrong, hits, axes)] if len(axes) > 1 and not is_product else []
    whole = [place for place in found if place.area == count]
    if whole:
        return f"in {min(whole, key=lambda place: place.bits).words}: {_share(count, count)}"
    covers = [
        span if is_product and not span.scattered else _cover(span, hit, axis, count)
        for span, hit, axis in zip(spans, hits, axes, strict=True)
    ]
    if is_product and not any(c.words for c, s in zip(covers, spans, strict=True) if s.scattered):
        return _product(spans, wrong.shape, count)
    if count > _NAMED and (place := _likely(_joined(covers), found, count, wrong.size)):
        return f"in {place.words}: {_share(count, place.area)}"
    return _scattered(wrong, hits, axes, count)


def _likely(plain: Place, found: Sequence[Place], count: int, total: int) -> Place | None:
    """What holds all wrong elements where chance would not; the plain one unless far worse."""
    finest = max([plain, *found], key=lambda place: place.gain(count, total))
    best = finest.gain(count, total)
    if best < SIGNIFICANT:
        return None
    return plain if plain.gain(count, total) > max(0, best - SIGNIFICANT) else finest


def _hit(wrong: Marks, axis: int) -> Marks:
    """Which indices of an axis have a true element."""
    others = tuple(i for i in range(wrong.ndim) if i != axis)
    return np.logical_or.reduce(wrong, axis=others) if others else wrong


def _axes(shape: Sequence[int]) -> list[Axis]:
    if len(shape) == 1:
        return [Axis("element", shape[0])]
    lead = [Axis("slice", n, f" along axis {i}") for i, n in enumerate(shape[:-2])]
    return [*lead, *(Axis(noun, n) for noun, n in zip(("row", "column"), shape[-2:], strict=True))]


def _product(spans: Sequence[Span], lengths: Sequence[int], count: int) -> str:
    """Words for elements that fill the product of their axes' spans."""
    single = [span for span in spans if span.size == 1]
    if len(single) == len(spans) - 1 and any(span.scattered for span in spans):
        length = next(n for n, span in zip(lengths, spans, strict=True) if span.scattered)
        return _sprinkled(count, length, _joined(single).words)
    tile = "the tile of " if len(spans) > 1 and spans[-2].block and spans[-1].block else ""
    share = "" if len(spans) == 1 or count == 1 else f": {_share(count, count)}"
    return f"in {tile}{_joined(spans).words}{share}"


def _cover(span: Span, hit: Marks, axis: Axis, count: int) -> Span:
    """The span if chance has not made it, else the narrowest period or range that chance has not.

    Indices are hit together, so that a range or period that has holes counts each index once.
    """
    if not span.scattered and count * math.log2(axis.length / span.size) - span.bits >= SIGNIFICANT:
        return span
    indices = int(np.count_nonzero(hit))
    around = hull(hit, axis)
    if indices * math.log2(axis.length / around.size) - around.bits >= SIGNIFICANT:
        return min(around, cover(hit, axis), key=lambda found: found.size)
    return cover(hit, axis)


def _joined(spans: Sequence[Span]) -> Place:
    words = [span.words for span in spans if span.words]
    text = " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
    return Place(text, math.prod(s.size for s in spans), sum(s.bits for s in spans))


def _scattered(wrong: Marks, hits: Sequence[Marks], axes: Sequence[Axis], count: int) -> str:
    """Words for elements without a structure; the few are listed."""
    if count <= _NAMED:
        listed = ", ".join(str(index) for index in np.argwhere(wrong).tolist())
        return f"{count} scattered elements: {listed}"
    text = _sprinkled(count, wrong.size)
    around = _joined([hull(h, a) for h, a in zip(hits, axes, strict=True)])
    if around.gain(count, wrong.size) < _HINT_BITS:
        return text
    return f"{text}, within {around.words}: {_share(count, around.area)}"


def _sprinkled(count: int, total: int, where: str = "") -> str:
    share = _percent(count, total)
    if 2 * count > total:
        return f"in {share} of {where or 'all elements'}"
    return f"{count} scattered elements{where and f' in {where}'} ({share})"


def _share(count: int, total: int) -> str:
    part = "every element" if count == total else f"{_percent(count, total)} of the elements"
    return f"{part} there"


def _percent(count: int, total: int) -> str:
    """A percentage that says 100 of all only, and never 0."""
    percent = 100 * count / total
    if percent < _LEAST_PERCENT:
        return f"less than {_LEAST_PERCENT} %"
    if percent < 99:  # noqa: PLR2004
        return f"{percent:.2g} %"
    return f"{percent if count == total else min(percent, 99.9):.3g} %"


def _patterns(wrong: Marks, hits: Sequence[Marks], axes: Sequence[Axis]) -> Iterator[Place]:
    """Structures over the last two axes that no product of spans describes."""
    plane = wrong
    lead = [exact(hit, axis) for hit, axis in zip(hits[:-2], axes[:-2], strict=True)]
    if lead:
        plane = np.logical_or.reduce(wrong, axis=tuple(range(len(lead))))
    slices = _joined(lead)
    for place in patterns.of_plane(plane, (axes[-2], axes[-1])):
        words = " and ".join(filter(None, (slices.words, place.words)))
        yield Place(words, slices.area * place.area, slices.bits + place.bits)
