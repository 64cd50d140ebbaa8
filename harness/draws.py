"""Draws: numbers of one kind from a generator, with the same bits on every machine.

Only integer draws, uniform draws, table look-ups and single IEEE operations are used: what PyTorch
computes for ``randn`` and ``exp2`` depends on the vector width of the processor.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Shape = tuple[int, ...]

GROUP: Final = 64  # zero groups and crafted ties span whole quantization groups of this length
BLOCK: Final = 16  # blocks of a probe, the side of the smallest tiles
_SPECIAL: Final = (math.nan, math.inf, -math.inf, -0.0)
_MAGNITUDES: Final = 61  # a prime: 1..61 are exact in bfloat16, and so tell rows and blocks
_MANTISSA: Final = 23
_LARGEST_INTEGER: Final = 2**53  # that float64 references still tell from its neighbours
_CELLS: Final = 2**16
_JITTER_BITS: Final = 12


def choice(count: int, generator: Generator) -> int:
    """One of ``count`` numbers from 0 on."""
    return int(torch.randint(0, count, (), generator=generator))


def normal(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Standard normal, float32: quantiles of 2^16 cells, spread within a cell for float32."""
    bits = _JITTER_BITS if dtype.itemsize > 2 else 0  # noqa: PLR2004
    drawn = torch.randint(
        0, _CELLS << bits, (math.prod(shape),), generator=generator, dtype=torch.int32
    )
    values = _quantiles().index_select(0, drawn >> bits)
    if bits:
        spread = drawn.bitwise_and_((1 << bits) - 1).sub_(1 << (bits - 1))
        values += spread * 2.0**-27  # the width of the cells in the middle
    return values.reshape(shape)


@functools.cache
def _quantiles() -> Tensor:
    gauss = NormalDist()
    return torch.tensor([gauss.inv_cdf((cell + 0.5) / _CELLS) for cell in range(_CELLS)])


def exact(shape: Shape, _: torch.dtype, generator: Generator) -> Tensor:
    """Integers in -3..4: neither sums nor transposes nor signs come out even."""
    return torch.randint(-3, 5, shape, generator=generator, dtype=torch.int8).float()


def constant(shape: Shape, _: torch.dtype, generator: Generator) -> Tensor:
    """One value in 0.75..7.75 everywhere."""
    return torch.full(shape, 0.75 + choice(8, generator))


def probe(shape: Shape, _: torch.dtype, generator: Generator) -> Tensor:
    """One of: a value a row at random columns, a permutation of columns, blocks.

    A value's magnitude tells its row, or its block of 16 by 16.
    """
    mode = choice(3, generator)
    if mode == 0:
        return blocks(shape)
    rows = torch.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1)
    return places(shape, generator, apart=mode == 1) * (1.0 + rows % _MAGNITUDES)


def probe_beside(shape: Shape, _: torch.dtype, generator: Generator) -> Tensor:
    """What goes with a probe: blocks, or magnitudes 1..61 that are all different for 61 columns.

    Never mostly zero, or a probe beside it would meet nothing.
    """
    if choice(2, generator):
        return blocks(shape)
    count = math.prod(shape)
    shuffled = torch.randperm(count, generator=generator) % _MAGNITUDES
    return (1.0 + shuffled).reshape(shape)


def blocks(shape: Shape) -> Tensor:
    """Blocks of 16 along the last two axes, of magnitudes that tell neighbours apart."""
    columns = torch.arange(shape[-1]) // BLOCK
    rows = torch.arange(math.prod(shape[:-1])) // BLOCK
    return (1.0 + (13 * rows[:, None] + columns) % _MAGNITUDES).reshape(shape)


