"""What the wrong values of an output are, in words that are true of every one of them.

A hypothesis is dropped at the first wrong value that it does not explain. What relates values to
each other (a neighbour, a factor) must explain so many different ones that chance does not: a value
of a short dtype is near its neighbour's often enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from harness.spans import SIGNIFICANT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

_CHUNK: Final = 1 << 22  # elements looked at together: bounds the memory
_SAMPLE: Final = 4096  # wrong values that hypotheses are found and weighed on
# Bits to which a value must agree with what explains it: rounding and summing differ below that.
_BITS: Final = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 16, torch.float64: 32}
_FEW_BITS: Final = 2  # of the formats of 8 bits
_NOTABLE: Final = 4.0  # times that tolerance is what an offset or a factor must amount to
_POISON_BYTE: Final = 0xA5
_POISON_HUGE: Final = 2.0**100


@dataclass(frozen=True)
class _Wrong:
    """Some wrong elements: places in the flattened output, and both values there."""

    at: Tensor
    raw: Tensor
    expected: Tensor
    bits: int  # to which values must agree; 0 for integers, which must be equal
    every: Tensor  # all expected values, flat
    shape: tuple[int, ...]

    @property
    def value(self) -> Tensor:
        """The actual values, in float64 unless they are integers."""
        return self.raw.double() if self.bits else self.raw

    @property
    def weight(self) -> int:
        """Bits that one value says if it is what a hypothesis says."""
        return self.bits or 8 * self.raw.element_size()

    def part(self, which: slice) -> _Wrong:
        """Some of them."""
        return replace(self, at=self.at[which], raw=self.raw[which], expected=self.expected[which])

    def near(self, other: Tensor) -> Tensor:
        """Which actual values are ``other``, but for rounding."""
        if not self.bits:
            return self.value == other
        value, other = self.value, other.double()
        size = torch.maximum(value.abs(), other.abs())
        close = (value - other).abs() <= size * 2.0**-self.bits
        return (value == other) | (close & size.isfinite())


@dataclass(frozen=True)
class _Hypothesis:
    """Words that follow "all wrong values", and which of some wrong values they are true of.

    ``bits`` is what one value that agrees says; None where nothing needs to be said, because the
    words state a fact. ``where`` leaves out places for which the hypothesis says nothing.
    """

    words: str
    holds: Callable[[_Wrong], Tensor]
    bits: int | None = None
    where: Callable[[_Wrong], Tensor] | None = None

    def explains(self, wrong: _Wrong) -> bool:
        """Whether it is true of every one of them that it speaks of."""
        holds = self.holds(wrong)
        return bool((holds if self.where is None else holds | ~self.where(wrong)).all())

    def leaves_out(self, wrong: _Wrong) -> bool:
        """Whether it says nothing of some of them."""
        return self.where is not None and not bool(self.where(wrong).all())

    def is_proven(self, wrong: _Wrong) -> bool:
        """Whether it explains more different values than chance would."""
        if self.bits is None:
            return True
        values = wrong.value if self.where is None else wrong.value[self.where(wrong)]
        return int(torch.unique(values).numel()) * self.bits >= SIGNIFICANT


def explain(wrong: Tensor, actual: Tensor, expected: Tensor) -> str:
    """One sentence that is true of all wrong values, or nothing.

    ``wrong`` is boolean, ``expected`` float64 or of the dtype of ``actual``, all of one shape.
    """
    if not actual.is_floating_point() and expected.dtype != actual.dtype:
        return ""
    first = next(_chunks(wrong, actual, expected), None)
    if first is None:
        return ""
    sample = first.part(slice(None, None, -(-first.at.numel() // _SAMPLE)))
    for hypothesis in _hypotheses(sample):
        if not (hypothesis.explains(sample) and hypothesis.is_proven(sample)):
            continue
        if all(hypothesis.explains(chunk) for chunk in _chunks(wrong, actual, expected)):
            parts = any(hypothesis.leaves_out(chunk) for chunk in _chunks(wrong, actual, expected))
            return _sentence(hypothesis.words, wrong) + (", where there is one" if parts else "")
    return ""


def _sentence(words: str, wrong: Tensor) -> str:
    if int(torch.count_nonzero(wrong)) == 1:
        return f"the wrong value {words.replace('are', 'is', 1)}"
    return f"all wrong values {words}"


def _chunks(wrong: Tensor, actual: Tensor, expected: Tensor) -> Iterator[_Wrong]:
    marks, values, every = wrong.reshape(-1), actual.reshape(-1), expected.reshape(-1)
    bits = _BITS.get(actual.dtype, _FEW_BITS) if actual.is_floating_point() else 0
    for start in range(0, marks.numel(), _CHUNK):
        at = torch.nonzero(marks[start : start + _CHUNK]).reshape(-1) + start
        at = at.to(values.device)
        if at.numel():
            due = every[at].double() if bits else every[at]
            yield _Wrong(at, values[at], due, bits, every, tuple(actual.shape))


def _hypotheses(sample: _Wrong) -> Iterator[_Hypothesis]:
    """The simplest first; factors and constants are read off the sample."""
    yield from _facts(sample)
    yield from _of_size(sample) if sample.bits else _of_bytes(sample)
    yield from _of_place(sample)


def _facts(sample: _Wrong) -> Iterator[_Hypothesis]:
    """What can be read off the values alone."""
    yield _Hypothesis("are 0", lambda wrong: wrong.raw == 0)
    if sample.bits:
        # Of the values in float64: torch asks none of this of a float8.
        yield _Hypothesis("are NaN", lambda wrong: wrong.value.isnan())
        yield _Hypothesis("are infinite", lambda wrong: wrong.value.isinf())
        yield _Hypothesis("are NaN or infinite", lambda wrong: ~wrong.value.isfinite())
    count, first = sample.raw.numel(), sample.raw[0]
    if 8 * count * sample.raw.element_size() >= SIGNIFICANT:
        yield _Hypothesis("are the poison of fresh memory: never written", _poisoned)
    if count > 2:  # noqa: PLR2004
        yield _Hypothesis(f"are {first.item():.9g}", lambda wrong: wrong.raw == first)


def _poisoned(wrong: _Wrong) -> Tensor:
    """Uninitialised memory holds one of three patterns; NaN alone tells nothing."""
    octets = wrong.raw.unsqueeze(-1).view(torch.uint8)
    patterned = (octets == _POISON_BYTE).all(-1)
    # In float16 the other pattern is the largest value, which a sum that saturates is too.
    return patterned | (wrong.value == _POISON_HUGE) if wrong.bits else patterned


def _of_size(sample: _Wrong) -> Iterator[_Hypothesis]:
    """What is computed from the expected value of the same place."""
    least, bits = _NOTABLE * 2.0**-sample.bits, sample.weight
    yield _Hypothesis("are -1 x expected", lambda wrong: wrong.near(-wrong.expected), bits)
    ratios = (sample.value / sample.expected)[sample.expected != 0]
    factor = float(ratios.median()) if ratios.numel() else 0.0
    if math.isfinite(factor) and factor and abs(factor - 1) >= least:
        words = f"are {_figure(factor, sample.bits)} x expected"
        yield _Hypothesis(words, lambda wrong: wrong.near(factor * wrong.expected), bits)
    offset = float((sample.value - sample.expected).median())
    if math.isfinite(offset) and offset:
        words = f"are expected {'+' if offset > 0 else '-'} {_figure(abs(offset), sample.bits)}"
        yield _Hypothesis(words, partial(_offset_by, offset), bits)


def _offset_by(offset: float, wrong: _Wrong) -> Tensor:
    """Which values lie that far off, where rounding is small beside it."""
    size = torch.maximum(wrong.value.abs(), wrong.expected.abs())
    apart = (wrong.value - wrong.expected - offset).abs()
    notable = size * (_NOTABLE * 2.0**-wrong.bits) <= abs(offset)
    return notable & size.isfinite() & (apart <= size.clamp_min(abs(offset)) * 2.0**-wrong.bits)


def _figure(value: float, bits: int) -> str:
    """Three digits, or more where that is another value."""
    digits = 3
    while abs(float(f"{value:.{digits}g}") - value) > abs(value) * 2.0**-bits:
        digits += 1
    text = f"{value:#.{digits}g}" if 0.01 <= abs(value) < 1000 else f"{value:.{digits}g}"  # noqa: PLR2004
    return text.rstrip(".")


def _of_bytes(sample: _Wrong) -> Iterator[_Hypothesis]:
    """What is computed from the bits of the expected value of the same place."""
    if sample.raw.dtype == torch.bool:
        return
    flipped = sample.raw[0] ^ sample.expected[0]
    yield _Hypothesis(
        f"are expected with the bits {int(flipped):#x} flipped",
        lambda wrong: (wrong.raw ^ wrong.expected) == flipped,
        sample.weight,
    )
    if sample.raw.dtype == torch.uint8:
        yield _Hypothesis("are expected with its nibbles swapped", _nibbles_swapped, sample.weight)
        for nibble, mask in (("high", 0xF0), ("low", 0x0F)):
            words = f"differ from expected in the {nibble} nibble only"
            yield _Hypothesis(words, partial(_within, mask), bits=4)


def _within(mask: int, wrong: _Wrong) -> Tensor:
    return (wrong.raw ^ wrong.expected) | mask == mask


def _nibbles_swapped(wrong: _Wrong) -> Tensor:
    return wrong.raw == ((wrong.expected << 4) | (wrong.expected >> 4))


def _of_place(sample: _Wrong) -> Iterator[_Hypothesis]:
    """What belongs to another place of the output."""
    shape, rank, bits = sample.shape, len(sample.shape), sample.weight
    for axis in reversed(range(rank)):
        length, (noun, along) = shape[axis], _noun(axis, rank)
        sources: dict[str, Callable[[Tensor], Tensor]] = {
            f"{noun} before{along}": lambda i: i - 1,
            f"{noun} after{along}": lambda i: i + 1,
            f"other {noun} of its pair{along}": lambda i: i + 1 - 2 * (i % 2),
            f"first {noun}{along}": lambda i: i * 0,
            f"{noun} at the same distance from the end{along}": partial(_mirrored, length),
        }
        if length % 2 == 0:
            sources[f"same {noun} of the other half{along}"] = partial(_halves_swapped, length)
        if length > 1:
            for words, source in sources.items():
                yield _moved(f"are what the {words} should be", axis, source, bits)
    if rank > 1:
        yield _transposed(shape, bits)


def _mirrored(length: int, index: Tensor) -> Tensor:
    return length - 1 - index


def _halves_swapped(length: int, index: Tensor) -> Tensor:
    return (index + length // 2) % length


def _noun(axis: int, rank: int) -> tuple[str, str]:
    if rank == 1:
        return "element", ""
    named = {rank - 1: ("column", ""), rank - 2: ("row", "")}
    return named.get(axis, ("slice", f" along axis {axis}"))


def _moved(words: str, axis: int, source: Callable[[Tensor], Tensor], bits: int) -> _Hypothesis:
    """Values come from another index of one axis, where that exists and differs."""

    def index(wrong: _Wrong) -> Tensor:
        return wrong.at // math.prod(wrong.shape[axis + 1 :]) % wrong.shape[axis]

    def exists(wrong: _Wrong) -> Tensor:
        there = source(index(wrong))
        return (there >= 0) & (there < wrong.shape[axis])

    def holds(wrong: _Wrong) -> Tensor:
        here = index(wrong)
        steps = source(here).clamp(0, wrong.shape[axis] - 1) - here
        return wrong.near(wrong.every[wrong.at + steps * math.prod(wrong.shape[axis + 1 :])])

    return _Hypothesis(words, holds, bits, exists)


def _transposed(shape: Sequence[int], bits: int) -> _Hypothesis:
    """Values lie where they would in the transposed output, read as if it were not."""
    rows, columns = shape[-2:]

    def holds(wrong: _Wrong) -> Tensor:
        plane = wrong.at % (rows * columns)
        source = plane % rows * columns + plane // rows
        return wrong.near(wrong.every[wrong.at - plane + source])

    return _Hypothesis("are what the transposed place should hold", holds, bits)
