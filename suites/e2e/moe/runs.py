"""Runs of the transformer, kept: what each part was given and returned, on the CPU in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from suites.e2e.evaluate import HalfLayer, watched
from suites.e2e.moe.model import OWN, Router, Transformer, blocks, layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Call:
    """One forward pass of a part: floating-point tensors in float64."""

    args: tuple[Tensor, ...]
    output: Tensor


@dataclass(frozen=True)
class Run:
    """The layers, routers and blocks of one run by name, and what the model returned."""

    calls: Mapping[str, Call]
    output: Tensor

    def chosen(self, block: str, top_k: int) -> Tensor:
        """The experts that the router of a block would take, in ascending order, [s, t, top_k]."""
        probabilities = self.calls[f"{block}.router"].output
        return probabilities.topk(top_k, dim=-1).indices.sort(-1).values


def replaced(
    dense: Transformer, make: Callable[[str, nn.Module], nn.Module], dtype: torch.dtype
) -> Transformer:
    """A copy of ``dense`` whose layers are those that ``make`` returns for a name and a layer."""
    model = copy.deepcopy(dense)
    for name, layer in layers(dense).items():
        model.set_submodule(name, HalfLayer(make(name, layer), dtype))
    return model


@torch.no_grad()
def run(model: Transformer, x: Tensor, ids: Sequence[Tensor] | None = None) -> Run:
    """One run on x [s, t, hidden], with each block's experts given or (None) its own."""
    calls: dict[str, Call] = {}

    def see(name: str, args: tuple[Tensor | None, ...], output: Tensor) -> None:
        calls[name] = Call(tuple(wide(a) for a in args if a is not None), wide(output))

    with watched(parts(model), see):
        output = model(x, ids)
    return Run(calls, wide(output))


def led_and_free(model: Transformer, x: Tensor, ids: Sequence[Tensor]) -> tuple[Run, Run]:
    """Two runs on x, with each block's experts given and with its own, for little more than one.

    They are the halves of a batch: an emulated launch hardly costs more for twice the rows.
    """
    given = [torch.cat((each, torch.full_like(each, OWN))) for each in ids]
    both = run(model, torch.cat((x, x)), given)
    return _half(both, 0), _half(both, 1)


def _half(both: Run, which: int) -> Run:
    calls = {
        name: Call(tuple(part.chunk(2)[which] for part in call.args), call.output.chunk(2)[which])
        for name, call in both.calls.items()
    }
    return Run(calls, both.output.chunk(2)[which])


@torch.no_grad()
def alone(part: nn.Module, call: Call, like: Tensor) -> Tensor:
    """What a part returns on another run's input, given in the dtype and on the device of ``like``.

    It is float64, on the CPU.
    """
    args = [a.to(like.device, like.dtype if a.is_floating_point() else a.dtype) for a in call.args]
    return wide(part(*args))


def parts(model: Transformer) -> dict[str, nn.Module]:
    """The layers, dense or replaced, the routers and the blocks by name."""
    routers = {name: m for name, m in model.named_modules() if isinstance(m, Router)}
    return {**replaced_layers(model), **layers(model), **routers, **blocks(model)}


def replaced_layers(model: Transformer) -> dict[str, HalfLayer]:
    """The quantized layers by the names of the dense ones."""
    return {name: m for name, m in model.named_modules() if isinstance(m, HalfLayer)}


def wide(value: Tensor) -> Tensor:
    """On the CPU, in float64 if it is no integer."""
    kept = value.detach().cpu()
    return kept.double() if kept.is_floating_point() else kept
