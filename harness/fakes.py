"""The fake_shape layer: the fake implementation says of a result exactly what the real one does."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness import device as devices
from harness.compare import same_bits
from harness.emulation import emulate
from harness.execute import build, name_outputs
from harness.launches import capture_launches, record_launches
from harness.reference import dtype_of, output_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.case import Case
    from harness.declare import Kernel, Op
    from harness.execute import Call
    from harness.probes import Probe

REFUSALS: Final = (TypeError, ValueError, NotImplementedError)
_OPCHECKS: Final = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


@dataclass(frozen=True)
class Shape:
    """What a tensor is, its values aside; ``alias`` names the input whose storage it shares."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    strides: tuple[int, ...]
    offset: int
    alias: str


def check_case(op: Op, kernel: Kernel, case: Case, device: torch.device) -> str:
    """Words for how fake, real and declared results differ on a legal case; empty if they agree."""
    call = build(op, case, device)
    real = _real(op, kernel, call, device)
    damage = next((g.stray_writes() for g in call.inputs.values() if g and g.stray_writes()), "")
    fake = _fake(op, kernel, call)
    if isinstance(real, Exception) or isinstance(fake, Exception):
        return f"a legal call: real {_said(real)}; fake {_said(fake)}"
    differing = [f"{n}: real {real[n]}, fake {fake[n]}" for n in op.outputs if real[n] != fake[n]]
    differing += _undeclared(op, case, fake)
    if damage:
        differing.append(f"the real one mutates an input, undeclared: {damage}")
    return "; ".join(differing)


def check_refusal(op: Op, kernel: Kernel, probe: Probe, device: torch.device) -> str:
    """Words if fake and real do not both accept, or both refuse with the same exception type."""
    call = probe.make()
    real, fake = _real(op, kernel, call, device), _fake(op, kernel, call)
    if isinstance(real, REFUSALS) and isinstance(fake, type(real)):
        return ""
    if not isinstance(real, Exception) and not isinstance(fake, Exception):
        return ""
    return f"real {_said(real)}; fake {_said(fake)}"


def check_opcheck(op: Op, kernel: Kernel, case: Case, device: torch.device) -> str:
    """Words of ``torch.library.opcheck`` if it refuses the operator that the kernel is made of."""
    calls = _operator_calls(kernel, build(op, case, device), device)
    if not calls:
        return f"{kernel.function.__name__} never calls {kernel.torch_op}"
    with ExitStack() as stack:
        _run_where_it_can(stack, device)
        for args, kwargs in calls:
            try:
                torch.library.opcheck(_operator(kernel), args, kwargs, test_utils=_asked(args))
            except Exception as error:  # noqa: BLE001 - whatever it says is the finding
                return f"opcheck: {type(error).__name__}: {error}"
    return ""


def _asked(args: Sequence[object]) -> tuple[str, ...]:
    """The checks of opcheck that can be made of a call with these arguments.

    ``test_schema`` looks for undeclared mutations and aliases by ``torch.allclose``, which no
    float8 has: there `check_case` alone, which compares bytes, asks for both.
    """
    tensors = [value for value in args if isinstance(value, Tensor)]
    if any(value.is_floating_point() and value.itemsize == 1 for value in tensors):
        return _OPCHECKS[1:]
    return _OPCHECKS


def check_name(op: Op, kernel: Kernel) -> str:
    """Words unless the module of the kernel has its fake under the name ``_fake_<op>``."""
    module = sys.modules[kernel.function.__module__]
    names = {f"_fake_{op.name}", f"_fake_{kernel.function.__name__}"}
    if any(callable(getattr(module, name, None)) for name in names):
        return ""
    return f"{module.__name__} has no function {' or '.join(sorted(names))}; name the fake so"


def check_traces(op: Op, kernel: Kernel, case: Case, device: torch.device) -> str:
    """Words unless the kernel can be traced with symbolic sizes.

    ``torch.compile(fullgraph=True)`` must give the bits of eager, and ``torch.export`` must pass.
    """
    call = build(op, case, device)
    tensors = {name: t for name, t in call.tensors.items() if t is not None}
    module, values = _Wrapped(kernel.function, tuple(tensors), call.keywords), tensors.values()
    with ExitStack() as stack, torch.no_grad():
        _run_where_it_can(stack, device)
        torch.compiler.reset()
        try:
            eager = name_outputs(op, module(*values))
            compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
            traced = name_outputs(op, compiled(*values))
            dynamic = {"values": tuple([torch.export.Dim.AUTO] * value.ndim for value in values)}
            torch.export.export(module, tuple(values), dynamic_shapes=dynamic)
        except Exception as error:  # noqa: BLE001 - whatever it says is the finding
            return f"does not trace: {type(error).__name__}: {error}"
    wrong = [n for n in op.outputs if not same_bits(eager[n], traced[n])]
    return f"compiled differs from eager in {', '.join(wrong)}" if wrong else ""


