"""The CuTe DSL compiled for any arch, with no GPU, and kept on disk so that it is imported once.

Importing this imports neither cutlass nor torch, and a kernel that is found on disk needs no
cutlass either: what it was compiled to is launched by cuda-core (`harness.native`). So the DSL's
runtime has no part in a launch, and its compiler, which brings LLVM as Triton does, is loaded into
a process only to compile. Both compilers worked in one process, in either order (4.8.1 beside
triton 3.7.1, whose register counts were those without the DSL).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import re
import sys
import tempfile
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from harness import artifact, backends, cubins, kernel_arguments
from harness.arch import target_of
from harness.native import Function

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from harness.kernel_arguments import Kind
    from harness.native import Host

__all__ = ["Source", "compile_source", "function_of"]

Constant = int | float | str
_ENTRY: Final = 1  # the form of an entry on disk; another one is another key
# What pointers and numbers are called there. A tensor of any dtype is bytes.
_POINTERS: Final = {
    kernel_arguments.ANY: "Uint8",
    "uint8": "Uint8",
    "int8": "Int8",
    "int32": "Int32",
    "int64": "Int64",
    "float16": "Float16",
    "bfloat16": "BFloat16",
    "float32": "Float32",
    "float8_e4m3fn": "Float8E4M3FN",
}
_NUMBERS: Final = {
    ctypes.c_int32: "Int32",
    ctypes.c_int64: "Int64",
    ctypes.c_uint32: "Uint32",
    ctypes.c_float: "Float32",
}
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_lock = threading.Lock()  # the compiler keeps what it compiles in global state


@dataclass(frozen=True)
class Source:
    """One kernel in the CuTe DSL, as the text of a Python module that stands alone.

    ``kernel`` is a function of it decorated by ``cute.jit``, which takes ``parameters`` in their
    order, then ``constants`` by keyword (as ``cutlass.Constexpr``), and launches one kernel with
    the same parameters. What it gives as grid and shared memory does not count, as that is given at
    each launch; its block does, as the bound for registers. The text imports nothing of ours, so
    that nothing else decides the machine code. ``alignment`` is what the compiler may take for
    granted of pointers, in bytes; without it that of their numbers. ``specific`` compiles for an
    arch and no later one (``sm_90a``), as wgmma, tcgen05 and block-scaled instructions need.

    A ``hosted`` one takes a stream between parameters and constants, and its own host code
    launches it, as one with tensor maps for TMA needs: grid and shared memory are then its own. It
    is compiled anew in each process that launches it, since host code is not kept on disk.
    """

    backend: ClassVar[str] = "cutedsl"
    name: str
    text: str
    kernel: str
    parameters: Mapping[str, Kind] = field(hash=False)
    constants: Mapping[str, Constant] = field(default_factory=dict, hash=False)
    alignment: Mapping[str, int] = field(default_factory=dict, hash=False)
    hosted: bool = False
    specific: bool = False

    def __post_init__(self) -> None:
        for name, kind in self.parameters.items():
            known = (
                kind.removesuffix("?") in _POINTERS if isinstance(kind, str) else kind in _NUMBERS
            )
            if not known:
                numbers = ", ".join(each.__name__ for each in _NUMBERS)
                msg = (
                    f"parameter {name!r} of {self.name} is declared as {kind!r}; "
                    f"use one of {', '.join(_POINTERS)}, {numbers}"
                )
                raise TypeError(msg)

    def compile(self, arch: str, *, folder: Path | None = None) -> cubins.Binary:
        """Machine code for ``arch``; see `compile_source`."""
        return compile_source(self, arch, folder=folder)

    def host(self, arch: str) -> Host | None:
        """What launches a ``hosted`` kernel on the current device, compiled for ``arch``."""
        return _host(self, arch, target_of(arch, specific=self.specific)) if self.hosted else None


def function_of(source: Source, module: str, *, folder: Path | None = None) -> Function:
    """What launches ``source``; ``module`` is who it belongs to, for reports: ``__name__``."""
    return Function(source, source.parameters, module, folder)


def compile_source(source: Source, arch: str, *, folder: Path | None = None) -> cubins.Binary:
    """Machine code and PTX of ``source`` for ``arch`` (``sm90``, or ``sm90a``), kept in ``folder``.

    The folder is one of the user's by default. An entry is found again by all that decides the
    machine code: text, parameters, constants, arch and the DSL's version; one that is damaged is
    compiled anew. Processes that ask for the same at once compile it once.

    Raises:
        BackendMissing: the DSL; says what to install.
        CompileFailed: with the compiler's words.
        ValueError: no such arch.
    """
    target = target_of(arch, specific=source.specific)
    key = _key(source, target, backends.version_of("cutedsl"))
    where = folder or cubins.default_folder()
    return cubins.load_or_make(where, key, lambda: _compile(source, arch, target))


def _key(source: Source, target: str, version: str) -> str:
    kinds = [[name, _word(kind)] for name, kind in source.parameters.items()]
    parts = [
        *("cutedsl", _ENTRY, version, target),
        *(source.name, source.text, source.kernel, source.hosted, kinds),
        *(sorted(each.items()) for each in (source.constants, source.alignment)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _word(kind: Kind) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _compile(source: Source, arch: str, target: str) -> cubins.Binary:
    """Compile a source that is not on disk."""
    with _translated(source, arch, target, to_run=False) as (made, folder):
        symbols = list(made.kernel_info)
        if len(symbols) != 1:
            msg = f"{source.kernel} launches {len(symbols)} kernels; a source is of one"
            raise ValueError(msg)
        (cubin,), (ptx,) = (list(folder.glob(f"*.{kind}")) for kind in ("cubin", "ptx"))
        return cubins.Binary(cubin.read_bytes(), str(symbols[0]), "", ptx.read_text("utf-8"))


def _host(source: Source, arch: str, target: str) -> Host:
    cutlass = backends.require("cutedsl")
    with _translated(source, arch, target, to_run=True) as (made, _):
        kinds = list(source.parameters.items())

    def launch(values: Sequence[Any], stream: int) -> None:
        from cuda.bindings import driver

        passed = (
            _argument(cutlass, kind, value, source.alignment.get(name))
            for (name, kind), value in zip(kinds, values, strict=True)
        )
        made(*passed, driver.CUstream(stream))

    return launch


@contextlib.contextmanager
def _translated(
    source: Source, arch: str, target: str, *, to_run: bool
) -> Iterator[tuple[Any, Path]]:
    """What the compiler makes of a source, and where it wrote PTX and machine code."""
    cutlass = backends.require("cutedsl")
    with _lock, tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("default")  # a warning is no failure to compile
        try:
            with _imported(source, Path(folder)) as module:
                yield (
                    cutlass.cute.compile(
                        getattr(module, source.kernel),
                        *_stand_ins(cutlass, source),
                        **source.constants,
                        options=f"--gpu-arch {target} --keep-ptx --keep-cubin --dump-dir {folder}",
                        no_jit_engine=not to_run,
                    ),
                    Path(folder),
                )
        # The source is run as Python, and the compiler raises what it likes.
        except Exception as error:
            said = _COLOURS.sub("", str(error)).replace(f"{folder}/", "").strip()
            msg = f"{type(error).__name__}: {said}"
            raise artifact.CompileFailed(source.kernel, arch, msg) from error


def _stand_ins(cutlass: Any, source: Source) -> list[Any]:
    """Arguments of the right types, of which no more is used."""
    found = [
        _argument(cutlass, kind, None if isinstance(kind, str) else kind(1), alignment)
        for kind, alignment in (
            (kind, source.alignment.get(name)) for name, kind in source.parameters.items()
        )
    ]
    return [*found, cutlass.cute.runtime.make_fake_stream()] if source.hosted else found


def _argument(cutlass: Any, kind: Kind, value: Any, alignment: int | None) -> Any:
    if not isinstance(kind, str):
        return getattr(cutlass, _NUMBERS[kind])(value.value)
    element = getattr(cutlass, _POINTERS[kind.removesuffix("?")])
    return cutlass.cute.runtime.make_ptr(
        element,
        0 if value is None else value.data_ptr(),
        cutlass.cute.AddressSpace.gmem,
        assumed_align=alignment or element.width // 8,
    )


@contextlib.contextmanager
def _imported(source: Source, folder: Path) -> Iterator[ModuleType]:
    """The source as a module, in a file of its own, which the compiler reads again."""
    path = folder / source.name
    path.write_text(source.text, encoding="utf-8")
    name = f"cutedsl_{hashlib.sha256(source.text.encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{source.name!r} cannot be imported as Python source; name it as a .py file"
        raise ValueError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
