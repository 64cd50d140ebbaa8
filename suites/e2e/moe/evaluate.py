"""Replaces the transformer's layers by those in NVFP4, runs it, and has every part judged."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from harness.budget import Budget, Term
from harness.compare import Comparison, compare
from harness.emulation import emulate
from harness.launches import record_launches
from kernels.nvfp4 import moe as experts
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.moe import NVFP4MoE
from suites.e2e.evaluate import NothingLaunched, watched
from suites.e2e.judge import Bound
from suites.e2e.moe import judge, model, recipe
from suites.e2e.moe.judge import Figure, MoEResult, Part
from suites.e2e.moe.model import Experts, Transformer
from suites.e2e.moe.runs import Call, Run, alone, led_and_free, replaced, replaced_layers, run
from suites.e2e.moe.simulation import Simulated
from suites.e2e.recipe import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from suites.e2e.moe.recipe import State

OPS: Final = ("nvfp4_quantize", "nvfp4_gemm", *experts.OPS)
ARGUMENTS: Final = ("input", "weights")  # and, here, the dense twin's experts
BETWEEN: Final = Term(
    relative=2**-16,
    because="norms, softmax, routing and sums of a few hundred terms in float32, relative to the "
    "largest of a row: 256 units of roundoff",
)


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


def quantize(made: Setting, *, backend: str) -> Transformer:
    """The transformer with its layers in NVFP4.

    Where the experts have no backend of that name, theirs is Triton.
    """
    of_experts = backend if backend in experts.BACKENDS else "triton"

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