class _Listen(TorchDispatchMode):
    """Keeps the arguments with which one operator is called."""

    def __init__(self, wanted: torch._ops.OpOverload) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted = wanted
        self.calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is self._wanted:
            self.calls.append((args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Wrapped(torch.nn.Module):
    """A kernel as a module, as ``torch.export`` wants it."""

    def __init__(
        self,
        function: Callable[..., object],
        names: tuple[str, ...],
        keywords: Mapping[str, object],
    ) -> None:
        super().__init__()
        self._function = function
        self._names = names
        self._keywords = dict(keywords)

    def forward(self, *values: Tensor) -> object:
        return self._function(**dict(zip(self._names, values, strict=True)), **self._keywords)


def _real(op: Op, kernel: Kernel, call: Call, device: torch.device) -> dict[str, Shape] | Exception:
    with ExitStack() as stack, torch.no_grad():
        if device.type == "cpu":
            # A result's metadata come from the host code alone, so no launch is interpreted.
            stack.enter_context(devices.pretend(kernel.archs[0]))
            stack.enter_context(capture_launches())
        try:
            outputs = name_outputs(op, kernel.function(**call.arguments))
            devices.synchronize(device)
        except Exception as error:  # noqa: BLE001 - whatever it says is the finding
            return error
    return _shapes(outputs, call.tensors)


def _fake(op: Op, kernel: Kernel, call: Call) -> dict[str, Shape] | Exception:
    mode = FakeTensorMode()
    with mode, ExitStack() as stack, torch.no_grad():
        stack.enter_context(emulate())
        faked = {
            name: mode.from_tensor(value) if isinstance(value, Tensor) else value
            for name, value in call.arguments.items()
        }
        try:
            outputs = name_outputs(op, kernel.function(**faked))
        except Exception as error:  # noqa: BLE001 - whatever it says is the finding
            return error
        inputs = {name: faked[name] for name in call.tensors}
        return _shapes(outputs, inputs)


def _shapes(outputs: Mapping[str, Tensor], inputs: Mapping[str, object]) -> dict[str, Shape]:
    storages = {t.untyped_storage()._cdata: n for n, t in inputs.items() if isinstance(t, Tensor)}
    return {
        name: Shape(
            tuple(t.shape),
            t.dtype,
            str(t.device),
            tuple(t.stride()),
            int(t.storage_offset()),
            storages.get(t.untyped_storage()._cdata, ""),
        )
        for name, t in outputs.items()
    }


def _undeclared(op: Op, case: Case, found: Mapping[str, Shape]) -> list[str]:
    dtype, params = dtype_of(case.dtype), op.param_values(dict(case.params))
    wrong = []
    for name, spec in op.outputs.items():
        declared = (spec.dims(case.size_of), output_dtype(spec, dtype, params))
        if (found[name].shape, found[name].dtype) != declared:
            wrong.append(f"{name}: {found[name].shape} {found[name].dtype}, declared {declared}")
    return wrong


def _operator(kernel: Kernel) -> torch._ops.OpOverload:
    namespace, _, name = str(kernel.torch_op).partition("::")
    operator: torch._ops.OpOverload = getattr(getattr(torch.ops, namespace), name).default
    return operator


def _operator_calls(
    kernel: Kernel, call: Call, device: torch.device
) -> list[tuple[tuple[object, ...], dict[str, object]]]:
    """Arguments with which the public function calls its operator."""
    listener = _Listen(_operator(kernel))
    with ExitStack() as stack, torch.no_grad():
        _run_where_it_can(stack, device)
        stack.enter_context(listener)
        kernel.function(**call.arguments)
    return listener.calls


def _run_where_it_can(stack: ExitStack, device: torch.device) -> None:
    if device.type == "cpu":
        stack.enter_context(emulate())
    stack.enter_context(record_launches())


def _said(outcome: Mapping[str, Shape] | Exception) -> str:
    if isinstance(outcome, Exception):
        return f"raises {type(outcome).__name__}: {outcome}"
    return "accepts"
