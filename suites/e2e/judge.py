"""Says whether an encoder with replaced layers still does its work, and which layer is bad first.

Pure: tensors and comparisons in, an ``E2EResult`` out. Three questions, from sharp to broad:

1. *Each layer against its exact recipe, on the input that it met.* The layer's stored state,
   dequantized, and the quantizer's recipe give the float64 result; the layer may differ by its
   error budget (``harness.budget``), element by element. As the input is the layer's own, an error
   upstream is not counted again downstream: a fault in one layer fails that layer alone.
2. *Each layer against the dense layer, on the same input*: the noise of the 4-bit format. This sees
   what the first question cannot, a state that is wrong before any kernel runs.
3. *The embeddings against the dense model's*: what a user of the model sees. This is broad by
   nature: a 4-bit quantizer is chaotic. Two runs of the same quantized model that differ by 1e-6 in
   each layer's output, which flips a code here and there, end 0.013 apart in mean cosine (measured,
   float simulation, 280 sentences), nearly half of the 0.032 between either and the dense model. So
   no bound on the end result can be tight, and none replaces question 1.

Planted in one layer of 36 (the 384 x 1536 of block 3; H200, 280 sentences): without its low-rank
branch the mean cosine falls from 0.968 to 0.77, without its output to 0.88, with scales doubled to
0.86. But one group's scales read from the group before leave 0.967, which no user would notice and
question 1 does: 85 % of that layer's elements are off, and of no other's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from harness.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A limit on one figure, and the reason for it that reports show."""

    at_least: float = -math.inf
    at_most: float = math.inf
    because: str

    def admits(self, figure: float) -> bool:
        """Whether ``figure`` is within; NaN never is."""
        return self.at_least <= figure <= self.at_most

    def __str__(self) -> str:
        limit = f">= {self.at_least:.3f}" if self.at_most == math.inf else f"<= {self.at_most:.3f}"
        return f"{limit} because {self.because}"


_DRAWS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a format may move this encoder: its layers, its embeddings, and their cosines.

    ``similarity_noise`` is twice the format's rms error of a cosine between two sentences.
    """

    format_error: Bound
    mean_cosine: Bound
    worst_cosine: Bound
    similarity_noise: float


@dataclass(frozen=True)
class Layer:
    """One replaced layer: against its exact recipe, and (relative L2) against the dense layer."""

    name: str
    comparison: Comparison
    format_error: float
    format_limit: Bound

    def failures(self) -> tuple[str, ...]:
        """What is wrong with the layer, in words."""
        words = []
        if not self.comparison.passed:
            words.append(f"{self.name}: {self.comparison}")
        if not self.format_limit.admits(self.format_error):
            found = f"format error {self.format_error:.3f}"
            words.append(f"{self.name}: {found}, need {self.format_limit}")
        return tuple(words)


@dataclass(frozen=True)
class Quality:
    """The embeddings beside the dense model's, as a user of the model sees them."""

    mean_cosine: float
    worst_cosine: float
    worst_sentence: int
    rank_agreement: float  # Spearman's rho of the similarities of all pairs of sentences
    order_agreement: float  # share of the pairs of committed pairs that are ordered alike


