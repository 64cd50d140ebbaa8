"""Orders in which a correct kernel may sum, over the last axis of float32 terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Order = Callable[[Tensor], Tensor]


def chain(terms: Tensor) -> Tensor:
    """One after another, as one thread that owns an output does."""
    total = terms.new_zeros(terms.shape[:-1])
    for term in terms.unbind(-1):
        total = total + term
    return total


def tree(terms: Tensor) -> Tensor:
    """Pairs, pairs of pairs, and so on: as warps reduce."""
    while terms.shape[-1] > 1:
        even = pad(terms, (0, terms.shape[-1] % 2))
        terms = even[..., 0::2] + even[..., 1::2]
    return terms[..., 0] if terms.shape[-1] else terms.sum(-1)


def tiles(terms: Tensor, *, width: int = 64) -> Tensor:
    """Tiles one after another, each by a tree."""
    return chain(tree(pad(terms, (0, -terms.shape[-1] % width)).unflatten(-1, (-1, width))))


def lanes(terms: Tensor, *, count: int = 32) -> Tensor:
    """Every lane takes each ``count``-th term; the lanes' sums then make a tree."""
    strided = pad(terms, (0, -terms.shape[-1] % count)).unflatten(-1, (-1, count))
    return tree(chain(strided.transpose(-1, -2)))


def halves(terms: Tensor, *, count: int = 2) -> Tensor:
    """Split-K: ``count`` contiguous parts apart from each other, then their sum."""
    return chain(torch.stack([tiles(part) for part in terms.chunk(count, -1)], -1))


def backwards(terms: Tensor) -> Tensor:
    """The last tile first."""
    return tiles(terms.flip(-1))


def shuffled(terms: Tensor) -> Tensor:
    """A fixed permutation, as of a layout that interleaves."""
    generator = torch.Generator().manual_seed(terms.shape[-1])
    places = torch.randperm(terms.shape[-1], generator=generator)
    return tiles(terms[..., places.to(terms.device)])


def quarters(terms: Tensor) -> Tensor:
    """Split-K in four."""
    return halves(terms, count=4)


ORDERS: Final[dict[str, Order]] = {
    "chain": chain,
    "tree": tree,
    "tiles of 64": tiles,
    "32 lanes": lanes,
    "split in 2": halves,
    "split in 4": quarters,
    "backwards": backwards,
    "shuffled": shuffled,
}
