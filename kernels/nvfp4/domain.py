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
MAX_EXPERTS: Final = 256
MAX_TOP_K: Final = 8
MAX_INTERMEDIATE: Final = 32768  # gate and up are one matrix of twice as many rows
ID_DTYPES: Final = (torch.int32, torch.int64)
