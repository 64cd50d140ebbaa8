"""Every packed layout of nunchaku, probed against a spelling of its own and against upstream.

The places below are spelt as digits of a mixed radix, read off the fragments of the instruction:
in ``mma.m16n8k64`` lane 4 * (row % 8) + (k % 32) / 8 holds eight neighbouring k of a row in one
register, and the next register holds k + 32.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

import pytest
import torch

from kernels.svdq import nunchaku_layouts as layouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Digits = list[tuple[int, int]]


def qweight_digits(n: int, k: int, columns: int) -> Digits:
    tile = [(n // 128, 0), (k // 64, columns // 64), (n % 128 // 16, 8)]
    lane = [(n % 8, 8), (k % 32 // 8, 4)]
    return [*tile, *lane, (n % 16 // 8, 2), (k % 64 // 32, 2)]


def act_digits(m: int, k: int, columns: int) -> Digits:
    tile = [(m // 256, 0), (k // 64, columns // 64), (m % 256 // 32, 8), (m % 32 // 16, 2)]
    lane = [(m % 8, 8), (k % 32 // 8, 4)]
    return [*tile, *lane, (k % 64 // 32, 2), (m % 16 // 8, 2)]


def wscale_digits(n: int, group: int, groups: int) -> Digits:
    pack = [(n // 128, 0), (group, groups), (n % 128 // 16, 8)]
    return [*pack, (n % 8 // 2, 4), (n % 16 // 8, 2), (n % 2, 2)]


def nvfp4_wscale_digits(n: int, group: int, groups: int) -> Digits:
    pack = [(n // 128, 0), (group // 4, groups // 4), (n % 8, 8)]
    return [*pack, (n % 32 // 8, 4), (n % 128 // 32, 4), (group % 4, 4)]


def ascale_digits(m: int, group: int, groups: int) -> Digits:
    pack = [(m // 256, 0), (group, groups), (m % 256 // 32, 8)]
    return [*pack, (m % 32 // 16, 2), (m % 8, 8), (m % 16 // 8, 2)]


def lora_down_digits(channel: int, rank: int, ranks: int) -> Digits:
    tile = [(channel // 16, 0), (rank // 16, ranks // 16)]
    lane = [(rank % 8, 8), (channel % 8 // 2, 4)]
    return [*tile, *lane, (rank % 16 // 8, 2), (channel % 16 // 8, 2), (channel % 2, 2)]


def lora_up_digits(channel: int, rank: int, ranks: int) -> Digits:
    tile = [(channel // 16, 0), (rank // 16, ranks // 16)]
    lane = [(channel % 8, 8), (rank % 8 // 2, 4)]
    return [*tile, *lane, (channel % 16 // 8, 2), (rank % 16 // 8, 2), (rank % 2, 2)]


@dataclasses.dataclass(frozen=True)
class Packed:
    """One packed tensor: its layout, its digits, the two functions on logical [rows, columns]."""

    layout: layouts.Layout
    digits: Callable[[int, int, int], Digits]
    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]
    rows: int
    columns: int
    dtype: torch.dtype = torch.bfloat16
    group_first: bool = False  # its functions take [columns, rows]

    @property
    def is_codes(self) -> bool:
        return self.layout.stride > 1

    def logical_shape(self) -> tuple[int, int]:
        if self.group_first:
            return self.columns, self.rows
        return self.rows, self.columns // 2 if self.is_codes else self.columns

    def logical(self, row: int, column: int) -> Tensor:
        """Zeros with a mark at one place; a code's mark is its nibble."""
        values = torch.zeros(self.logical_shape(), dtype=torch.uint8)
        if self.is_codes:
            values[row, column // 2] = 0xF0 if column % 2 else 0x0F
        else:
            values[(column, row) if self.group_first else (row, column)] = 0x3C
        return values if self.is_codes else values.to(self.dtype)

    def place(self, row: int, column: int) -> int:
        """Where the mark must land: a nibble's number for codes, an element's otherwise."""
        place = 0
        for digit, radix in self.digits(row, column, self.columns):
            place = place * radix + digit
        return place * 8 + column % 8 if self.is_codes else place

    def landed(self, packed: Tensor) -> list[int]:
        """The numbers of the nibbles or elements that are not zero."""
        if not self.is_codes:
            return [int(place) for place in packed.float().flatten().nonzero()]
        found = packed.view(torch.uint8).flatten()
        nibbles = torch.stack((found & 0xF, found >> 4), dim=1).flatten()
        return sorted({int(place) for place in nibbles.nonzero()})


PACKED = {
    "qweight": Packed(
        layouts.QWEIGHT,
        qweight_digits,
        layouts.pack_qweight,
        layouts.unpack_qweight,
        256,
        192,
        torch.uint8,
    ),
    "act": Packed(
        layouts.ACT, act_digits, layouts.pack_act, layouts.unpack_act, 512, 192, torch.uint8
    ),
    "wscales": Packed(
        layouts.WSCALES,
        wscale_digits,
        layouts.pack_wscales,
        layouts.unpack_wscales,
        384,
        5,
        group_first=True,
    ),
    "ascales": Packed(
        layouts.ASCALES,
        ascale_digits,
        layouts.pack_ascales,
        layouts.unpack_ascales,
        512,
        5,
        group_first=True,
    ),
    "nvfp4_wscales": Packed(
        layouts.NVFP4_WSCALES,
        nvfp4_wscale_digits,
        layouts.pack_nvfp4_wscales,
        layouts.unpack_nvfp4_wscales,
        256,
        12,
        torch.float8_e4m3fn,
        group_first=True,
    ),
    "lora_down": Packed(
        layouts.LORA_DOWN,
        lora_down_digits,
        lambda factor: layouts.pack_lora(factor, layouts.LORA_DOWN),
        lambda packed: layouts.unpack_lora(packed, layouts.LORA_DOWN),
        128,
        48,
    ),
    "lora_up": Packed(
        layouts.LORA_UP,
        lora_up_digits,
        lambda factor: layouts.pack_lora(factor, layouts.LORA_UP),
        lambda packed: layouts.unpack_lora(packed, layouts.LORA_UP),
        128,
        48,
    ),
}
each_packed = pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)


