"""A captured Triton launch is compiled for any arch, without a GPU, as on a GPU of that arch."""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from harness import arch as arches
from harness import artifact, launches
from harness.triton_cache import compiling_once

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compile_launch"]

_TENSOR_MEMORY_COLUMNS = 512  # of one multiprocessor, from sm100 on

_lock = threading.RLock()


def compile_launch(launch: launches.Launch, arch: str) -> artifact.Artifact:
    """Compile what ``launch`` would run on ``arch``, through Triton's own disk cache, once.

    The launch's arguments decide the specialisation, as they do on a device: pointers aligned to 16
    bytes, integers divisible by 16, integers equal to 1, constants, ``num_warps`` and the other
    options.

    The reason that one of the compiler's passes has for failing goes to stderr, where pytest shows
    it.

    Raises:
        CompileFailed: the compiler refuses, or the kernel needs more memory than a block may have.
        InspectionFailed: the triton at hand is too old for ``arch``; it may say so when the
            instructions are asked for.
        ValueError: unknown arch, or a launch that is not Triton's.
    """
    artifact.require_known(arch)
    if launch.backend != "triton":
        msg = f"backend={launch.backend!r} of the launch of {launch} is not 'triton'"
        raise ValueError(msg)
    kernel = f"{launch.module}.{launch.name}"
    try:
        compiled = _compile(launch, arch)
    # The compiler's passes raise what they like: RuntimeError, AssertionError, PTXASError...
    except Exception as error:
        raise artifact.CompileFailed(kernel, arch, _message_of(error)) from error
    if compiled is None:
        raise artifact.CompileFailed(
            kernel, arch, "triton.knobs.runtime.jit_cache_hook vetoed the compilation; unset it"
        )
    made = _inspect(compiled, kernel, arch)
    _require_fit(made, compiled)
    return made


def _compile(launch: launches.Launch, arch: str) -> Any:
    bound = inspect.BoundArguments(launch.function.signature, OrderedDict(launch.arguments))
    with (
        launches.suspended(),
        _compiling_for(arch),
        compiling_once(),
        warnings.catch_warnings(),
    ):
        # A warning is no failure to compile, even where warnings are errors. Triton 3.9 gives this
        # one to whoever compiles first.
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
        return launch.function.run(
            *bound.args, grid=launch.grid, warmup=True, **bound.kwargs, **launch.options
        )


class _Target:
    """As much of a Triton driver as a compilation asks for, for a device that need not exist."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = arches.number(self._arch)
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> str:
        # The key of JITFunction.device_caches: no real device, so no real launch meets our code.
        return f"compiled for {self._arch}"

    def get_device_capability(self, _device: object = None) -> tuple[int, int]:
        return arches.number(self._arch)

    def get_current_stream(self, _device: object = None) -> int:
        return 0


@contextlib.contextmanager
def _compiling_for(arch: str) -> Iterator[None]:
    from triton.runtime import driver

    with _lock:
        # `driver.active` would create the real driver, which fails where there is no GPU.
        before = driver._active
        driver.set_active(_Target(arch))
        try:
            yield
        finally:
            driver._active = before


def _message_of(error: BaseException) -> str:
    """All causes: Triton wraps an error in a helper function into one error for each caller."""
    messages = [f"{type(error).__name__}: {error}"]
    while error.__cause__ is not None:
        error = error.__cause__
        messages.append(f"{type(error).__name__}: {error}")
    return "\n".join(messages)


def _inspect(compiled: Any, kernel: str, arch: str) -> artifact.Artifact:
    return artifact.inspect(
        compiled.asm["cubin"],
        arch=arch,
        kernel=kernel,
        symbol=compiled.metadata.name,
        warps=compiled.metadata.num_warps,
        dynamic_shared=compiled.metadata.shared,
        ptx=compiled.asm["ptx"],
    )


def _require_fit(made: artifact.Artifact, compiled: Any) -> None:
    artifact.require_fit(made)
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    if columns > _TENSOR_MEMORY_COLUMNS:
        needs = (
            f"it needs {columns} columns of tensor memory and a block has {_TENSOR_MEMORY_COLUMNS}"
        )
        raise artifact.CompileFailed(made.kernel, made.arch, f"{needs}; use smaller tiles")
