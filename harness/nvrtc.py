"""CUDA C++ compiled by NVRTC for any arch, with no GPU and no build step.

Importing this imports neither cuda nor torch: both are asked for by the first compilation.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from harness import artifact, backends, cubins
from harness.arch import target_of
from harness.native import Function, LaunchedTooLate, compile_launch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.cuda_toolkit import Toolkit

__all__ = ["Function", "LaunchedTooLate", "Source", "compile_launch", "compile_source"]

_OURS: Final = ("arch", "define_macro", "include_path", "name")
_ENTRY: Final = 2  # the form of an entry on disk; another one is another key


@dataclass(frozen=True)
class Source:
    """One kernel in CUDA C++, as text.

    ``kernel`` names it in C++, with template arguments if it is a template: ``"scale<float, 4>"``.
    ``headers`` are found by ``#include "name"``, beside CUDA's own. ``options`` are fields of
    ``cuda.core.ProgramOptions``: ``{"use_fast_math": True}``. ``specific`` compiles for an arch
    and no later one (``sm_90a``), as wgmma, tcgen05 and block-scaled instructions need; archs
    older than sm90 have no such form and are compiled as ever.
    """

    backend: ClassVar[str] = "cuda"
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

    def compile(self, arch: str, *, folder: Path | None = None) -> cubins.Binary:
        """Machine code for ``arch``; see `compile_source`."""
        return compile_source(self, arch, folder=folder)

    def host(self, arch: str) -> None:
        """None: what is launched is the kernel itself."""


def compile_source(source: Source, arch: str, *, folder: Path | None = None) -> cubins.Binary:
    """Machine code of ``source`` for ``arch`` (``sm90``, or ``sm90a``), kept in ``folder``.

    The folder is one of the user's by default. An entry is found again by everything that decides
    the machine code: the texts, the options, the arch, compiler and headers; one that is damaged is
    compiled anew. Processes that ask for the same at once compile it once.

    Raises:
        BackendMissing: cuda-core, NVRTC or CUDA's headers; says what to install.
        CompileFailed: with the compiler's log.
        ValueError: no such arch.
    """
    target = target_of(arch, specific=source.specific)
    core = backends.require("cuda")
    from harness.cuda_toolkit import toolkit

    tools = toolkit()
    where, key = folder or cubins.default_folder(), _key(source, target, core.__version__, tools)
    return cubins.load_or_make(where, key, lambda: _compile(source, arch, target, core, tools))


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
