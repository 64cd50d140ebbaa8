"""NVFP4's mixture of experts: its routing, what one expert may not do to another, unread ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.emulation import emulate
from kernels.nvfp4 import triton_moe_down, triton_moe_up
from kernels.nvfp4.scale_layout import swizzle_scales, unswizzle_scales
from kernels.nvfp4.triton_moe_down import nvfp4_moe_down
from kernels.nvfp4.triton_moe_up import nvfp4_moe_up, route
from suites.meta.laws import LAW
from suites.module.svdq_layers import same_bits

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
M, T, E, K, I, H = 21, 3, 5, 96, 64, 40  # noqa: E741 - the axes' names
NAN = 0x7F


def codes_of(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def scales_of(generator: torch.Generator, *shape: int) -> Tensor:
    """Bytes of scales in 1/16..1/2."""
    return torch.randint(0x18, 0x30, shape, generator=generator, dtype=torch.uint8)


@dataclass
class Experts:
    """The operands of both halves; scales are bytes in rows and columns."""

    seed: int = 0

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        self.codes = codes_of(draw, M, K // 2)
        self.scales = scales_of(draw, M, K // 16)
        self.up_codes = codes_of(draw, E, 2 * I, K // 2)
        self.up_scales = scales_of(draw, E, 2 * I, K // 16)
        self.down_codes = codes_of(draw, E, H, I // 2)
        self.down_scales = scales_of(draw, E, H, I // 16)
        self.ids = torch.randint(0, E, (M, T), generator=draw)
        self.weights = torch.randn(M, T, generator=draw)
        self.alphas = torch.rand(E, 2, generator=draw) / 8
        self.encode = 1 + torch.rand(E, generator=draw)
        self.down_alphas = torch.rand(E, generator=draw)

    def up(
        self, device: str, *, read_ids: bool = True, config: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes, and bytes of scales in rows and columns."""
        given = (
            *(self.codes, self.up_codes, _laid_out(self.scales), _laid_out(self.up_scales)),
            *(self.ids, self.alphas, self.encode),
        )
        with emulate():
            codes, scales = nvfp4_moe_up(
                *(tensor.to(device) for tensor in given), read_ids=read_ids, config=config
            )
        rows = unswizzle_scales(scales.cpu(), self.ids.numel(), I // 16).view(torch.uint8)
        return codes.cpu(), rows.unflatten(0, self.ids.shape)

    def down(
        self,
        made: tuple[Tensor, Tensor],
        device: str,
        *,
        read_ids: bool = True,
        config: str | None = None,
    ) -> Tensor:
        """What both halves make of the token, given what the first one made."""
        codes, octets = made
        given = (
            *(codes, self.down_codes, _laid_out(octets.flatten(0, 1))),
            *(_laid_out(self.down_scales), self.ids, self.weights, self.down_alphas),
        )
        with emulate():
            y = nvfp4_moe_down(
                *(tensor.to(device) for tensor in given), read_ids=read_ids, config=config
            )
        return y.cpu()

    def both(self, device: str, *, read_ids: bool = True) -> Tensor:
        return self.down(self.up(device, read_ids=read_ids), device, read_ids=read_ids)


def _laid_out(octets: Tensor) -> Tensor:
    return swizzle_scales(octets.view(torch.float8_e4m3fn))


@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 16]),
    st.integers(1, 3),
    st.lists(st.integers(-3, 12), min_size=1, max_size=60),
)
@LAW
def test_every_slot_is_in_one_tile_of_its_expert(
    experts: int, block_m: int, top_k: int, drawn: list[int]
) -> None:
    drawn += [0] * (-len(drawn) % top_k)
    ids = torch.tensor(drawn).reshape(-1, top_k)
    routing = route(ids, experts, block_m)
    found: list[tuple[int, int]] = []
    for tile, expert in enumerate(routing.experts.tolist()):
        if expert == experts:
            continue
        begin = int(routing.starts[expert]) + (tile - int(routing.firsts[expert])) * block_m
        end = min(begin + block_m, int(routing.starts[expert + 1]))
        assert begin < end
        found += [(int(slot), expert) for slot in routing.slots[begin:end]]
    known = [(slot, expert) for slot, expert in enumerate(drawn) if 0 <= expert < experts]
    assert sorted(found) == known


