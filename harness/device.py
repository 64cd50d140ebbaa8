"""The only questions asked of ``torch.cuda``: which arch a device is, and making it current."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.arch import CPU, UnsupportedArch, admits
from harness.emulation import is_active

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

_pretended: ContextVar[str | None] = ContextVar("pretended_arch", default=None)


@contextmanager
def pretend(arch: str) -> Iterator[None]:
    """Within the scope every device counts as ``arch``: refusals can be asked for anywhere."""
    token = _pretended.set(arch)
    try:
        yield
    finally:
        _pretended.reset(token)


def arch_of(device: torch.device) -> str:
    """The arch of ``device``: the pretended one, ``sm90`` and so on for CUDA, else ``cpu``."""
    if pretended := _pretended.get():
        return pretended
    if device.type != "cuda":
        return CPU
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def require_arch(device: torch.device, claim: str) -> str:
    """The arch of ``device`` if ``claim`` covers it or it is emulated.

    Raises UnsupportedArch for an arch outside the claim, and ValueError for a device that is no
    GPU while nothing emulates one.
    """
    arch = arch_of(device)
    if arch == CPU:
        if is_active() and device.type == "cpu":
            return arch
        msg = f"device={str(device)!r} is not a CUDA device; move the tensors to one with .cuda()"
        raise ValueError(msg)
    if not admits(claim, arch):
        msg = f"arch={arch!r} is not supported; this kernel claims {claim!r}; use another backend"
        raise UnsupportedArch(msg)
    return arch


def present_archs() -> tuple[str, ...]:
    """Archs of the CUDA devices of this machine, each once; empty without a usable GPU."""
    import torch

    if not torch.cuda.is_available():
        return ()
    devices = range(torch.cuda.device_count())
    return tuple(dict.fromkeys(arch_of(torch.device("cuda", i)) for i in devices))


def first_device(arch: str) -> torch.device:
    """The first CUDA device of ``arch``, the CPU for ``cpu``; raises UnsupportedArch if absent."""
    import torch

    if arch == CPU:
        return torch.device("cpu")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if arch_of(torch.device("cuda", index)) == arch:
            return torch.device("cuda", index)
    msg = f"arch={arch!r} is not on this machine; it has {', '.join(present_archs()) or 'no GPU'}"
    raise UnsupportedArch(msg)


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` current for a launch (Triton and CUDA launch on the current device)."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


def synchronize(device: torch.device) -> None:
    """Wait for ``device``, so that an asynchronous fault surfaces here and not in a neighbour."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def describe(device: torch.device) -> dict[str, str]:
    """Name, driver and CUDA version of ``device`` for a record."""
    import torch

    if device.type != "cuda":
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "cuda": torch.version.cuda or "", "driver": _driver()}


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii") as file:  # noqa: PTH123
            return file.readline().split("x86_64")[-1].split()[0]
    except (OSError, IndexError):
        return "unknown"


def replay(
    function: Callable[[], Tensor], inputs: Sequence[Tensor], device: torch.device
) -> Replay:
    """Capture ``function``, which reads ``inputs`` in place, into a CUDA graph after a warm-up."""
    import torch

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()
    return Replay(graph, tuple(inputs), output)


@dataclass(frozen=True)
class Replay:
    """A captured graph; calling it replaces the contents of its inputs and replays."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def __call__(self, *values: Tensor) -> Tensor:
        """The output for ``values``, as a tensor of its own."""
        for place, value in zip(self.inputs, values, strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.output.clone()
