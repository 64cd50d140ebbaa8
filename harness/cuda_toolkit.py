"""NVRTC and CUDA's headers, found without a GPU; what is missing is named, with what to install."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Toolkit", "ToolkitMissing", "find", "toolkit"]

PACKAGES: Final = "cuda-toolkit[cccl,crt,cudart,nvrtc]==13.*"
AT_LEAST: Final = (13, 0)
BELOW: Final = (14, 0)
# One file of each wheel that a kernel's includes reach: `cuda_fp16.h` alone needs all three.
_HEADERS: Final = {
    "cuda_fp16.h": "nvidia-cuda-runtime",
    "crt/host_defines.h": "nvidia-cuda-crt",
    "nv/target": "nvidia-cuda-cccl",
}
_VERSIONED: Final = "cuda_runtime_api.h"  # holds CUDART_VERSION, and changes with every release
_BESIDE: Final = "crt/host_defines.h"  # may come with another release than that


class ToolkitMissing(ImportError):
    """A part of the CUDA toolkit that compilation needs is missing or of another release."""


class Finder(Protocol):
    """As much of ``cuda.pathfinder`` as is asked."""

    def find_nvidia_header_directory(self, libname: str, /) -> str | None:
        """The folder of a library's headers."""


@dataclass(frozen=True)
class Toolkit:
    """The compiler's version and archs, the folders of its headers, and a hash of their release."""

    version: tuple[int, int]
    archs: tuple[int, ...]
    include: tuple[Path, ...]
    headers: str


@functools.cache
def toolkit() -> Toolkit:
    """What this process compiles with; needs cuda-core, and raises ToolkitMissing."""
    from cuda import pathfinder

    return find(pathfinder, _ask_compiler)


def find(finder: Finder, ask: Callable[[], tuple[tuple[int, int], tuple[int, ...]]]) -> Toolkit:
    """Find compiler and headers; ``ask`` answers NVRTC's version and the archs that it knows."""
    remedy = f"pip install '{PACKAGES}'"
    try:
        version, archs = ask()
    except Exception as error:  # the loader's errors have no common type
        said = " ".join(str(error).split())
        msg = f"cuda-core is here and NVRTC is not ({type(error).__name__}: {said}); {remedy}"
        raise ToolkitMissing(msg) from error
    if not AT_LEAST <= version < BELOW:
        msg = (
            f"NVRTC has version {version[0]}.{version[1]}, outside what is known to work; {remedy}"
        )
        raise ToolkitMissing(msg)
    include = _include(finder)
    for name, package in _HEADERS.items():
        if not any((folder / name).is_file() for folder in include):
            where = ", ".join(map(str, include)) or "nowhere"
            msg = f"NVRTC is here and the header {name!r} of {package} is not ({where}); {remedy}"
            raise ToolkitMissing(msg)
    return Toolkit(version, archs, include, _release(include))


def _include(finder: Finder) -> tuple[Path, ...]:
    """The folders of wheels first; torch's wheels lack ``crt/``, which comes with nvcc."""
    found = (finder.find_nvidia_header_directory(name) for name in ("cudart", "cccl", "nvcc"))
    return tuple(dict.fromkeys(Path(folder) for folder in found if folder))


def _release(include: tuple[Path, ...]) -> str:
    """A hash of the first file of each name that the folders have."""
    digest = hashlib.sha256()
    for name in (_VERSIONED, _BESIDE):
        paths = (folder / name for folder in include)
        digest.update(next((path.read_bytes() for path in paths if path.is_file()), b""))
    return digest.hexdigest()


def _ask_compiler() -> tuple[tuple[int, int], tuple[int, ...]]:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    _, archs = nvrtc.nvrtcGetSupportedArchs()
    return (major, minor), tuple(archs)
