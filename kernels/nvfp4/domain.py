"""Where NVFP4's ops are defined: dtypes, archs, the block of a scale, and the largest sizes."""

from __future__ import annotations

from typing import Final

import torch

ARCH: Final = ">=sm80"
DTYPES: Final = (torch.float16, torch.bfloat16)
SCALE_DTYPE: Final = torch.float8_e4m3fn
BLOCK: Final = 16  # elements that share a scale
K_STEP: Final = 32  # rows of codes begin at multiples of 16 bytes
RECIPES: Final = ("vllm",)
MAX_M: Final = 2**20
MAX_N: Final = 65536
MAX_K: Final = 65536
