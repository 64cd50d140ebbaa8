"""The plugin's options and markers: what a run is asked for; the mistyped is refused in words."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.arch import ARCHES, CPU
from harness.cells import Layer
from harness.selection import Selection, kind_of

if TYPE_CHECKING:
    from harness.check import Settings

_ARCH_WORDS: Final = {
    CPU: "cells that run without a GPU",
    **dict.fromkeys(ARCHES, "cells of that arch"),
}


def add_options(parser: pytest.Parser) -> None:
    """Add the options of the group ``kernel-parity`` and the ini value ``parity_declare``."""
    group = parser.getgroup("kernel-parity", "parity of migrated GPU kernels")
    add = group.addoption
    add(
        "--declare",
        action="append",
        default=[],
        metavar="TARGET",
        help="package, module or .py file that declares ops and kernels; may be given again",
    )
    add("--kernel", action="append", default=[], metavar="NAME", help="only cells of this kernel")
    add("--op", action="append", default=[], metavar="NAME", help="only cells of this op")
    add(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        choices=[str(v) for v in Layer],
        help="only cells of this layer: %(choices)s",
    )
    add("--case", metavar="ID", help="check this one case or probe, as a failure prints it")
    add(
        "--cases",
        type=_positive,
        metavar="N",
        help="generated cases per kernel, arch and dtype (default 18 emulated, 96 on a device); "
        "under each tool of the layer sanitize at most that many",
    )
    add("--parity-seed", type=int, default=0, metavar="N", help="seed of the run (default 0)")
    add("--records", type=Path, metavar="PATH", help="write one JSON line per check to PATH")
    add(
        "--error-images",
        type=_picture_folder,
        metavar="DIR",
        help="draw the errors of each failing numeric check into a PNG file in DIR",
    )
    add("--e2e-model", type=Path, metavar="DIR", help="folder of the end-to-end model's files")
    add(
        "--sanitize",
        action="store_true",
        help="also the layer sanitize; -m or --layer with that word asks for it too",
    )
    add(
        "--compute-sanitizer",
        type=Path,
        metavar="PATH",
        help="NVIDIA's compute-sanitizer, where it is not on the PATH",
    )
    parser.addini("parity_declare", "packages or files that declare ops and kernels", "args", [])


def register_markers(config: pytest.Config) -> None:
    """Register the markers; refuse ``-m`` with a marker that nobody registered."""
    add = config.addinivalue_line
    for layer in Layer:
        add("markers", f"{layer}: checks of the layer {layer}")
    for arch, words in _ARCH_WORDS.items():
        add("markers", f"{arch}: {words}")
    add(
        "markers",
        "parity(layer, by=None, kind='', needs=''): a test over the cells of a layer, by='dtype' "
        "for each; kind ends the ids of its cases; needs names a field of the op that is not empty",
    )
    add("markers", "gpu: a test of the harness itself that needs a CUDA device of any arch")
    add("markers", "browser: a test of the harness itself that needs Chromium")
    _check_marker_expression(config)


def _check_marker_expression(config: pytest.Config) -> None:
    known = {line.partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")}
    expression = config.option.markexpr
    words = set(re.findall(r"\b[A-Za-z_]\w*", re.sub(r"\([^()]*=[^()]*\)", "", expression)))
    if unknown := sorted(words - known - {"and", "or", "not", "True", "False"}):
        ours = ", ".join([*(str(layer) for layer in Layer), *_ARCH_WORDS])
        msg = f"-m {expression!r}: no marker {unknown[0]!r} is registered; among them: {ours}"
        raise pytest.UsageError(msg)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"--cases={text!r} is not a whole number of at least 1"
        raise pytest.UsageError(msg)
    return int(text)


def _picture_folder(text: str) -> Path:
    folder = Path(text)
    if find_spec("matplotlib") is None:
        msg = (
            f"--error-images={text!r} needs matplotlib, which is not installed; "
            "python -m pip install 'kernel-parity[picture]'"
        )
        raise pytest.UsageError(msg)
    if folder.exists() and not folder.is_dir():
        msg = f"--error-images={text!r} is a file; name a folder, which is made if need be"
        raise pytest.UsageError(msg)
    return folder


def settings_of(config: pytest.Config) -> Settings:
    """What a check is told of the options."""
    from harness.check import Settings

    return Settings(
        seed=config.option.parity_seed,
        cases=config.option.cases,
        database=config.rootpath / ".hypothesis" / "kernel-parity",
        only=config.option.case,
        e2e_model=config.option.e2e_model,
        declare=targets_of(config),
        sanitizer=config.option.compute_sanitizer,
    )


def targets_of(config: pytest.Config) -> tuple[str, ...]:
    """What declares ops and kernels, in order."""
    return (*config.getini("parity_declare"), *config.option.declare)


def asks_to_sanitize(config: pytest.Config) -> bool:
    """Whether a run asks for the layer sanitize, by any option that can name it."""
    option = config.option
    return (
        option.sanitize
        or Layer.SANITIZE in option.layer
        or kind_of(option.case or "")[1] == Layer.SANITIZE
        or re.search(rf"(?<!\bnot )\b{Layer.SANITIZE}\b", option.markexpr) is not None
    )


def selection_of(config: pytest.Config) -> Selection:
    """Which checks the options ask for."""
    option = config.option
    return Selection(
        kernels=option.kernel,
        ops=option.op,
        layers=option.layer,
        case=option.case,
        declared=bool(option.declare),
    )