def places(shape: Shape, generator: Generator, *, apart: bool) -> Tensor:
    """A mask with one place a row; ``apart`` keeps neighbouring rows in different columns."""
    mask = torch.zeros(shape, dtype=torch.bool)
    if not mask.numel():
        return mask
    rows, width = mask.numel() // shape[-1], shape[-1]
    if apart:
        keys = torch.rand((-(-rows // width), width), generator=generator)
        columns = keys.argsort(dim=1, stable=True).reshape(-1)[:rows]
    else:
        columns = torch.randint(0, width, (rows,), generator=generator)
    mask.reshape(-1, width)[torch.arange(rows), columns] = True
    return mask


def outlier(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Normal, one channel in 16 being 64 times larger."""
    channels = torch.rand(shape[-1:], generator=generator) < 1 / 16
    return normal(shape, dtype, generator) * torch.where(channels, 64.0, 1.0)


def tiny(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Normal times a power of two in 2^-20..2^-10; integers from -1 to 1."""
    exponent = 10 + choice(11, generator)
    if not dtype.is_floating_point:
        return torch.randint(-1, 2, shape, generator=generator).float()
    return normal(shape, dtype, generator) * 2.0**-exponent


def huge(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Near overflow of fp16 and of integers; elsewhere 2^55, whose squares still sum in float32."""
    signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    return signs * _top(dtype) * (0.5 + torch.rand(shape, generator=generator) / 2)


def _top(dtype: torch.dtype) -> float:
    if dtype.is_floating_point:
        return min(torch.finfo(dtype).max / 8, 2.0**55)
    return 1.0 if dtype is torch.bool else min(torch.iinfo(dtype).max, _LARGEST_INTEGER)


def cancelling(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Neighbours of opposite sign that nearly cancel."""
    values = normal(shape, dtype, generator)
    flat = values.reshape(-1)
    odd = flat[1::2]
    flat[1::2] = -flat[0::2][: odd.numel()] * (1 + odd * 2.0**-8)
    return values


def ties(shape: Shape, _: torch.dtype, generator: Generator) -> Tensor:
    """Half-integers below 7 with a 7 in each group, times a power of two a group.

    These are exact midpoints of a symmetric int4 code whose scale is that power of two.
    """
    values = torch.randint(-7, 7, shape, generator=generator) + 0.5
    flat = values.reshape(-1)
    flat[:: GROUP // 4] = 7.0
    scales = powers_of_two(range(-3, 4), (-(-flat.numel() // GROUP),), generator)
    flat *= scales.repeat_interleave(GROUP)[: flat.numel()]
    return values


def zero(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Zero groups among normal ones; wholly zero one time in four."""
    return normal(shape, dtype, generator) * kept_groups(shape, generator)


def kept_groups(shape: Shape, generator: Generator) -> Tensor:
    """A mask of whole groups: about half of them, or none one time in four."""
    groups = -(-math.prod(shape) // GROUP)
    keep = torch.rand(groups, generator=generator) < (0 if not choice(4, generator) else 1 / 2)
    return keep.repeat_interleave(GROUP)[: math.prod(shape)].reshape(shape)


def special(shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Normal, with NaN, infinities and -0 at about one place in 64 each."""
    values = normal(shape, dtype, generator)
    place = torch.randint(0, 16 * len(_SPECIAL), shape, generator=generator)
    for index, value in enumerate(_SPECIAL):
        values[place == index] = value
    return values


def positive(exponents: range, shape: Shape, generator: Generator) -> Tensor:
    """Positive, with any mantissa and the exponents given, equally often."""
    count = len(exponents) << _MANTISSA
    drawn = torch.randint(0, count, shape, generator=generator, dtype=torch.int32)
    return drawn.add_(exponents.start + 127 << _MANTISSA).view(torch.float32)


def powers_of_two(exponents: range, shape: Shape, generator: Generator) -> Tensor:
    """Powers of two with the exponents given, equally often."""
    low, high = exponents.start, exponents.stop
    return powers(torch.randint(low, high, shape, generator=generator, dtype=torch.int32))


def powers(exponents: Tensor) -> Tensor:
    """2 to each int32 exponent, float32, which must be a normal number."""
    bits: Tensor = exponents + 127 << _MANTISSA
    return bits.view(torch.float32)


def to_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in ``dtype``: integers half to even, within range, unsigned by absolute value."""
    if dtype is torch.bfloat16:  # which NaN the cast of one gives depends on the processor
        absent, made = values.isnan(), values.to(dtype)
        return made.masked_fill_(absent, math.nan) if absent.any() else made
    if dtype is torch.float8_e4m3fn:  # what its cast does above 448 depends on PyTorch's version
        return values.clamp(-448, 448).to(dtype)
    if dtype.is_floating_point:
        return values.to(dtype)
    if dtype is torch.bool:
        return values > 0
    limits = torch.iinfo(dtype)
    low, high = max(limits.min, -_LARGEST_INTEGER), min(limits.max, _LARGEST_INTEGER)
    known = values.double().nan_to_num(nan=low, posinf=high, neginf=low)
    return (known if low else known.abs()).round().clamp(low, high).to(dtype)


def any_code(shape: Shape, generator: Generator) -> Tensor:
    """Bytes of every value."""
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def any_index(shape: Shape, generator: Generator) -> Tensor:
    """Integers of 31 bits, whose remainders by any small bound are nearly equally often."""
    return torch.randint(0, 2**31 - 1, shape, generator=generator)


def nibbles(allowed: tuple[int, ...], shape: Shape, generator: Generator) -> Tensor:
    """Bytes of two nibbles out of ``allowed`` each."""
    table = torch.tensor([low | high << 4 for low in allowed for high in allowed])
    drawn = torch.randint(0, len(table), shape, generator=generator, dtype=torch.int32)
    return table.to(torch.uint8)[drawn]


def probe_code(shape: Shape, generator: Generator) -> Tensor:
    """Bytes with one code a row, in the low or the high nibble, or blocks of bytes of two codes."""
    mode = choice(3, generator)
    if mode == 0:
        block = blocks(shape).to(torch.uint8)
        return (1 + block % 7) | (1 + block // 7 % 7) << 4
    nibble = torch.where(torch.rand(shape, generator=generator) < 1 / 2, 3, 5 << 4)
    return torch.where(places(shape, generator, apart=mode == 1), nibble, 0).to(torch.uint8)
