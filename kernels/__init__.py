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
    from kernels.nvfp4.cutedsl_block_scaled import nvfp4_gemm_block_scaled_cutedsl
    from kernels.nvfp4.cutedsl_gemm import nvfp4_gemm_cutedsl
    from kernels.nvfp4.cutedsl_warp_scaled import nvfp4_gemm_warp_scaled_cutedsl
    from kernels.nvfp4.triton_gemm import nvfp4_gemm
    from kernels.nvfp4.triton_moe_down import nvfp4_moe_down
    from kernels.nvfp4.triton_moe_up import nvfp4_moe_up
    from kernels.nvfp4.triton_quantize import nvfp4_quantize
    from kernels.svdq.cuda_gemm import svdq_gemm_w4a4_cuda
    from kernels.svdq.cuda_gemm_activated import svdq_gemm_w4a4_activated_cuda
    from kernels.svdq.cuda_gemm_requantized import svdq_gemm_w4a4_requantized_cuda
    from kernels.svdq.cuda_quantize import svdq_quantize_w4a4_act_fuse_lora_cuda
    from kernels.svdq.triton_gemm import svdq_gemm_w4a4
    from kernels.svdq.triton_quantize import svdq_quantize_w4a4_act_fuse_lora

# Where each lives: the backend that it needs, and the module.
_HOMES: Final = {
    "nvfp4_gemm": ("triton", "kernels.nvfp4.triton_gemm"),
    "nvfp4_gemm_block_scaled_cutedsl": ("cutedsl", "kernels.nvfp4.cutedsl_block_scaled"),
    "nvfp4_gemm_cutedsl": ("cutedsl", "kernels.nvfp4.cutedsl_gemm"),
    "nvfp4_gemm_warp_scaled_cutedsl": ("cutedsl", "kernels.nvfp4.cutedsl_warp_scaled"),
    "nvfp4_moe_down": ("triton", "kernels.nvfp4.triton_moe_down"),
    "nvfp4_moe_up": ("triton", "kernels.nvfp4.triton_moe_up"),
    "nvfp4_quantize": ("triton", "kernels.nvfp4.triton_quantize"),
    "rms_norm": ("triton", "kernels.norm.triton"),
    "silu_and_mul": ("triton", "kernels.activation.triton"),
    "svdq_gemm_w4a4": ("triton", "kernels.svdq.triton_gemm"),
    "svdq_gemm_w4a4_activated_cuda": ("cuda", "kernels.svdq.cuda_gemm_activated"),
    "svdq_gemm_w4a4_cuda": ("cuda", "kernels.svdq.cuda_gemm"),
    "svdq_gemm_w4a4_requantized_cuda": ("cuda", "kernels.svdq.cuda_gemm_requantized"),
    "svdq_quantize_w4a4_act_fuse_lora": ("triton", "kernels.svdq.triton_quantize"),
    "svdq_quantize_w4a4_act_fuse_lora_cuda": ("cuda", "kernels.svdq.cuda_quantize"),
}
# Every module that declares a kernel.
MODULES: Final = tuple(module for _, module in _HOMES.values())

__all__ = [
    "MODULES",
    "nvfp4_gemm",
    "nvfp4_gemm_block_scaled_cutedsl",
    "nvfp4_gemm_cutedsl",
    "nvfp4_gemm_warp_scaled_cutedsl",
    "nvfp4_moe_down",
    "nvfp4_moe_up",
    "nvfp4_quantize",
    "rms_norm",
    "silu_and_mul",
    "svdq_gemm_w4a4",
    "svdq_gemm_w4a4_activated_cuda",
    "svdq_gemm_w4a4_cuda",
    "svdq_gemm_w4a4_requantized_cuda",
    "svdq_quantize_w4a4_act_fuse_lora",
    "svdq_quantize_w4a4_act_fuse_lora_cuda",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'kernels' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    backend, module = _HOMES[name]
    backends.require_installed(backend)
    return getattr(importlib.import_module(module), name)
