"""The plugin's options and markers: what a run is asked for; the mistyped is refused in words."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.arch import ARCHES, CPU
from harness.cells import Layer
from harness.selection import Selection, kind_of
from harness.workers import Memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cells import Cell
    from harness.check import Settings

_ARCH_WORDS: Final = {
    CPU: "cells that run without a GPU",
    **dict.fromkeys(ARCHES, "cells of that arch"),
}


class Isolate(StrEnum):
    """Which cells run in a process of their own."""

    DEVICE = "device"
    ALL = "all"
    NONE = "none"

    def covers(self, cell: Cell) -> bool:
        """Whether it is asked for ``cell``."""
        return self is Isolate.ALL or (self is Isolate.DEVICE and cell.needs_device)


def add_options(parser: pytest.Parser) -> None:
    """Add the options of the group ``kernel-parity`` and the ini value ``parity_declare``."""
    add = parser.getgroup("kernel-parity", "parity of migrated GPU kernels").addoption
    _add_selection(add)
    _add_run(add)
    _add_results(add)
    _add_processes(add)
    parser.addini("parity_declare", "packages or files that declare ops and kernels", "args", [])


def _add_selection(add: Callable[..., None]) -> None:
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


def _add_run(add: Callable[..., None]) -> None:
    add(
        "--cases",
        type=_positive,
        metavar="N",
        help="generated cases per kernel, arch and dtype (default 18 emulated, 96 on a device); "
        "under each tool of the layer sanitize at most that many",
    )
    add("--parity-seed", type=int, default=0, metavar="N", help="seed of the run (default 0)")
    add(
        "--seconds-from",
        type=_file,
        metavar="PATH",
        help="records of a former run: in each layer, what took longest comes first",
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


def _add_results(add: Callable[..., None]) -> None:
    add(
        "--records",
        type=_records,
        metavar="PATH.jsonl",
        help="write one JSON line per check to this file, and a manifest beside it",
    )
    add(
        "--error-images",
        type=_picture_folder,
        metavar="DIR",
        help="draw the errors of each failing numeric check into a PNG file in DIR",
    )


def _add_processes(add: Callable[..., None]) -> None:
    add(
        "--isolate",
        choices=[str(each) for each in Isolate],
        default=Isolate.DEVICE,
        help="which cells run in a process of their own, so that a crash, a hang or a lack of "
        "memory is their own outcome: those that need a GPU (device, the default), all or none",
    )
    add(
        "--cell-seconds",
        type=_seconds,
        metavar="N",
        help="an isolated check that says nothing for so long hangs (default 300 on a device, 600 "
        "emulated, 900 where machine code is made)",
    )
    add(
        "--device-memory",
        type=_memory,
        metavar="GIB",
        help="what a process may hold of a device, in GiB or as a part such as 25%%; by default "
        "workers share each evenly",
    )


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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        msg = f"--cell-seconds={text!r} is not a number of seconds above 0"
        raise pytest.UsageError(msg)
    return seconds


def _memory(text: str) -> Memory:
    try:
        return Memory.parse(text)
    except ValueError as error:
        msg = f"--device-memory={error}"
        raise pytest.UsageError(msg) from error


def _file(text: str) -> Path:
    if not Path(text).is_file():
        msg = f"--seconds-from={text!r} is no file; name the records that --records made"
        raise pytest.UsageError(msg)
    return Path(text)


def _records(text: str) -> Path:
    """The gate reads ``*.jsonl``, and a manifest is named after what stands before the suffix."""
    path = Path(text)
    if path.is_dir():
        msg = f"--records={text!r} is a folder; name a file in it: {str(path / 'records.jsonl')!r}"
        raise pytest.UsageError(msg)
    if path.suffix != ".jsonl":
        msg = f"--records={text!r} does not end in .jsonl, which is what the gate reads; name it so"
        raise pytest.UsageError(msg)
    return path


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
