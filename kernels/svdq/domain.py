"""Where both of SVDQuant's ops are defined: dtypes, archs, the group, and the largest sizes."""

from __future__ import annotations

from typing import Final

import torch

ARCH: Final = ">=sm80"
DTYPES: Final = (torch.float16, torch.bfloat16)
GROUP: Final = 64  # codes that share a scale
MAX_M: Final = 2**20
MAX_N: Final = 65536
MAX_K: Final = 65536
MAX_R: Final = 256
