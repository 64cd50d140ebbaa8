"""CUDA C++ compiled by NVRTC for any arch, with no GPU and no build step, and launched by torch.

Importing this imports neither cuda nor torch: both are asked for by the first compilation.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tempfile
import threading
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness import arch as arches
from harness import artifact, backends, cubins, device, kernel_arguments
from harness.launches import Launch, report_launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from harness.cuda_toolkit import Toolkit
    from harness.kernel_arguments import Kind

__all__ = ["Function", "LaunchedTooLate", "Source", "compile_launch", "compile_source"]

_TARGET: Final = re.compile(r"(sm\d{2,3})([af]?)")
_OURS: Final = ("arch", "define_macro", "include_path", "name")
_ENTRY: Final = 1  # the form of an entry on disk; another one is another key
_FIRST_SPECIFIC: Final = (9, 0)


class LaunchedTooLate(RuntimeError):
    """A kernel was first launched while a CUDA graph was recorded, when it cannot be loaded."""

    def __init__(self, kernel: str) -> None:
        super().__init__(
            f"{kernel} is launched for the first time while a CUDA graph is recorded, and cannot "
            f"be loaded then; call `load`, or make the same call once, before the capture"
        )


@dataclass(frozen=True)
class Source:
    """One kernel in CUDA C++, as text.

    ``kernel`` names it in C++, with template arguments if it is a template: ``"scale<float, 4>"``.
    ``headers`` are found by ``#include "name"``, beside CUDA's own. ``options`` are fields of
    ``cuda.core.ProgramOptions``: ``{"use_fast_math": True}``. ``specific`` compiles for an arch
    and no later one (``sm_90a``), as wgmma, tcgen05 and block-scaled instructions need; archs
    older than sm90 have no such form and are compiled as ever.
    """

    name: str
    text: str
    kernel: str
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    defines: Mapping[str, str] = field(default_factory=dict, hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    specific: bool = False

    def __post_init__(self) -> None:
        if ours := sorted(self.options.keys() & set(_OURS)):
            msg = f"options={ours!r} of {self.name} are set here; use `defines` and `headers`"
            raise ValueError(msg)


def compile_source(source: Source, arch: str, *, folder: Path | None = None) -> cubins.Binary:
    """Machine code of ``source`` for ``arch`` (``sm90``, or ``sm90a``), kept in ``folder``.

    The folder is one of the user's by default. An entry is found again by everything that decides
    the machine code: the texts, the options, the arch, compiler and headers; one that is damaged is
    compiled anew.

    Raises:
        BackendMissing: cuda-core, NVRTC or CUDA's headers; says what to install.
        CompileFailed: with the compiler's log.
        ValueError: no such arch.
    """
    target = _target(source, arch)
    core = backends.require("cuda")
    from harness.cuda_toolkit import toolkit

    tools = toolkit()
    where, key = folder or cubins.default_folder(), _key(source, target, core.__version__, tools)
    found = cubins.load(where, key)
    if found is None:
        found = _compile(source, arch, target, core, tools)
        cubins.store(where, key, found)
    return found


def _target(source: Source, arch: str) -> str:
    match = _TARGET.fullmatch(arch)
    if match is None:
        msg = f"arch={arch!r} is not an architecture such as 'sm90' or 'sm90a'"
        raise ValueError(msg)
    specific = source.specific and arches.number(match[1]) >= _FIRST_SPECIFIC
    return f"sm_{match[1].removeprefix('sm')}{match[2] or ('a' if specific else '')}"


def _key(source: Source, target: str, core: str, tools: Toolkit) -> str:
    parts = [
        *(_ENTRY, core, tools.version, tools.headers, target),
        *(source.name, source.text, source.kernel),
        *(sorted(each.items()) for each in (source.headers, source.defines, source.options)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _compile(source: Source, arch: str, target: str, core: Any, tools: Toolkit) -> cubins.Binary:
    number = int("".join(filter(str.isdigit, target)))
    if number not in tools.archs:
        known = ", ".join(f"sm{each}" for each in tools.archs)
        version = ".".join(map(str, tools.version))
        msg = f"NVRTC {version} knows {known}; install a newer one"
        raise artifact.CompileFailed(source.kernel, arch, msg)
    log = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in source.headers.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        try:
            options = core.ProgramOptions(
                arch=target,
                name=source.name,
                include_path=[folder, *map(str, tools.include)],
                define_macro=list(source.defines.items()) or None,
                **{"std": "c++17", **source.options},
            )
            program = core.Program(source.text, "c++", options)
            made = program.compile("cubin", name_expressions=(source.kernel,), logs=log)
        # TypeError for an option that there is not; the compiler's own error is no RuntimeError.
        except Exception as error:
            said = str(error).replace(f"{folder}/", "").strip("\0\n ")
            msg = f"{type(error).__name__}: {said}"
            raise artifact.CompileFailed(source.kernel, arch, msg) from error
        # Inside the folder's life: its name is cut from the log.
        said = log.getvalue().replace(f"{folder}/", "").strip("\0\n ")
    symbol = made.symbol_mapping[source.kernel]
    symbol = symbol.decode() if isinstance(symbol, bytes) else symbol
    return cubins.Binary(bytes(made.code), symbol, said)


class _Loaded:
    """A kernel on one device, with the dynamic shared memory that it was allowed so far."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
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
        """The kernel's name in C++, with its template arguments."""
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
            BackendMissing: see `compile_source`, as CompileFailed.
            LaunchedTooLate: a CUDA graph is being recorded, and the kernel is not loaded yet.
        """
        values = self._values(arguments)
        shape = kernel_arguments.extents(self.name, grid, block, cluster)
        launch = Launch(
            backend="cuda",
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
        core = backends.require("cuda")
        config = _launch_config(core, launch)
        with device.on(where):
            # In a thread that has not used CUDA yet, torch makes its device current too late.
            core.Device(where.index).set_current()
            loaded = self._load(where, core)
            self._allow(loaded, shared_bytes, where)
            handle = device.current_stream(where) if stream is None else stream
            stream_of_torch = core.Stream.from_handle(handle)
            core.launch(stream_of_torch, config, loaded.kernel, *map(_passed, values))

    def load(self, where: torch.device) -> None:
        """Compile and load for a CUDA device, with its index, ahead of the first launch."""
        core = backends.require("cuda")
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
                    made = compile_source(self.source, key[1], folder=self.folder)
                    code = core.ObjectCode.from_cubin(made.cubin, name=self.source.name)
                    self._loaded[key] = _Loaded(code.get_kernel(made.symbol))
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
        InspectionFailed: the disassembler at hand is too old for ``arch``.
        BackendMissing: as of `compile_source`.
        ValueError: unknown arch, or a launch of another backend.
    """
    artifact.require_known(arch)
    function = launch.function
    if launch.backend != "cuda" or not isinstance(function, Function):
        msg = f"the launch of {launch} by backend={launch.backend!r} is none of nvrtc.Function"
        raise ValueError(msg)
    binary = compile_source(function.source, arch, folder=folder or function.folder)
    made = artifact.inspect(
        binary.cubin,
        arch=arch,
        kernel=f"{launch.module}.{launch.name}",
        symbol=binary.symbol,
        warps=-(-math.prod(launch.options["block"]) // 32),
        dynamic_shared=launch.options["shared_bytes"],
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
