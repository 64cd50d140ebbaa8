"""What is known before a kernel runs, and what is kept of a run: the twin, the simulation, runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from suites.e2e.moe import model, recipe
from suites.e2e.moe.model import Transformer
from suites.e2e.moe.runs import Run, alone, led_and_free, replaced, replaced_layers, run
from suites.e2e.moe.simulation import Simulated

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from suites.e2e.moe.recipe import State


@dataclass(frozen=True)
class Setting:
    """All that is to be known before a kernel runs, of layers in ``dtype``.

    ``twin`` is ``dense`` in float64, and ``beside`` its run; ``samples`` are the inputs that layers
    are calibrated with, ``states`` what they must hold; ``simulated`` is how the recipe does.
    """

    dtype: torch.dtype
    dense: Transformer
    twin: Transformer
    tokens: Tensor
    beside: Run
    samples: Mapping[str, Tensor]
    states: Mapping[str, State]
    simulated: Observed

    @property
    def ids(self) -> tuple[Tensor, ...]:
        """The experts that the dense twin takes, a block at a time."""
        return tuple(self.beside.calls[name].args[1] for name in model.blocks(self.dense))


@dataclass(frozen=True)
class Observed:
    """A model with its layers replaced: its runs, and each part on the dense twin's input.

    ``led`` ran with the dense twin's choice of experts, ``free`` with its own.
    """

    led: Run
    free: Run
    alone: Mapping[str, Tensor]


@cache
def setting(dtype: torch.dtype, blocks: int = model.SIZES.blocks) -> Setting:
    """The transformer, its twin and the simulation, made once a process."""
    dense = Transformer(model.Sizes(blocks=blocks)).requires_grad_(requires_grad=False)
    twin, x = copy.deepcopy(dense).double(), model.tokens()
    free = run(twin, x.double())
    ids = [free.calls[f"{name}.experts"].args[2] for name in model.blocks(dense)]
    beside = run(twin, x.double(), ids)
    samples = _samples(twin)
    states = {
        name: recipe.state_of(layer, samples[name], dtype)
        for name, layer in model.layers(dense).items()
    }
    simulation = replaced(twin, lambda name, _: Simulated(states[name]), dtype)
    simulated = observe(simulation, x.double(), beside)
    return Setting(dtype, dense, twin, x, beside, samples, states, simulated)


def _samples(twin: Transformer) -> dict[str, Tensor]:
    """What each layer is given on tokens other than those that it is judged by, float32."""
    x = model.tokens(model.CALIBRATION_SEED, sequences=8).double()
    calls = run(twin, x).calls
    return {name: calls[name].args[0].float() for name in model.layers(twin)}


def observe(candidate: Transformer, x: Tensor, beside: Run) -> Observed:
    """Run ``candidate`` on x [s, t, hidden], in its dtype and on its device, beside the twin."""
    names = [*replaced_layers(candidate), *model.blocks(candidate)]
    ids = [beside.calls[name].args[1].to(x.device) for name in model.blocks(candidate)]
    led, free = led_and_free(candidate, x, ids)
    return Observed(
        led,
        free,
        {name: alone(candidate.get_submodule(name), beside.calls[name], x) for name in names},
    )
