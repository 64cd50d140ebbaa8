"""Correctness and parity checks for migrated GPU kernels; importing it imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.budget import Expected, Term, Within
    from harness.declare import kernel, op, output, size, tensor
    from harness.subjects import Sample, subject
    from harness.upstream import Upstream

__version__ = "0.1.0"

_HOMES = {
    "Expected": "harness.budget",
    "Sample": "harness.subjects",
    "Term": "harness.budget",
    "Upstream": "harness.upstream",
    "Within": "harness.budget",
    "kernel": "harness.declare",
    "op": "harness.declare",
    "output": "harness.declare",
    "size": "harness.declare",
    "subject": "harness.subjects",
    "tensor": "harness.declare",
}

__all__ = [
    "Expected",
    "Sample",
    "Term",
    "Upstream",
    "Within",
    "kernel",
    "op",
    "output",
    "size",
    "subject",
    "tensor",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'harness' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)
