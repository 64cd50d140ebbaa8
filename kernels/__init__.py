"""Bundled kernels: importing this package imports neither torch nor a kernel language.

Each public function is loaded from its module on first use. A backend that is missing is reported
by that use, and the error is kept for ``load_error``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

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
    "load_error",
    "rms_norm",
    "silu_and_mul",
    "svdq_gemm_w4a4",
    "svdq_quantize_w4a4_act_fuse_lora",
]

_load_errors: dict[str, ImportError] = {}


def load_error(name: str) -> ImportError | None:
    """Why the public function ``name`` could not be loaded, or None if it was not tried or loads."""
    return _load_errors.get(name)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'kernels' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    if name not in _load_errors:
        try:
            return getattr(importlib.import_module(_HOMES[name]), name)
        except ImportError as error:
            _load_errors[name] = _explain(name, error)
    raise _load_errors[name]


def _explain(name: str, error: ImportError) -> ImportError:
    missing = error.name or str(error)
    msg = (
        f"kernels.{name} needs {missing!r}, which cannot be imported ({error}); "
        f"install it, e.g. pip install {missing.partition('.')[0]}"
    )
    explained = ImportError(msg, name=error.name)
    explained.__cause__ = error
    return explained
