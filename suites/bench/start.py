"""What the first launch of a kernel takes: compiled anew, and found in the cache on disk."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness import device as devices
from harness.native import Function

if TYPE_CHECKING:
    import torch


def cold_and_warm(function: Function, device: torch.device) -> tuple[float, float]:
    """Seconds of compiling a kernel into an empty folder, and of loading it from there."""
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        function.source.compile(devices.arch_of(device), folder=Path(name))
        compiled = time.perf_counter()
        fresh = Function(function.source, function.parameters, function.module, Path(name))
        fresh.load(device)
        return compiled - start, time.perf_counter() - compiled
