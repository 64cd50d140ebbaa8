"""A way to quantize a linear layer, end to end, and a layer's output beside its exact recipe.

What a layer must return is computed from its state by the dense references of the ops below it, in
float64, on the very input that the layer met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from harness import registry
from harness.budget import Budget
from harness.compare import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from harness import Expected
    from suites.e2e.judge import Limits


class Make(Protocol):
    """Quantizes a dense layer, given the largest magnitude of each of its input's channels [K]."""

    def __call__(
        self, linear: nn.Linear, spans: Tensor, *, dtype: torch.dtype, backend: str
    ) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A way to quantize a linear layer over ``ops``.

    ``expected`` gives the float64 output [M, N] of the layer with a state on an input [M, K];
    ``judged_as`` is the op whose error terms its budget has. ``misread`` plants a fault in a layer.
    ``emulated_blocks`` are the transformer blocks, from 0, that are replaced where there is no GPU.
    """

    ops: tuple[str, ...]
    judged_as: str
    make: Make
    expected: Callable[[Mapping[str, Tensor], Tensor], Expected]
    misread: Callable[[nn.Module], None]
    limits: Limits
    emulated_blocks: tuple[int, ...]


def compare_layer(
    scheme: Scheme, state: Mapping[str, Tensor], x: Tensor, actual: Tensor
) -> Comparison:
    """Compare a layer's output ``actual`` [M, N] on ``x`` [M, K] with its exact recipe."""
    expected = scheme.expected(state, x)
    budget = Budget(
        dtype=x.dtype,
        terms_summed=x.shape[1],
        tensor_core=True,
        terms=registry.op(scheme.judged_as).terms,
    )
    return compare(actual.cpu(), expected.value, expected.magnitude, budget)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance, in float64."""
    reference = expected.double()
    return float(torch.linalg.vector_norm(actual.double() - reference) / reference.norm())
