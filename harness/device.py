"""The only questions asked of ``torch.cuda``: which arch a device is, and making it current."""

from __future__ import annotations

import os
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.arch import CPU, UnsupportedArch, admits
from harness.emulation import is_active
from harness.machine import ROOMS, VISIBLE, names_of
from harness.workers import Place, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

_pretended: ContextVar[str | None] = ContextVar("pretended_arch", default=None)
_bounded: Final[set[int]] = set()  # indices of devices whose bound torch knows
_USUAL_MULTIPROCESSORS: Final = 132
_PROBE: Final = 0x5A5A
_DELAY: Final = 40_000_000  # clock cycles, about 20 ms: longer than the host takes to launch


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


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a CUDA ``device`` has; those of an H100 for what stands for one."""
    if device.type != "cuda":
        return _USUAL_MULTIPROCESSORS
    import torch

    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def is_capturing() -> bool:
    """Whether the current stream records a CUDA graph, which may not load machine code."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def present_archs() -> tuple[str, ...]:
    """Archs of the CUDA devices of this machine, each once; empty without a usable GPU."""
    import torch

    if not torch.cuda.is_available():
        return ()
    devices = range(torch.cuda.device_count())
    return tuple(dict.fromkeys(arch_of(torch.device("cuda", i)) for i in devices))


def described() -> dict[str, dict[str, str]]:
    """What ``describe`` says of the first device of each arch that is on this machine."""
    return {arch: describe(first_device(arch)) for arch in present_archs()}


def visible(arch: str) -> tuple[str, ...]:
    """The CUDA devices of ``arch`` by the names that ``see_only`` takes; none for ``cpu``."""
    if arch == CPU:
        return ()
    indices = [device.index for device in _of_arch(arch)]
    names = names_of(os.environ)
    return tuple(names[index] if names else str(index) for index in indices)


def see_only(name: str) -> None:
    """Hide all CUDA devices but one from this process, in which CUDA must not have started.

    For processes that share a machine, a GPU each. Raises RuntimeError if it is too late.
    """
    take(Place((name,)))


def take(place: Place) -> None:
    """Let this process and its children have a place: which devices they see, and how much of each.

    CUDA must not have started. Raises RuntimeError if it is too late.
    """
    torch = sys.modules.get("torch")  # without it, CUDA cannot have started here
    if torch is not None and torch.cuda.is_initialized():
        name = ",".join(place.names)
        msg = f"device={name!r} cannot be the only one: CUDA runs in this process; choose it before"
        raise RuntimeError(msg)
    for name in (VISIBLE, ROOMS) if place.names else (ROOMS,):
        os.environ.pop(name, None)
    os.environ.update(environment(place))


def room() -> int | None:
    """Bytes that this process may hold of any device that it was given; None without a bound.

    Asks no device: so the same cases are drawn in a process that has none.
    """
    return min(_rooms(), default=None)


def _rooms() -> tuple[int, ...]:
    return tuple(map(int, filter(None, os.environ.get(ROOMS, "").split(","))))


def _bounded_by_its_room(device: torch.device) -> torch.device:
    """Tell torch's allocator the bound of a device, when that is first used."""
    import torch

    rooms = _rooms()
    if device.index < len(rooms) and device.index not in _bounded:
        memory = torch.cuda.get_device_properties(device).total_memory
        fraction = min(1.0, rooms[device.index] / memory)
        torch.cuda.set_per_process_memory_fraction(fraction, device)
        _bounded.add(device.index)
    return device


def held() -> int:
    """Bytes that torch's allocator has held at most, of the device of which it held the most."""
    import torch

    if not torch.cuda.is_initialized():
        return 0
    return max(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())), default=0)


def first_device(arch: str) -> torch.device:
    """The first CUDA device of ``arch``; the CPU for ``cpu``.

    Raises UnsupportedArch if there is none.
    """
    import torch

    if arch == CPU:
        return torch.device("cpu")
    if found := _of_arch(arch):
        return _bounded_by_its_room(found[0])
    msg = f"arch={arch!r} is not on this machine; it has {', '.join(present_archs()) or 'no GPU'}"
    raise UnsupportedArch(msg)


