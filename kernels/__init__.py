"""Bundled kernels: importing this package imports neither torch nor a kernel language.

Each public function is loaded from its module on first use. A backend that is absent, broken or of
another version is reported by that use, the same each time, and ``harness.backends.load_error`` has
the error.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from harness import backends

if TYPE_CHECKING:
    from kernels.activation.triton import silu_and_mul
    from kernels.norm.triton import rms_norm
    from kernels.svdq.triton_gemm import svdq_gemm_w4a4
    from kernels.svdq.triton_quantize import svdq_quantize_w4a4_act_fuse_lora

_HOMES: Final = {
    "rms_norm": "kernels.norm.triton",
    "silu_and_mul": "kernels.activation.triton",
    "svdq_gemm_w4a4": "kernels.svdq.triton_gemm",
    "svdq_quantize_w4a4_act_fuse_lora": "kernels.svdq.triton_quantize",
}
MODULES: Final = tuple(_HOMES.values())  # every module that declares a kernel

__all__ = [
    "MODULES",
    "rms_norm",
    "silu_and_mul",
    "svdq_gemm_w4a4",
    "svdq_quantize_w4a4_act_fuse_lora",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'kernels' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    backends.require("triton")
    return getattr(importlib.import_module(_HOMES[name]), name)
