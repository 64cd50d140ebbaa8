"""Bank conflicts of a warp's loads from shared memory, which has 32 banks of 4 bytes.

Threads are served 32, 16 or 8 at a time, as they load 4, 8 or 16 bytes; of one bank, one word at a
time. That is how NVIDIA's guides describe it, and not measured here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

BANKS: Final = 32
WORD: Final = 4


def conflicts(starts: npt.NDArray[Any], size: int) -> int:
    """How often a warp that loads ``size`` bytes from each of ``starts`` waits for a bank."""
    together = min(len(starts), BANKS * WORD // max(size, WORD))
    words = starts[:, None] // WORD + np.arange(max(1, size // WORD))
    return sum(_waits(part) for part in words.reshape(-1, together * words.shape[1]))


def _waits(words: npt.NDArray[Any]) -> int:
    return int(np.bincount(np.unique(words) % BANKS).max()) - 1
