"""Every fault of device code that is written in CUDA C++."""

from __future__ import annotations

from typing import Final

from harness.power import (
    rules_cuda_bounds,
    rules_cuda_meaning,
    rules_cuda_order,
    rules_cuda_places,
    rules_cuda_shares,
    rules_cuda_values,
)

RULES: Final = (
    *(*rules_cuda_meaning.RULES, *rules_cuda_values.RULES),
    *(*rules_cuda_places.RULES, *rules_cuda_bounds.RULES),
    *(*rules_cuda_order.RULES, *rules_cuda_shares.RULES),
)
