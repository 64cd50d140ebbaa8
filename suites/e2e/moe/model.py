"""A small transformer with mixtures of experts, whose weights and tokens come from committed seeds.

Each block is causal self-attention and a mixture of experts, each behind an RMS norm and added to
what it was given. Norms, softmax, router and sums are of the width of the input; what is to be
replaced by quantized layers is the four projections of the attention and the experts. Nothing is
trained: the shapes of distributions are chosen so that experts differ in size and the router is
unfair, as trained ones are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHTS_SEED: Final = 6
TOKENS_SEED: Final = 101
CALIBRATION_SEED: Final = 102
OWN: Final = -1  # in place of an expert's id: whatever the router chooses
_EPS: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the transformer: small enough for an interpreter, and whole tiles of nothing."""

    blocks: int = 3
    hidden: int = 96
    heads: int = 4
    experts: int = 8
    top_k: int = 2
    intermediate: int = 64


SIZES: Final = Sizes()


class RMSNorm(nn.Module):
    """``x / rms(x) * weight``, in the width of ``x``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., hidden] to the same shape."""
        return x * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt() * self.weight


class Attention(nn.Module):
    """Causal self-attention over sequences of one length; q, k and v have biases."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.scale = (sizes.hidden // sizes.heads) ** -0.5
        for name in ("query", "key", "value"):
            self.add_module(name, _linear(sizes.hidden, generator, bias=True))
        self.output = _linear(sizes.hidden, generator, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [s, t, hidden] to the same shape; token t sees those up to t of its sequence."""
        projected = (self.get_submodule(name)(x) for name in ("query", "key", "value"))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.mT * self.scale).masked_fill(hidden, -torch.inf)
        seen = scores.softmax(-1) @ v
        result: Tensor = self.output(seen.transpose(1, 2).flatten(2))
        return result


class Router(nn.Module):
    """The probability of each expert; a bias makes some favourites, and some that nobody asks."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _parameter(sizes.experts, sizes.hidden, by=generator)
        self.bias = _parameter(sizes.experts, by=generator, scale=2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., hidden] to probabilities [..., experts], in the width of ``x``."""
        return nn.functional.linear(x, self.weight, self.bias).softmax(-1)


class Experts(nn.Module):
    """The weighted sum, over a token's experts, of ``down(silu(gate(x)) * up(x))``, densely."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        e, k, i = sizes.experts, sizes.hidden, sizes.intermediate
        for name, shape in (("gate", (e, i, k)), ("up", (e, i, k)), ("down", (e, k, i))):
            widths = 2.0 ** (torch.rand(e, generator=generator) * 2 - 1)
            made = _parameter(*shape, by=generator, scale=widths[:, None, None])
            self.register_parameter(name, made)

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """Map [..., hidden] to the same shape, given ``weights`` and ``ids`` [..., top_k]."""
        gate, up, down = (self.get_parameter(name) for name in ("gate", "up", "down"))
        result = torch.zeros_like(x)
        for expert in ids.unique().tolist():
            made = silu(x @ gate[expert].T) * (x @ up[expert].T) @ down[expert].T
            result += made * (weights * (ids == expert)).sum(-1, keepdim=True)
        return result


class Block(nn.Module):
    """Attention and experts, each behind a norm and added to its input."""

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        self.top_k = sizes.top_k
        self.attention_norm = RMSNorm(_around_one(sizes.hidden, generator))
        self.attention = Attention(sizes, generator)
        self.experts_norm = RMSNorm(_around_one(sizes.hidden, generator))
        self.router = Router(sizes, generator)
        self.experts = Experts(sizes, generator)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Map [s, t, hidden] to the same shape.

        ``ids`` [s, t, top_k] are taken for the router's choice, except where they are ``OWN``.
        """
        attended: Tensor = x + self.attention(self.attention_norm(x))
        inner = self.experts_norm(attended)
        probabilities = self.router(inner)
        own = chosen(probabilities, self.top_k)
        ids = own if ids is None else torch.where(ids == OWN, own, ids)
        weights = probabilities.gather(-1, ids)
        result: Tensor = self.experts(inner, weights / weights.sum(-1, keepdim=True), ids)
        return attended + result


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(self, sizes: Sizes = SIZES, *, seed: int = WEIGHTS_SEED) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sizes = sizes
        self.blocks = nn.ModuleList(Block(sizes, generator) for _ in range(sizes.blocks))

    def forward(self, x: Tensor, ids: Sequence[Tensor] | None = None) -> Tensor:
        """Map [s, t, hidden] to the same shape; ``ids`` are each block's experts, if not its own.

        Like embeddings, the result is compared as it is: a last norm would hide a wrong scale.
        """
        for index, block in enumerate(self.blocks):
            x = block(x, None if ids is None else ids[index])
        return x


def chosen(probabilities: Tensor, top_k: int) -> Tensor:
    """The ids [..., top_k] of the most probable experts."""
    return probabilities.topk(top_k, dim=-1).indices


def tokens(seed: int = TOKENS_SEED, *, sequences: int = 2, length: int = 14) -> Tensor:
    """Vectors [sequences, length, hidden] that differ in size and have channels that stand out."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(sequences, length, SIZES.hidden, generator=generator)
    sizes = 2.0 ** (torch.rand(sequences, length, 1, generator=generator) * 2 - 1)
    drawn[..., 7] *= 4
    return drawn * sizes


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The dense layers to be replaced, by name, in the order in which they run."""
    kinds = (nn.Linear, Experts)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def blocks(model: Transformer) -> dict[str, Block]:
    """The blocks by name, in order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Block)}


def _linear(features: int, generator: torch.Generator, *, bias: bool) -> nn.Linear:
    made = nn.Linear(features, features, bias=bias, device="meta")
    made.weight = _parameter(features, features, by=generator)
    if bias:
        made.bias = _parameter(features, by=generator, scale=1 / 4)
    return made


def _parameter(*shape: int, by: torch.Generator, scale: float | Tensor = 1.0) -> nn.Parameter:
    """Gaussian, with rows of length 1 (or a vector's elements of size 1) times ``scale``."""
    fan_in = shape[-1] if len(shape) > 1 else 1
    drawn = torch.randn(*shape, generator=by) * scale / fan_in**0.5
    return nn.Parameter(drawn, requires_grad=False)


def _around_one(features: int, generator: torch.Generator) -> Tensor:
    return 1 + torch.randn(features, generator=generator) / 8