def probes(packed: Packed, count: int = 48) -> list[tuple[int, int]]:
    """The corners and a sample of logical places, the same in every run."""
    generator = torch.Generator().manual_seed(count)
    last_row, last_column = packed.rows - 1, packed.columns - 1
    corners = [(0, 0), (0, last_column), (last_row, 0), (last_row, last_column), (1, 1)]
    rows = torch.randint(packed.rows, (count,), generator=generator).tolist()
    columns = torch.randint(packed.columns, (count,), generator=generator).tolist()
    return [*corners, *zip(rows, columns, strict=True)]


def random_bytes(packed: Packed, seed: int = 0) -> Tensor:
    """A tensor of the packed one's shape and dtype that holds every byte pattern but NaN's."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty(0, dtype=packed.dtype).element_size()
    rows, columns = packed.logical_shape()
    high = 256 if packed.dtype == torch.uint8 else 0x70
    stored = torch.randint(high, (rows, columns * width), generator=generator, dtype=torch.uint8)
    return stored.view(packed.dtype)


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    return (
        actual.dtype == expected.dtype
        and actual.shape == expected.shape
        and torch.equal(
            actual.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8)
        )
    )


@each_packed
def test_a_mark_lands_where_the_digits_say(packed: Packed) -> None:
    for row, column in probes(packed):
        landed = packed.landed(packed.pack(packed.logical(row, column)))
        assert landed == [packed.place(row, column)], (row, column)


@each_packed
def test_every_slot_is_hit_exactly_once(packed: Packed) -> None:
    places = layouts.places(packed.layout, packed.rows, packed.columns)
    assert torch.equal(places.flatten().sort().values, torch.arange(places.numel()))


@each_packed
def test_packing_and_unpacking_undo_each_other(packed: Packed) -> None:
    stored = random_bytes(packed)
    assert same_bits(packed.unpack(packed.pack(stored)).view(stored.dtype), stored)
    raw = stored.view(torch.int8) if packed is PACKED["qweight"] else stored
    assert same_bits(packed.pack(packed.unpack(raw)), raw)


@each_packed
def test_packing_moves_something(packed: Packed) -> None:
    stored = random_bytes(packed)
    moved = packed.pack(stored).view(torch.uint8) != stored.view(torch.uint8)
    assert moved.float().mean() > 0.5


def swap_nibbles(packed: Tensor) -> Tensor:
    stored = packed.view(torch.uint8)
    return (stored << 4) | (stored >> 4)


def swap_neighbours(packed: Tensor) -> Tensor:
    pairs = packed.view(torch.uint8).reshape(-1, 2, packed.element_size())
    return pairs.flip(1).reshape(packed.shape[0], -1).view(packed.dtype)


@each_packed
def test_a_swapped_variant_is_caught(packed: Packed) -> None:
    swap = swap_nibbles if packed.is_codes else swap_neighbours
    for row, column in probes(packed):
        landed = packed.landed(swap(packed.pack(packed.logical(row, column))))
        assert landed != [packed.place(row, column)], (row, column)


WRONG_DIGITS: dict[str, Callable[[int, int, int], Digits]] = {
    # The weight operand with the activation's register order: y and z of a uint4 swapped.
    "qweight": lambda n, k, columns: [
        *qweight_digits(n, k, columns)[:-2],
        (k % 64 // 32, 2),
        (n % 16 // 8, 2),
    ],
    "act": lambda m, k, columns: [
        *act_digits(m, k, columns)[:-2],
        (m % 16 // 8, 2),
        (k % 64 // 32, 2),
    ],
    "wscales": ascale_digits,
    "ascales": wscale_digits,
    "nvfp4_wscales": lambda n, group, groups: [
        *nvfp4_wscale_digits(n, group, groups)[:-2],
        (group % 4, 4),
        (n % 128 // 32, 4),
    ],
    "lora_down": lora_up_digits,
    "lora_up": lora_down_digits,
}


@pytest.mark.parametrize("name", WRONG_DIGITS)
def test_a_plausible_wrong_formula_is_caught(name: str) -> None:
    packed = PACKED[name]
    wrong = dataclasses.replace(packed, digits=WRONG_DIGITS[name])
    caught = [
        place
        for place in probes(packed)
        if packed.landed(packed.pack(packed.logical(*place))) != [wrong.place(*place)]
    ]
    assert len(caught) > len(probes(packed)) / 4


def test_channel_vectors_are_scales_of_one_group() -> None:
    vector = random_bytes(dataclasses.replace(PACKED["wscales"], columns=1)).reshape(-1)
    packed = layouts.pack_channels(vector)
    assert same_bits(packed, layouts.pack_wscales(vector.reshape(1, -1)).reshape(-1))
    assert same_bits(layouts.unpack_channels(packed), vector)


def ramp(rows: int, columns: int, modulus: int) -> Tensor:
    column = torch.arange(columns)
    return (torch.arange(rows).unsqueeze(1) * 37 + column * 11 + column // 8 * 5) % modulus


def nibbles(codes: Tensor) -> Tensor:
    codes = codes.to(torch.uint8) & 0xF
    return codes[:, ::2] | (codes[:, 1::2] << 4)


# SHA-256 of what deepcompressor's NunchakuWeightPacker (mit-han-lab/deepcompressor, commit 69f3473,
# backend/nunchaku/utils.py) makes of the same ramps: the weight side as upstream itself packs it.
UPSTREAM: dict[str, tuple[Callable[[], Tensor], str]] = {
    "qweight": (lambda: layouts.pack_qweight(nibbles(ramp(256, 384, 16) - 8)), "c9e63bdea3f8c0ac"),
    "wscales": (
        lambda: layouts.pack_wscales(ramp(256, 6, 251).bfloat16().t().contiguous()),
        "35c4cfb30f62b255",
    ),
    "channels": (
        lambda: layouts.pack_channels(ramp(384, 1, 251).bfloat16().flatten()),
        "be67cb0c807588e6",
    ),
    "lora_down": (
        lambda: layouts.pack_lora(ramp(384, 32, 251).bfloat16(), layouts.LORA_DOWN),
        "10935d1e3e2c7497",
    ),
    "lora_up": (
        lambda: layouts.pack_lora(ramp(256, 32, 251).bfloat16(), layouts.LORA_UP),
        "1a17c6902697bef9",
    ),
    "nvfp4_wscales": (
        lambda: layouts.pack_nvfp4_wscales(
            ramp(256, 24, 14).to(torch.float8_e4m3fn).t().contiguous()
        ),
        "4c696f2a8e20231c",
    ),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_the_bytes_are_upstreams(name: str) -> None:
    make, expected = UPSTREAM[name]
    stored = make().contiguous().view(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(stored).hexdigest()[:16] == expected


def test_no_rows_pack_to_no_rows() -> None:
    assert layouts.pack_act(torch.empty((0, 64), dtype=torch.uint8)).shape == (0, 64)


@pytest.mark.parametrize(
    ("unpack", "shape", "dtype", "error", "says"),
    [
        (layouts.unpack_qweight, (192, 64), torch.int8, ValueError, "rows=192.*128.*256"),
        (layouts.unpack_qweight, (128, 48), torch.int8, ValueError, "columns=96.*64.*128"),
        (layouts.unpack_qweight, (128, 64), torch.uint8, TypeError, "uint8.*int8"),
        (layouts.unpack_qweight, (128, 64, 1), torch.int8, ValueError, "3 axes"),
        (layouts.unpack_wscales, (2, 64), torch.bfloat16, ValueError, "rows=64.*128"),
        (layouts.unpack_act, (255, 64), torch.uint8, ValueError, "rows=255.*256"),
        (layouts.unpack_ascales, (2, 257), torch.bfloat16, ValueError, "rows=257.*256.*512"),
        (layouts.unpack_nvfp4_wscales, (6, 128), torch.float8_e4m3fn, ValueError, "columns=6.*4"),
        (layouts.unpack_nvfp4_wscales, (8, 128), torch.bfloat16, TypeError, "bfloat16.*e4m3fn"),
    ],
)
def test_what_no_tile_holds_is_refused(
    unpack: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        unpack(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("layout", [layouts.LORA_DOWN, layouts.LORA_UP])
def test_a_rank_of_half_a_tile_is_refused(layout: layouts.Layout) -> None:
    with pytest.raises(ValueError, match=r"columns=24.*16.*32"):
        layouts.pack_lora(torch.zeros((128, 24), dtype=torch.float16), layout)
