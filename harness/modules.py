"""The module layer: a module over ops against its dense twin, its state, and its ways to run."""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save

from harness import device as devices
from harness import provenance
from harness.compare import same_bits
from harness.emulation import emulate
from harness.launches import record_launches
from harness.reference import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.declare import Kernel
    from harness.launches import Launch
    from harness.subjects import Sample, Subject


def checks(
    subject: Subject, *, kernel: Kernel, dtype: str, device: torch.device, seed: int
) -> dict[str, Callable[[], str]]:
    """Every check of a module over ``kernel`` by name; each says what is wrong, or nothing."""

    def sample() -> Sample:
        generator = torch.Generator().manual_seed(seed)
        made: Sample = subject.build(  # type: ignore[assignment]
            backend=kernel.implementation, dtype=dtype_of(dtype), device=device, generator=generator
        )
        return made

    found: dict[str, Callable[[], str]] = {
        "dense": lambda: _against_dense(sample(), kernel, device),
        "state": lambda: _state(sample(), device),
        "compiled": lambda: _compiled(sample(), device),
    }
    if device.type == "cuda":
        found["graph"] = lambda: _graph(sample(), device)
    if sample().gradients:
        found["gradients"] = lambda: _gradients(sample(), device)
    return {f"{subject.name}-{dtype}-{name}": check for name, check in found.items()}


def _forward(sample: Sample, device: torch.device) -> tuple[Tensor, list[Launch]]:
    with ExitStack() as stack, torch.no_grad():
        launches = _enter(stack, device)
        output = sample.module(*sample.inputs)
        devices.synchronize(device)
    return output, launches


def _against_dense(sample: Sample, kernel: Kernel, device: torch.device) -> str:
    output, launches = _forward(sample, device)
    expected = sample.dense(*sample.inputs)
    if output.shape != expected.shape:
        return f"shape {tuple(output.shape)}, dense {tuple(expected.shape)}"
    if words := provenance.doubt(kernel, launches):
        return words
    error = float((output.double() - expected).norm() / expected.norm())
    if error <= sample.tolerance:
        return ""
    bound = f"at most {sample.tolerance:.3g}, {sample.because}"
    return f"relative L2 {error:.3g} from the dense twin; {bound}"


def _state(sample: Sample, device: torch.device) -> str:
    """The promised keys, the same bytes through safetensors, the same bits after a reload."""
    state = sample.module.state_dict()
    if tuple(state) != sample.state_keys:
        return f"state keys {tuple(state)}, promised {sample.state_keys}"
    written = save({name: value.contiguous() for name, value in state.items()})
    loaded = load(written)
    if save(loaded) != written:
        return "the state changes its bytes on the way through safetensors"
    before, _ = _forward(sample, device)
    copied = deepcopy(sample.module)
    for value in copied.state_dict().values():
        value.zero_()
    copied.load_state_dict(loaded)
    after, _ = _forward(replace(sample, module=copied), device)
    return "" if same_bits(after, before) else "a copy with the reloaded state computes other bits"


def _compiled(sample: Sample, device: torch.device) -> str:
    """Eager and compiled with the whole graph captured give the same bits."""
    eager, _ = _forward(sample, device)
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(sample.module, fullgraph=True, backend=backend)
    with ExitStack() as stack, torch.no_grad():
        _enter(stack, device)
        output = compiled(*sample.inputs)
    return "" if same_bits(output, eager) else "torch.compile(fullgraph=True) differs from eager"


def _graph(sample: Sample, device: torch.device) -> str:
    """A CUDA graph, replayed on other inputs than it was captured with, gives the bits of eager."""
    places = tuple(value.clone() for value in sample.inputs)
    with torch.no_grad():
        replay = devices.replay(lambda: (sample.module(*places),), places, device)
        for changed in (sample.inputs, tuple(value.flip(0) for value in sample.inputs)):
            (replayed,) = replay(*changed)
            if not same_bits(replayed, sample.module(*changed)):
                return "a CUDA graph's replay differs from eager"
    return ""


def _gradients(sample: Sample, device: torch.device) -> str:
    """Backward reaches every parameter and input, with finite values."""
    leaves = [value.detach().requires_grad_() for value in sample.inputs]
    with ExitStack() as stack:
        _enter(stack, device)
        sample.module(*leaves).sum().backward()
    named = [*sample.module.named_parameters(), *((f"input {i}", v) for i, v in enumerate(leaves))]
    missing = [
        name for name, value in named if value.grad is None or not value.grad.isfinite().all()
    ]
    return f"no finite gradient for {', '.join(missing)}" if missing else ""


def _enter(stack: ExitStack, device: torch.device) -> list[Launch]:
    if device.type == "cpu":
        stack.enter_context(emulate())
    return stack.enter_context(record_launches())
