"""A kernel of machine code, compiled and loaded by its first launch, and launched as declared.

Whatever language it is written in: CUDA C++ (`harness.nvrtc`) or the CuTe DSL (`harness.cutedsl`).
Importing this imports neither cuda nor torch.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, Protocol

from harness import artifact, backends, device, kernel_arguments
from harness.launches import Launch, report_launch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch

    from harness.cubins import Binary
    from harness.kernel_arguments import Kind

    Host = Callable[[Sequence[Any], int], None]  # launches with values on a stream

__all__ = ["Function", "LaunchedTooLate", "Source", "compile_launch"]

# What launches the machine code of a language. That of the CuTe DSL needs no NVRTC.
_LAUNCHERS: Final = {"cuda": "cuda", "cutedsl": "cuda-core"}


class Source(Protocol):
    """One kernel, in the language of a backend, as text; equal sources give the same code."""

    @property
    def backend(self) -> str:
        """The backend whose language it is."""

    @property
    def name(self) -> str:
        """The name of its file, for reports."""

    @property
    def kernel(self) -> str:
        """What it is called in its language."""

    def compile(self, arch: str, *, folder: Path | None) -> Binary:
        """Machine code for an arch, kept in ``folder``; see `nvrtc.compile_source`."""

    def host(self, arch: str) -> Host | None:
        """What launches it with values on a stream, if host code of its own has to."""


class LaunchedTooLate(RuntimeError):
    """A kernel was first launched while a CUDA graph was recorded, when it cannot be loaded."""

    def __init__(self, kernel: str) -> None:
        super().__init__(
            f"{kernel} is launched for the first time while a CUDA graph is recorded, and cannot "
            f"be loaded then; call `load`, or make the same call once, before the capture"
        )


class _Loaded:
    """A kernel on one device, with the dynamic shared memory that it was allowed so far."""

    def __init__(self, kernel: Any, host: Host | None) -> None:
        self.kernel = kernel
        self.host = host
        self.allowed = 0


@dataclass(frozen=True, eq=False)
class Function:
    """A kernel that is compiled and loaded when it is first launched on a device.

    ``parameters`` are the kernel's, in order; see `harness.kernel_arguments.Kind`. ``module`` is
    who it belongs to, for reports: ``__name__``.
    """

    source: Source
    parameters: Mapping[str, Kind]
    module: str
    folder: Path | None = None
    _loaded: dict[tuple[int, str], _Loaded] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, kind in self.parameters.items():
            kernel_arguments.check_kind(name, kind)

    @property
    def name(self) -> str:
        """The kernel's name in its language: in C++ with its template arguments."""
        return self.source.kernel

    def launch(
        self,
        *arguments: object,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        cluster: int | Sequence[int] | None = None,
        overlaps: bool = False,
        shared_bytes: int = 0,
        stream: int | None = None,
    ) -> None:
        """Launch on the tensors' device, on its current stream or the one of that handle.

        ``grid`` counts blocks, also where several are a ``cluster``. A kernel that ``overlaps`` may
        start before the one ahead of it is complete (programmatic stream serialization), and has
        to wait for it itself, by ``griddepcontrol.wait``, before it touches memory. Both need sm90.

        Open scopes of `harness.launches` see it first; one that captures keeps it from being
        compiled, loaded or executed, so that it needs no GPU there.

        Raises:
            TypeError: an argument of another type or dtype than declared, or their number.
            ValueError: a value, a grid or a block out of range; tensors on no or several GPUs.
            BackendMissing: see `Source.compile`, as CompileFailed.
            LaunchedTooLate: a CUDA graph is being recorded, and the kernel is not loaded yet.
        """
        values = self._values(arguments)
        shape = kernel_arguments.extents(self.name, grid, block, cluster)
        launch = Launch(
            backend=self.source.backend,
            name=self.name,
            module=self.module,
            function=self,
            grid=shape["grid"],
            arguments=dict(zip(self.parameters, arguments, strict=True)),
            options={
                "block": shape["block"],
                "cluster": shape["cluster"],
                "overlaps": overlaps,
                "shared_bytes": shared_bytes,
            },
        )
        where = _device_of(self.name, values) if report_launch(launch) else None
        if where is None:
            return
        core = backends.require(_LAUNCHERS[self.source.backend])
        config = _launch_config(core, launch)
        with device.on(where):
            # In a thread that has not used CUDA yet, torch makes its device current too late.
            core.Device(where.index).set_current()
            loaded = self._load(where, core)
            handle = device.current_stream(where) if stream is None else stream
            if loaded.host is not None:
                loaded.host(values, handle)
                return
            self._allow(loaded, shared_bytes, where)
            stream_of_torch = core.Stream.from_handle(handle)
            core.launch(stream_of_torch, config, loaded.kernel, *map(_passed, values))

    def load(self, where: torch.device) -> None:
        """Compile and load for a CUDA device, with its index, ahead of the first launch."""
        core = backends.require(_LAUNCHERS[self.source.backend])
        with device.on(where):
            core.Device(where.index).set_current()
            self._load(where, core)

    def _values(self, arguments: tuple[object, ...]) -> list[Any]:
        if len(arguments) != len(self.parameters):
            msg = (
                f"{self.name}: {len(arguments)} arguments; pass {len(self.parameters)}: "
                f"{', '.join(self.parameters)}"
            )
            raise TypeError(msg)
        return [
            kernel_arguments.convert(self.name, name, kind, value)
            for (name, kind), value in zip(self.parameters.items(), arguments, strict=True)
        ]

    def _load(self, where: torch.device, core: Any) -> _Loaded:
        key = (where.index, device.arch_of(where))
        if key not in self._loaded:
            if device.is_capturing():
                raise LaunchedTooLate(self.name)
            with self._lock:
                if key not in self._loaded:
                    made = self.source.compile(key[1], folder=self.folder)
                    code = core.ObjectCode.from_cubin(made.cubin, name=self.source.name)
                    kernel = code.get_kernel(made.symbol)
                    self._loaded[key] = _Loaded(kernel, self.source.host(key[1]))
        return self._loaded[key]

    def _allow(self, loaded: _Loaded, shared_bytes: int, where: torch.device) -> None:
        """Above 48 KiB, static memory included, a kernel has to ask; for less it may."""
        if shared_bytes <= loaded.allowed:
            return
        from cuda.bindings import driver

        (status,) = driver.cuKernelSetAttribute(
            driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            shared_bytes,
            loaded.kernel.handle,
            driver.CUdevice(where.index),
        )
        if status != driver.CUresult.CUDA_SUCCESS:
            limit = artifact.SHARED_LIMITS.get(device.arch_of(where))
            msg = (
                f"{self.name}: shared_bytes={shared_bytes!r} is refused ({status.name}); "
                f"a block has {limit} bytes on {device.arch_of(where)}; use smaller tiles"
            )
            raise ValueError(msg)
        loaded.allowed = shared_bytes


