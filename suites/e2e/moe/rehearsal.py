"""The check without a kernel: layers that compute the recipe stand for those in NVFP4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from suites.e2e.moe.observe import observe, setting
from suites.e2e.moe.runs import replaced
from suites.e2e.moe.simulation import Simulated
from suites.e2e.moe.verdict import judged

if TYPE_CHECKING:
    from suites.e2e.moe.judge import MoEResult
    from suites.e2e.moe.model import Transformer

DTYPE: Final = torch.bfloat16


def simulated() -> Transformer:
    """The transformer in float32, as a candidate is, with layers that are right."""
    made = setting(DTYPE)
    return replaced(made.dense, lambda name, _: Simulated(made.states[name]), DTYPE)


def rehearse(candidate: Transformer) -> MoEResult:
    """The verdict on ``candidate``, which may have been damaged."""
    made = setting(DTYPE)
    return judged(observe(candidate, made.tokens, made.beside), made, made.states)