def twins(device: torch.device) -> tuple[torch.device, ...]:
    """Other CUDA devices of the arch of ``device`` that this process may use."""
    if device.type != "cuda":
        return ()
    others = (other for other in _of_arch(arch_of(device)) if other != device)
    return tuple(map(_bounded_by_its_room, others))


def _of_arch(arch: str) -> list[torch.device]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.device("cuda", index) for index in range(count)]
    return [device for device in found if arch_of(device) == arch]


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` current for a launch (Triton and CUDA launch on the current device)."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


def current_stream(device: torch.device) -> int:
    """The handle of the stream that torch launches on, of a CUDA ``device``."""
    import torch

    return int(torch.cuda.current_stream(device).cuda_stream)


def synchronize(device: torch.device) -> None:
    """Wait for ``device``, so that an asynchronous fault surfaces here and not in a neighbour."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def fault_of(device: torch.device) -> str:
    """What is wrong with a CUDA ``device``'s context, or nothing: it is asked to write and read.

    After an illegal access, a trap or a failed assertion every call of that process fails.
    """
    if device.type != "cuda":
        return ""
    import torch

    try:
        torch.cuda.synchronize(device)
        read = torch.full((1,), _PROBE, dtype=torch.int32, device=device).item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return "" if read == _PROBE else f"{_PROBE} was written to {device}, and {read} read back"


def has_gpu() -> bool:
    """Whether a CUDA device may be used here; makes no context."""
    import torch

    return torch.cuda.is_available()


def executed_kernels(function: Callable[[], object], device: torch.device) -> tuple[str, ...]:
    """Names of the kernels that run on a CUDA ``device`` meanwhile, as CUPTI saw them.

    There are none where that is not available, or may not be used by this process.
    """
    import torch

    if device.type != "cuda":
        function()
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler's own doings
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            function()
            torch.cuda.synchronize(device)
        names = {event.name for event in seen.events() if event.device_type.name == "CUDA"}
    return tuple(sorted(n for n in names if not n.startswith(("Memcpy", "Memset"))))


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


@contextmanager
def late_stream(device: torch.device) -> Iterator[None]:
    """Make a stream current on which work of the scope starts some 20 ms after it was launched.

    What is launched on any other stream meanwhile runs before it. Everything has run at the end.
    """
    import torch

    stream = torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(_DELAY)  # noqa: SLF001 - no public spelling
            yield
    finally:
        torch.cuda.synchronize(device)


def replay(
    function: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor], device: torch.device
) -> Replay:
    """Capture ``function``, which reads ``inputs`` in place, into a CUDA graph after a warm-up."""
    import torch

    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = tuple(function())
    return Replay(graph, tuple(inputs), outputs)


@dataclass(frozen=True)
class Replay:
    """A captured graph; calling it replaces the contents of its inputs and replays."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs for ``values``, as tensors of their own."""
        for place, value in zip(self.inputs, values, strict=True):
            place.copy_(value)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


def elapsed(
    function: Callable[[], object], device: torch.device, *, repeats: int = 30
) -> list[float]:
    """Seconds that ``function`` takes on ``device`` in each of some runs, by CUDA events.

    Before each run a large buffer is read: that leaves nothing of the inputs in the cache, nor
    anything that must be written back while the clock runs, and keeps the device busy while the
    host launches what is measured. On the CPU, by the clock.
    """
    import torch

    if device.type != "cuda":
        return [_by_clock(function) for _ in range(repeats)]
    times = []
    with torch.cuda.device(device):
        flush = torch.zeros(1 << 28, device=device)
        function()
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.amax()
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
    return times


def _by_clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``function`` allocates on a CUDA ``device`` at most at any one time."""
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
