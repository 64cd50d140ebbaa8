"""Replaces the encoder's linear layers by quantized ones, runs it, and has every layer judged."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from harness.compare import Comparison
from harness.emulation import emulate
from harness.launches import record_launches
from suites.e2e import sentences
from suites.e2e.judge import E2EResult, Layer, judge
from suites.e2e.nvfp4 import NVFP4
from suites.e2e.recipe import Scheme, compare_layer, relative_error
from suites.e2e.svdq import SVDQ

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from suites.e2e.model import Encoder

SCHEMES: Final = (SVDQ, NVFP4)


class NothingLaunched(RuntimeError):
    """The replaced layers ran without one launch: something else stood in for the kernels."""


def scheme_of(op: str) -> Scheme:
    """The scheme that runs ``op``; raises LookupError."""
    for scheme in SCHEMES:
        if op in scheme.ops:
            return scheme
    known = ", ".join(each for scheme in SCHEMES for each in scheme.ops)
    msg = f"op={op!r} is run by no layer of the encoder; those that are: {known}"
    raise LookupError(msg)


class HalfLayer(nn.Module):
    """A layer that runs in half precision inside a float32 model."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype

    def forward(self, x: Tensor, *routing: Tensor) -> Tensor:
        """Round ``x`` to the layer's dtype, run it, widen again."""
        result: Tensor = self.inner(x.to(self.dtype), *routing).to(x.dtype)
        return result


def quantize(
    encoder: Encoder,
    calibration: Sequence[str],
    *,
    scheme: Scheme,
    dtype: torch.dtype,
    backend: str = "triton",
    blocks: Collection[int] | None = None,
) -> Encoder:
    """A copy of ``encoder`` whose linear layers are replaced, made for ``calibration``.

    ``blocks`` are the transformer blocks, from 0, whose layers are replaced; None takes all.
    """
    spans = activation_spans(encoder, calibration)
    bert = copy.deepcopy(encoder.bert)
    for name, linear in encoder.linears().items():
        if blocks is not None and _block(name) not in blocks:
            continue
        layer = scheme.make(linear, spans[name], dtype=dtype, backend=backend)
        bert.set_submodule(name, HalfLayer(layer, dtype))
    return replace(encoder, bert=bert)


def _block(name: str) -> int:
    """The transformer block of a layer: 3 for ``encoder.layer.3.output.dense``."""
    return int(name.split(".")[2])


def activation_spans(encoder: Encoder, sentences: Sequence[str]) -> dict[str, Tensor]:
    """The largest magnitude of each input channel [K] of each linear layer."""
    spans: dict[str, Tensor] = {}

    def widen(name: str, x: Tensor) -> None:
        span = x.detach().abs().flatten(0, -2).amax(dim=0)
        spans[name] = torch.maximum(span, spans[name]) if name in spans else span

    with watched(encoder.linears(), lambda name, args, _: widen(name, args[0])):
        encoder.embed(sentences)
    return spans


@contextmanager
def watched(
    modules: Mapping[str, nn.Module], see: Callable[[str, tuple[Tensor, ...], Tensor], None]
) -> Iterator[None]:
    """Call ``see(name, arguments, output)`` after each forward pass of the modules."""
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: see(name, args, out))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class Trace:
    """What a layer was given and what it returned, batch after batch, on the CPU."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, output: Tensor) -> None:
        """Keep one forward pass, as rows."""
        self.inputs.append(x.detach().flatten(0, -2).cpu())
        self.outputs.append(output.detach().flatten(0, -2).cpu())


def evaluate(
    encoder: Encoder,
    corpus: sentences.Corpus,
    *,
    scheme: Scheme,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    calibration: Sequence[str] | None = None,
    blocks: Collection[int] | None = None,
    fault: Callable[[Encoder], None] | None = None,
) -> E2EResult:
    """Replace the layers, embed the sentences, and judge (``suites.e2e.judge``).

    On a CPU the kernels are emulated. ``calibration`` defaults to every eighth committed sentence.
    ``fault`` may damage the quantized encoder after its layers' states were noted down: what each
    layer should compute is taken from those.
    """
    sample = sentences.load().every(8) if calibration is None else calibration
    quantized = quantize(
        encoder, sample, scheme=scheme, dtype=dtype, backend=backend, blocks=blocks
    ).to(device)
    states = {name: _state(layer) for name, layer in replaced(quantized).items()}
    if fault is not None:
        fault(quantized)
    traces = {name: Trace() for name in states}
    running: AbstractContextManager[object] = emulate() if device.type == "cpu" else nullcontext()
    watching = watched(replaced(quantized), lambda name, args, y: traces[name].add(args[0], y))
    with running, record_launches() as launches, watching:
        actual = quantized.embed(corpus.sentences)
    if not launches:
        msg = f"backend={backend!r} launched nothing: a fallback computed this, not the kernels"
        raise NothingLaunched(msg)
    expected = encoder.to(device).embed(corpus.sentences)
    dense = encoder.linears()
    layers = [_judge(scheme, name, traces[name], states[name], dense[name]) for name in states]
    return judge(layers, actual, expected, corpus.pairs, limits=scheme.limits)


def check(
    encoder: Encoder,
    *,
    scheme: Scheme,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    fault: Callable[[Encoder], None] | None = None,
) -> E2EResult:
    """Evaluate as much as a minute allows: on a GPU every layer and every sentence."""
    emulated = device.type == "cpu"
    return evaluate(
        encoder,
        sentences.few(1) if emulated else sentences.load(),
        scheme=scheme,
        backend=backend,
        device=device,
        dtype=dtype,
        blocks=scheme.emulated_blocks if emulated else None,
        fault=fault,
    )


def replaced(encoder: Encoder) -> dict[str, nn.Module]:
    """The quantized layers of an encoder by the names of the dense ones."""
    modules = encoder.bert.named_modules()
    return {name: module.inner for name, module in modules if isinstance(module, HalfLayer)}


def _state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in layer.state_dict().items()}


def _judge(
    scheme: Scheme, name: str, trace: Trace, state: dict[str, Tensor], dense: nn.Linear
) -> Layer:
    limit = scheme.limits.format_error
    if not trace.inputs:
        return Layer(name, Comparison("ran", 0, message="it was never called"), math.nan, limit)
    x, output = torch.cat(trace.inputs), torch.cat(trace.outputs)
    product = nn.functional.linear(x.float(), dense.weight)  # without the bias, which hides error
    product_of_layer = output.float() - dense.bias
    comparison = compare_layer(scheme, state, x, output)
    return Layer(name, comparison, relative_error(product_of_layer, product), limit)


def misread_scale(encoder: Encoder, *, scheme: Scheme, layer: str) -> None:
    """Plant a fault: one layer reads weight scales of the place beside.

    Raises LookupError for a layer that was not replaced.
    """
    layers = replaced(encoder)
    if layer not in layers:
        msg = f"layer={layer!r} was not replaced; replaced: {', '.join(layers)}"
        raise LookupError(msg)
    scheme.misread(layers[layer])
