"""A module with a planted fault fails the check that is made for it, in words that point there."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from harness import layers, modules
from harness.cells import Layer
from harness.declare import Kernel
from harness.launches import Launch, report_launch
from harness.subjects import Sample, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU = torch.device("cpu")


@torch.library.custom_op("parity_meta::scale_rows", mutates_args=())
def scale_rows(x: Tensor, weight: Tensor) -> Tensor:
    report_launch(Launch("triton", "scale_rows", __name__, None, (1,), {}))
    return x * weight


@scale_rows.register_fake
def _fake_scale_rows(x: Tensor, weight: Tensor) -> Tensor:
    del weight
    return torch.empty_like(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's context
    x, weight = ctx.saved_tensors
    return grad * weight, (grad * x).sum(0)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401 - as above
    del output
    ctx.save_for_backward(*inputs)


scale_rows.register_autograd(_backward, setup_context=_keep)


class Scale(nn.Module):
    """Scales and shifts columns; the sound module that each fault is a change of."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 5.0))
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = scale_rows(x, self.weight) + self.shift
        return result


class Wrong(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.01


class Reshaped(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten()


class FallsBack(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.shift


class RunsAnother(Scale):
    def forward(self, x: Tensor) -> Tensor:
        report_launch(Launch("triton", "scale_rows", "their.kernels", None, (1,), {}))
        return x * self.weight + self.shift


class DropsAKey(Scale):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", self.shift, persistent=False)


class RenamesAKey(Scale):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", self.shift)
        del self.shift

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = scale_rows(x, self.weight) + self.offset
        return result


class ForgetsOnLoading(Scale):
    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        super()._load_from_state_dict({**state, "shift": state["shift"] + 1}, prefix, *rest)


class CompilesToAnother(Scale):
    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x)
        return result + 1 if torch.compiler.is_compiling() else result


class BreaksTheGraph(Scale):
    def forward(self, x: Tensor) -> Tensor:
        # Not as a decorator: that would import all of torch's compiler while collecting.
        result: Tensor = torch.compiler.disable(super().forward)(x)
        return result


class StopsGradients(Scale):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = scale_rows(x, self.weight.detach()) + self.shift
        return result


class BlowsGradientsUp(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x - x).sqrt()


@dataclass(frozen=True)
class Fault:
    """A faulty module, the check that must fail, and what it must say."""

    module: type[Scale]
    check: str
    says: str


FAULTS = (
    Fault(Wrong, "dense", "relative L2 0.01 from the dense twin; at most 1e-06, one rounding"),
    Fault(Reshaped, "dense", "shape (12,), dense (3, 4)"),
    Fault(FallsBack, "dense", "no launch was seen: a fallback computed this, not the kernel"),
    Fault(RunsAnother, "dense", "launched triton:their.kernels.scale_rows and nothing of backend="),
    Fault(DropsAKey, "state", "state keys ('weight',), promised ('weight', 'shift')"),
    Fault(RenamesAKey, "state", "state keys ('weight', 'offset'), promised ('weight', 'shift')"),
    Fault(ForgetsOnLoading, "state", "a copy with the reloaded state computes other bits"),
    Fault(CompilesToAnother, "compiled", "torch.compile(fullgraph=True) differs from eager"),
    Fault(BreaksTheGraph, "compiled", "raised Unsupported"),
    Fault(StopsGradients, "gradients", "no finite gradient for weight"),
    Fault(BlowsGradientsUp, "gradients", "no finite gradient for input 0"),
)


def declared(implementation: str) -> Kernel:
    """The kernel that the modules here are over, by the name that it would have."""
    return Kernel(
        name=f"scale.{implementation}",
        op="scale",
        backend=implementation.partition(".")[0],
        arch="sm90",
        function=Scale.forward,
        torch_op=None,
        configs=(),
        accumulates="fp32",
        layouts=(),
        instructions={},
        spills={},
        emulated=False,
        deterministic=True,
        place="",
    )


def findings(made: type[Scale]) -> Mapping[str, str]:
    """What every check of the module layer says about a module, by the check's last word."""

    def build(
        *, backend: str, dtype: torch.dtype, device: torch.device, generator: torch.Generator
    ) -> Sample:
        assert (backend, dtype, device) == ("triton", torch.float32, CPU)
        return Sample(
            module=made(),
            inputs=(torch.randn(3, 4, generator=generator),),
            dense=lambda x: x.double() * torch.arange(1.0, 5.0) + torch.arange(4.0),
            tolerance=1e-6,
            because="one rounding",
            state_keys=("weight", "shift"),
            gradients=True,
        )

    subject = Subject("scale", ("double",), Layer.MODULE, ("float32",), build, "here")
    checks = modules.checks(subject, kernel=declared("triton"), dtype="float32", device=CPU, seed=0)
    found = {}
    for name, check in checks.items():
        subject_name, dtype, last = name.split("-")
        assert (subject_name, dtype) == ("scale", "float32")
        try:
            found[last] = check()
        except Exception as error:  # noqa: BLE001 - a check that raises has failed, as in a suite
            found[last] = f"raised {type(error).__name__}: {error}"
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.module.__name__)
def test_a_faulty_module_fails_its_check(fault: Fault) -> None:
    red = {name: words for name, words in findings(fault.module).items() if words}
    assert list(red) == [fault.check]
    assert red[fault.check].startswith(fault.says)


def test_a_sound_module_passes_every_check() -> None:
    assert findings(Scale) == {"dense": "", "state": "", "compiled": "", "gradients": ""}


@pytest.mark.parametrize("told", ["cuda", "cuda.split"])
def test_a_module_is_told_which_variant_is_under_test(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    asked = list[str]()

    def checks(_: object, *, kernel: Kernel, **__: object) -> dict[str, object]:
        asked.append(kernel.implementation)
        return {}

    monkeypatch.setattr(modules, "checks", checks)
    check: Any = SimpleNamespace(
        kernel=declared(told),
        subjects=[SimpleNamespace(dtypes=("float32",))],
        device=CPU,
        settings=SimpleNamespace(seed=0),
        each=lambda probes: probes,
    )
    layers.is_its_dense_twin_however_it_runs(check)
    assert asked == [told]