@dataclass(frozen=True)
class E2EResult:
    """Layers in the order in which they ran, and the end result, each with its bound."""

    layers: tuple[Layer, ...]
    quality: Quality
    bounds: tuple[tuple[str, float, Bound], ...]

    @property
    def first_bad_layer(self) -> str | None:
        """The layer where it goes wrong, or None."""
        return next((layer.name for layer in self.layers if layer.failures()), None)

    @property
    def figures(self) -> dict[str, float]:
        """What a record keeps: the end result's figures, and the worst of the layers'."""
        return {
            **{name: figure for name, figure, _ in self.bounds},
            "layers": float(len(self.layers)),
            "worst element, in budgets": max([0.0, *(x.comparison.worst for x in self.layers)]),
            "worst format error": max([0.0, *(x.format_error for x in self.layers)]),
        }

    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong, in words, layers first."""
        of_layers = [failure for layer in self.layers for failure in layer.failures()]
        of_result = [
            f"{name} {figure:.4f}, need {bound}"
            for name, figure, bound in self.bounds
            if not bound.admits(figure)
        ]
        none = [] if self.layers else ["no layer was replaced: nothing was tested"]
        return (*none, *of_layers, *of_result)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures()

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {figure:.4g}" for name, figure in self.figures.items())
        first = () if self.passed else (f"first bad layer: {self.first_bad_layer or 'none'}",)
        return "\n".join((*first, *self.failures(), figures))


def judge(
    layers: Sequence[Layer],
    actual: Tensor,
    expected: Tensor,
    pairs: Sequence[tuple[str, int, int]] = (),
    *,
    limits: Limits,
) -> E2EResult:
    """The verdict on embeddings ``actual`` beside the dense model's ``expected``, both [S, D].

    Raises ValueError for shapes that do not fit.
    """
    quality = measure(actual, expected, pairs)
    rank, order = agreement_floors(expected, pairs, limits.similarity_noise)
    bounds = (
        ("mean cosine", quality.mean_cosine, limits.mean_cosine),
        ("worst cosine", quality.worst_cosine, limits.worst_cosine),
        ("rank agreement", quality.rank_agreement, rank),
        ("order agreement", quality.order_agreement, order),
    )
    return E2EResult(tuple(layers), quality, bounds)


def measure(
    actual: Tensor, expected: Tensor, pairs: Sequence[tuple[str, int, int]] = ()
) -> Quality:
    """The figures of embeddings ``actual`` beside ``expected``, both [S, D]."""
    if actual.ndim != 2 or actual.shape != expected.shape or len(actual) < 3:
        msg = (
            f"actual has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}; "
            f"need two equal shapes [S, D] with S >= 3: ranks of fewer sentences say nothing"
        )
        raise ValueError(msg)
    cosines = torch.nn.functional.cosine_similarity(actual.double(), expected.double())
    worst = int(cosines.nan_to_num(-math.inf).argmin())
    return Quality(
        float(cosines.mean()),
        float(cosines[worst]),
        worst,
        rank_agreement(similarities(actual), similarities(expected)),
        order_agreement(similarities(actual, pairs), similarities(expected, pairs)),
    )


def agreement_floors(
    expected: Tensor, pairs: Sequence[tuple[str, int, int]], noise: float
) -> tuple[Bound, Bound]:
    """Least rank and order agreement: what similarities with ``noise`` would have.

    How far ranks move depends on how close the similarities lie, so the floor is computed for
    the sentences at hand: the lowest of some seeded draws.
    """
    because = f"noise of {noise} in each similarity, twice the format's, leaves it"
    generator = torch.Generator().manual_seed(0)
    rank = _floor(rank_agreement, similarities(expected).cpu(), noise, generator)
    order = _floor(order_agreement, similarities(expected, pairs).cpu(), noise, generator)
    return Bound(at_least=rank, because=because), Bound(at_least=order, because=because)


def _floor(
    agreement: Callable[[Tensor, Tensor], float],
    exact: Tensor,
    noise: float,
    generator: torch.Generator,
) -> float:
    draws = torch.randn(_DRAWS, len(exact), generator=generator, dtype=exact.dtype)
    return min(agreement(exact + noise * draw, exact) for draw in draws)


def similarities(embeddings: Tensor, pairs: Sequence[tuple[str, int, int]] | None = None) -> Tensor:
    """Cosine similarities, float64, of ``pairs`` or (None) of all pairs of different sentences."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    if pairs is None:
        first, second = torch.triu_indices(len(unit), len(unit), 1)
    else:
        first = torch.tensor([a for _, a, _ in pairs], dtype=torch.int64)
        second = torch.tensor([b for _, _, b in pairs], dtype=torch.int64)
    return (unit[first] * unit[second]).sum(dim=1)


def rank_agreement(actual: Tensor, expected: Tensor) -> float:
    """Spearman's rho, ties sharing their mean rank; 0 for a constant, NaN if any value is."""
    if bool((actual.isnan() | expected.isnan()).any()):
        return math.nan
    ranks = torch.stack((_ranks(actual), _ranks(expected)))
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    norms = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / norms if norms > 0 else 0.0


def order_agreement(actual: Tensor, expected: Tensor) -> float:
    """Share of the pairs of entries that ``actual`` orders as ``expected``; 1 without a pair."""
    if len(actual) < 2:
        return 1.0
    first, second = torch.triu_indices(len(actual), len(actual), 1)
    signs = [(values[first] - values[second]).sign() for values in (actual, expected)]
    return float((signs[0] == signs[1]).double().mean())


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    mean_ranks: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return mean_ranks[inverse]