@pytest.mark.parametrize(("experts", "slots", "block_m"), [(4, 3, 16), (4, 40, 16), (3, 35, 4)])
def test_the_worst_routing_needs_all_tiles(experts: int, slots: int, block_m: int) -> None:
    """One slot for each expert but one, and one more than whole tiles for that."""
    spread = list(range(min(experts, slots)))
    ids = torch.tensor(spread + [0] * (slots - len(spread)))[:, None]
    routing = route(ids, experts, block_m)
    assert int((routing.experts < experts).sum()) == routing.tiles


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_moe_up.CONFIGS)
def test_a_nan_in_an_expert_s_weights_stays_with_its_tokens(config: str, device: str) -> None:
    clean, spoiled = Experts(), Experts()
    spoiled.up_scales[2] = NAN
    codes, scales = clean.up(device, config=config)
    seen, found = spoiled.up(device, config=config)
    others = clean.ids != 2
    assert torch.equal(seen[others], codes[others])
    assert torch.equal(found[others], scales[others])
    assert bool((found[~others] == NAN).all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", triton_moe_down.CONFIGS)
def test_a_nan_in_an_expert_s_second_weights_stays_with_its_tokens(
    config: str, device: str
) -> None:
    clean, spoiled = Experts(), Experts()
    spoiled.down_scales[2] = NAN
    made = clean.up(device)
    y, found = (of.down(made, device, config=config) for of in (clean, spoiled))
    of_it = (clean.ids == 2).any(1)
    assert 0 < int(of_it.sum()) < M
    assert torch.equal(found[~of_it], y[~of_it])
    assert found[of_it].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
def test_an_expert_without_tokens_is_not_read(device: str) -> None:
    clean, spoiled = Experts(), Experts()
    for of in (clean, spoiled):
        of.ids = of.ids.clamp(min=1)
    spoiled.up_scales[0] = spoiled.down_scales[0] = NAN
    spoiled.alphas[0] = spoiled.encode[0] = spoiled.down_alphas[0] = torch.nan
    assert same_bits(spoiled.both(device), clean.both(device))


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_of_tokens_is_that_of_results(device: str) -> None:
    """What a token gets does not depend on which tile its slots are sorted to."""
    one, other = Experts(), Experts()
    order = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    other.codes, other.scales = one.codes[order], one.scales[order]
    other.ids, other.weights = one.ids[order], one.weights[order]
    assert same_bits(other.both(device), one.both(device)[order])


@pytest.mark.parametrize("device", DEVICES)
def test_an_expert_twice_counts_twice(device: str) -> None:
    twice, once = Experts(), Experts()
    twice.ids[:] = once.ids[:] = 3
    twice.weights[:] = 0.5
    once.weights[:] = torch.tensor([1.5, 0.0, 0.0])
    codes, scales = twice.up(device)
    assert torch.equal(codes[:, 0], codes[:, 2])
    assert torch.equal(scales[:, 0], scales[:, 2])
    assert same_bits(twice.both(device), once.both(device))  # thirds of one sum, by powers of two


@pytest.mark.parametrize("device", DEVICES)
def test_ids_of_either_dtype_and_any_strides_are_one(device: str) -> None:
    plain, short, strided = Experts(), Experts(), Experts()
    short.ids = short.ids.int()
    strided.ids = strided.ids.T.contiguous().T
    strided.weights = strided.weights.repeat(1, 2)[:, :T]
    assert not strided.ids.is_contiguous()
    expected = plain.both(device)
    assert same_bits(short.both(device), expected)
    assert same_bits(strided.both(device), expected)


OUTSIDE = [-1, E, -(2**31), 2**31 - 1, 2**32, -(2**63)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", OUTSIDE)
def test_an_unread_id_outside_makes_its_token_nan_and_nothing_else(wrong: int, device: str) -> None:
    clean, spoiled = Experts(), Experts()
    spoiled.ids[4, 1] = wrong
    codes, scales = spoiled.up(device, read_ids=False)
    assert not codes[4, 1].any()
    assert not scales[4, 1].any()
    expected = clean.both(device)
    y = spoiled.both(device, read_ids=False)
    assert y[4].isnan().all()
    others = torch.arange(M) != 4
    assert torch.equal(y[others], expected[others])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", OUTSIDE)
def test_an_id_outside_is_refused(wrong: int, device: str) -> None:
    clean, spoiled = Experts(), Experts()
    spoiled.ids[4, 1] = wrong
    made = clean.up(device)
    calls: list[Callable[[], object]] = [
        lambda: spoiled.up(device),
        lambda: spoiled.down(made, device),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=rf"topk_ids has {wrong} at \[4, 1\]; with e=5 .* 0\.\.4: route"
        ):
            call()


@pytest.mark.parametrize("device", DEVICES)
def test_no_tokens_make_nothing(device: str) -> None:
    none = Experts()
    none.codes, none.scales = none.codes[:0], none.scales[:0]
    none.ids, none.weights = none.ids[:0], none.weights[:0]
    assert none.both(device).shape == (0, H)