def compile_launch(launch: Launch, arch: str, *, folder: Path | None = None) -> artifact.Artifact:
    """Compile what ``launch`` would run on ``arch``.

    Raises:
        CompileFailed: the compiler refuses, or a block needs more than it may have.
        InspectionFailed: the tools at hand are too old for ``arch``; some say so when the
            instructions are asked for.
        BackendMissing: as of `Source.compile`.
        ValueError: unknown arch, or a launch of another backend.
    """
    artifact.require_known(arch)
    function = launch.function
    if launch.backend not in _LAUNCHERS or not isinstance(function, Function):
        msg = f"the launch of {launch} by backend={launch.backend!r} is none of native.Function"
        raise ValueError(msg)
    binary = function.source.compile(arch, folder=folder or function.folder)
    made = artifact.inspect(
        binary.cubin,
        arch=arch,
        kernel=f"{launch.module}.{launch.name}",
        symbol=binary.symbol,
        warps=-(-math.prod(launch.options["block"]) // 32),
        dynamic_shared=launch.options["shared_bytes"],
        ptx=binary.ptx,
    )
    artifact.require_fit(made)
    return made


def _launch_config(core: Any, launch: Launch) -> Any:
    options, cluster = launch.options, launch.options["cluster"]
    # cuda-core counts a grid in clusters.
    clusters = zip_longest(launch.grid, cluster, fillvalue=1)
    return core.LaunchConfig(
        grid=tuple(whole // part for whole, part in clusters),
        cluster=cluster if math.prod(cluster) > 1 else None,
        block=options["block"],
        shmem_size=options["shared_bytes"],
        programmatic_stream_serialization=options["overlaps"],
    )


def _device_of(kernel: str, values: Sequence[object]) -> torch.device:
    found = {tensor.device for tensor in kernel_arguments.tensors(values)}
    if len(found) != 1 or next(iter(found)).type != "cuda":
        words = ", ".join(sorted(map(str, found))) or "none"
        msg = f"{kernel}: the tensors' devices are {words}; move all of them to one GPU"
        raise ValueError(msg)
    return found.pop()


def _passed(value: Any) -> Any:
    """Pointers as integers, which cuda-core takes for addresses; scalars as they are."""
    if value is None:
        return 0
    return value.data_ptr() if hasattr(value, "data_ptr") else value
