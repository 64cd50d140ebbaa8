"""Execution of one kernel on one case in guarded, poisoned memory; what happened, classified."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness import device as devices
from harness import provenance
from harness.buffers import POISONS, Guarded, PoisonedAllocations, guard_input
from harness.case import DEFAULT
from harness.emulation import emulate
from harness.launches import record_launches
from harness.reference import dtype_of
from harness.triton_cache import compiling_once
from harness.values import make

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.case import Case
    from harness.declare import Kernel, Op
    from harness.launches import Launch


@dataclass(frozen=True)
class Observation:
    """What a call did: outputs by name or the exception, its launches, and damage to memory.

    ``doubt`` says why the launches do not show that the kernel computed the outputs.
    """

    outputs: Mapping[str, Tensor]
    error: Exception | SystemExit | None
    launches: tuple[Launch, ...]
    damage: str
    poison: str
    doubt: str = ""


@dataclass(frozen=True)
class Call:
    """Arguments of one call: guarded inputs by name (None where left out) and the rest."""

    inputs: Mapping[str, Guarded | None]
    keywords: Mapping[str, object]

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """The inputs as the kernel gets them."""
        return {name: g.tensor if g else None for name, g in self.inputs.items()}

    @property
    def arguments(self) -> dict[str, object]:
        """All arguments by name; a keyword replaces an input of its name."""
        return {**self.tensors, **self.keywords}


def generator(case: Case, name: str) -> torch.Generator:
    """The generator of one input: from the case's seed and the input's name, nothing else."""
    digest = hashlib.blake2b(f"{case.seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def build(op: Op, case: Case, device: torch.device) -> Call:
    """The arguments of ``case``; every input has its layout, or the first alone.

    The seed decides: under an even one all inputs but the first are contiguous, so that a failure
    shrinks to a single odd layout.
    """
    inputs: dict[str, Guarded | None] = {}
    first = next(iter(op.inputs))
    for name, spec in op.inputs.items():
        if spec.optional in case.without:
            inputs[name] = None
            continue
        dtype = dtype_of(spec.dtype or case.dtype)
        values = make(op, name, case, dtype, generator(case, name))
        layout = case.layout if name == first or case.seed % 2 else "contiguous"
        inputs[name] = guard_input(name, values, layout, device)
    config = {} if case.config == DEFAULT else {"config": case.config}
    return Call(inputs, {**op.param_values(dict(case.params)), **config})


def execute(op: Op, kernel: Kernel, case: Case, device: torch.device) -> tuple[Call, Observation]:
    """Run ``kernel`` on ``case`` on ``device``; the CPU means emulation. Never raises for it."""
    call = build(op, case, device)
    poison = POISONS[case.seed % len(POISONS)]
    return call, observe(op, kernel, call, device, poison=poison)


def observe(
    op: Op, kernel: Kernel, call: Call, device: torch.device, *, poison: str = POISONS[0]
) -> Observation:
    """Call the kernel in poisoned memory; check guards and inputs afterwards."""
    outputs: dict[str, Tensor] = {}
    error: Exception | SystemExit | None = None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if device.type == "cpu":
            stack.enter_context(emulate())
        stack.enter_context(compiling_once())
        launches = stack.enter_context(record_launches())
        trail = provenance.Trail(launches)
        memory = stack.enter_context(PoisonedAllocations(device, poison, trail))
        try:
            outputs = name_outputs(op, kernel.function(**call.arguments))
            devices.synchronize(device)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - classified by the caller, never swallowed
            error = raised
    damage = [g.stray_writes() for g in call.inputs.values() if g is not None]
    found = next((words for words in (*damage, memory.stray_writes()) if words), "")
    doubt = provenance.doubt(kernel, launches) or trail.doubt(kernel, outputs)
    return Observation(outputs, error, tuple(launches), found, poison, doubt)


def name_outputs(op: Op, result: object) -> dict[str, Tensor]:
    """The tensors that a kernel returned, by the op's output names; raises TypeError otherwise."""
    values = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(values) != len(op.outputs) or not all(isinstance(v, Tensor) for v in values):
        kinds = ", ".join(type(value).__name__ for value in values)
        msg = f"the kernel returned ({kinds}); {op.name} has the outputs {list(op.outputs)}"
        raise ReturnedWrongKind(msg)
    return dict(zip(op.outputs, values, strict=True))


class ReturnedWrongKind(RuntimeError):
    """A kernel returned another number of values than its op has outputs, or no tensors."""
