"""Layers that return just what the recipe says, by the references: the format without a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from suites.e2e.moe.recipe import expected_output

if TYPE_CHECKING:
    from collections.abc import Mapping


class Simulated(nn.Module):
    """A linear layer or a mixture of experts that holds a state and computes its recipe.

    The keys are those of the layers in ``kernels``; an output is rounded once, to the dtype of x.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for key, value in state.items():
            self.register_buffer(key, value.clone())

    def forward(
        self, x: Tensor, weights: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """Map [..., k] to [..., n]; for experts with ``weights`` and ``ids`` [..., t]."""
        routing = [None if part is None else part.flatten(0, -2) for part in (weights, ids)]
        made = expected_output(self.state_dict(), x.flatten(0, -2), *routing)
        return made.value.to(x.dtype).reshape(*x.shape[:-1], -1)
