"""Replaces the transformer's layers by those in NVFP4, runs it, and has every part judged."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from harness.emulation import emulate
from harness.launches import record_launches
from kernels.nvfp4 import moe
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.moe import NVFP4MoE
from suites.e2e.evaluate import NothingLaunched
from suites.e2e.moe import model, recipe
from suites.e2e.moe.model import Experts, Transformer
from suites.e2e.moe.observe import Setting, observe, setting
from suites.e2e.moe.runs import replaced, replaced_layers
from suites.e2e.moe.verdict import judged

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from suites.e2e.moe.judge import MoEResult


def quantize(made: Setting, *, backend: str) -> Transformer:
    """The transformer with its layers in NVFP4.

    Where the experts have no backend of that name, theirs is Triton.
    """
    of_experts = backend if backend in moe.BACKENDS else "triton"

    def make(name: str, layer: nn.Module) -> nn.Module:
        sample = made.samples[name]
        if isinstance(layer, Experts):
            weights = [layer.get_parameter(part) for part in ("gate", "up", "down")]
            return NVFP4MoE.from_experts(*weights, activations=sample, backend=of_experts)
        return NVFP4Linear.from_linear(layer, activations=sample, dtype=made.dtype, backend=backend)

    return replaced(made.dense, make, made.dtype)


def evaluate(
    *,
    backend: str,
    dtype: torch.dtype,
    device: torch.device,
    blocks: int = model.SIZES.blocks,
    fault: Callable[[Transformer], None] | None = None,
) -> MoEResult:
    """Replace the layers, run, and judge; on a CPU the kernels are emulated.

    ``blocks`` is how many there are, which are the first ones. ``fault`` may damage the quantized
    transformer. Raises NothingLaunched.
    """
    made = setting(dtype, blocks)
    candidate = quantize(made, backend=backend)
    held = {name: layer.inner.state_dict() for name, layer in replaced_layers(candidate).items()}
    states = {name: recipe.calibrated_as(made.states[name], held[name]) for name in held}
    candidate = candidate.to(device)
    if fault is not None:
        fault(candidate)
    running: AbstractContextManager[object] = emulate() if device.type == "cpu" else nullcontext()
    with running, record_launches() as launches:
        observed = observe(candidate, made.tokens.to(device), made.beside)
    if not launches:
        msg = f"backend={backend!r} launched nothing: a fallback computed this, not the kernels"
        raise NothingLaunched(msg)
    return judged(observed, made, states)


def misread_alphas(candidate: Transformer, name: str) -> None:
    """Plant a fault: the second half of a mixture scales each expert as the one before it."""
    held = replaced_layers(candidate)[name].inner
    held.get_buffer("down_alphas").copy_(held.get_buffer("down_alphas").roll(1))
