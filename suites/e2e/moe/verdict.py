"""Compares and measures what was observed of the transformer, part by part."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from harness.budget import Budget, Term
from harness.compare import Comparison, compare
from suites.e2e.evaluate import watched
from suites.e2e.judge import Bound
from suites.e2e.moe import judge, model, recipe
from suites.e2e.moe.judge import Figure, MoEResult, Part
from suites.e2e.moe.runs import Call, Run
from suites.e2e.recipe import relative_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from suites.e2e.moe.model import Transformer
    from suites.e2e.moe.observe import Observed, Setting
    from suites.e2e.moe.recipe import State

ARGUMENTS: Final = ("input", "weights")  # and, here, the dense twin's experts
BETWEEN: Final = Term(
    relative=2**-16,
    because="norms, softmax, routing and sums of a few hundred terms in float32, relative to the "
    "largest of a row: 256 units of roundoff",
)


def judged(observed: Observed, made: Setting, states: Mapping[str, State]) -> MoEResult:
    """The verdict on what was observed of layers that must hold ``states``."""
    replayed = _replayed(made.twin, observed.led)
    parts = []
    for block in model.blocks(made.dense):
        inner = [name for name in states if name.startswith(f"{block}.")]
        for name in (*inner, block):
            comparisons = (
                _between_layers(observed.led.calls[name], replayed[name])
                if name == block
                else _of_layer(name, observed, made, states[name], replayed[name])
            )
            parts.append(Part(name, comparisons, _errors(name, observed, made)))
    return MoEResult(tuple(parts), _of_whole(observed, made))


def _of_layer(
    name: str, observed: Observed, made: Setting, state: State, replayed: Call
) -> dict[str, Comparison]:
    met, twins = observed.led.calls[name], made.beside.calls[name]
    given = {
        f"the {what} it was given": between(actual, expected)
        for what, actual, expected in zip(ARGUMENTS, met.args, replayed.args, strict=False)
    }
    return {
        **given,
        "on its own input": _by_recipe(met.args, met.output, state, made.dtype),
        "on the twin's input": _by_recipe(twins.args, observed.alone[name], state, made.dtype),
    }


def _by_recipe(
    args: tuple[Tensor, ...], output: Tensor, state: State, dtype: torch.dtype
) -> Comparison:
    x, *routing = (a.flatten(0, -2) for a in args)
    half = x.float().to(dtype)
    expected = recipe.expected_output(state, half, *(_as_given(part) for part in routing))
    terms = x.shape[1] if not routing else state["down_codes"].shape[2] * 2 * routing[1].shape[1]
    return recipe.compare_output(expected, output.flatten(0, -2).to(dtype), terms_summed=terms)


def _as_given(routing: Tensor) -> Tensor:
    """Weights as the experts get them, in float32; ids as they are."""
    return routing.float() if routing.is_floating_point() else routing


def _between_layers(call: Call, replayed: Call) -> dict[str, Comparison]:
    return {"what it adds up": between(call.output, replayed.output)}


def between(actual: Tensor, expected: Tensor) -> Comparison:
    """Compare what a model computed in float32 between its layers with the same in float64."""
    largest = expected.abs().amax(-1, keepdim=True).expand_as(expected)
    budget = Budget(dtype=torch.float32, terms=(BETWEEN,))
    return compare(actual.float(), expected, largest, budget)


class _Recorded(nn.Module):
    """Returns what a layer returned in another run."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: Tensor) -> Tensor:
        del args
        return self.output


def _replayed(twin: Transformer, led: Run) -> dict[str, Call]:
    """What the dense twin's blocks give to layers, and return, if layers return what they did."""
    stage = copy.deepcopy(twin)
    for name in model.layers(twin):
        stage.set_submodule(name, _Recorded(led.calls[name].output))
    calls: dict[str, Call] = {}

    def see(name: str, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] = Call(args, output)

    parts = {name: stage.get_submodule(name) for name in model.layers(twin)} | model.blocks(stage)
    with watched(parts, see):
        for name, block in model.blocks(stage).items():
            block(*led.calls[name].args)
    return calls


def _errors(name: str, observed: Observed, made: Setting) -> tuple[Figure, ...]:
    actual = _distances(name, observed, made)
    simulated = _distances(name, made.simulated, made)
    return tuple(judge.error(kind, actual[kind], simulated[kind]) for kind in actual)


def _distances(name: str, observed: Observed, made: Setting) -> dict[str, float]:
    """How far a part is from the dense one, without what hides it: biases, and a block's input."""
    dense = made.twin.get_submodule(name)
    met, twins = observed.led.calls[name], made.beside.calls[name]
    bias = getattr(dense, "bias", None)
    hides = 0.0 if bias is None else bias
    before, after = (
        (met.args[0], twins.args[0]) if isinstance(dense, model.Block) else (hides, hides)
    )
    return {
        "on its own input": relative_error(met.output - before, dense(*met.args) - before),
        "on the twin's input": relative_error(observed.alone[name] - after, twins.output - after),
        "after all before it": relative_error(met.output - hides, twins.output - hides),
    }


def _of_whole(observed: Observed, made: Setting) -> tuple[Figure, ...]:
    def far(kind: str, actual: Tensor, simulated: Tensor) -> Figure:
        expected = made.beside.output
        return judge.error(
            kind, relative_error(actual, expected), relative_error(simulated, expected)
        )

    simulated, top_k = made.simulated, made.dense.sizes.top_k
    apart = relative_error(observed.led.output, simulated.led.output)
    beside = relative_error(simulated.led.output, made.beside.output)
    routed = [
        judge.agreement(
            f"{name} routed alike",
            alike(observed.free.chosen(name, top_k), made.beside.chosen(name, top_k)),
            alike(simulated.free.chosen(name, top_k), made.beside.chosen(name, top_k)),
            tokens=made.tokens[..., 0].numel(),
        )
        for name in model.blocks(made.dense)
    ]
    return (
        *routed,
        far("result, led by the twin's router", observed.led.output, simulated.led.output),
        far("result, by its own router", observed.free.output, simulated.free.output),
        Figure(
            "result beside the simulation",
            apart,
            Bound(at_most=beside / 2, because=f"half of the format's {beside:.4f}"),
        ),
    )


def alike(actual: Tensor, expected: Tensor) -> float:
    """The share of tokens with the same experts, in whatever order."""
    return float((actual == expected).all(-1).double().mean())
