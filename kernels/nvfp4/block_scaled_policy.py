"""How NVFP4's block-scaled GEMM is launched on sm100 and sm103: in which tiling, and why.

Pure: of the sizes and the multiprocessors. No measurement stands behind the choices yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ARCH: Final = "sm100,sm103"  # which have tensor memory
ROWS: Final = 128  # of every tile, and of a tile of scales
OCTETS: Final = 128  # bytes of codes of a row that a step loads: 256 along k
SCALES: Final = 4  # tiles of scales along k that a step loads
SCALE_BYTES: Final = 512  # of a tile of scales
THREADS: Final = 192
_BARRIERS: Final = 1024  # what lies before the first stage, which begins at a multiple


@dataclass(frozen=True)
class Tile:
    """A tiling of ``cutedsl/gemm_block_scaled.py``: columns, and stages in shared memory."""

    columns: int
    stages: int

    @property
    def scale_tiles(self) -> int:
        """Tiles of 128 rows that hold the scales of its weights; 64 columns use half of one."""
        return -(-self.columns // ROWS)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: codes and scales of all stages."""
        codes = (ROWS + self.columns) * OCTETS
        return _BARRIERS + self.stages * (codes + (1 + self.scale_tiles) * SCALES * SCALE_BYTES)

    def grid(self, m: int, n: int) -> tuple[int, int]:
        """Blocks of an output ``[m, n]``, along m first: those together share weights in L2."""
        return -(-m // ROWS), -(-n // self.columns)


# A multiprocessor has 228 KiB, of which each block costs one more: two blocks of the first two.
CONFIGS: Final = {
    "m128n64": Tile(64, stages=4),
    "m128n128": Tile(128, stages=3),
    "m128n256": Tile(256, stages=4),
}


def choose_config(m: int, n: int, multiprocessors: int) -> tuple[str, str]:
    """The name of the default tiling for an output ``[m, n]``, and why."""
    rows = -(-m // ROWS)
    if (wide := rows * -(-n // 256)) >= 2 * multiprocessors:
        return "m128n256", f"m={m}, n={n} make {wide} tiles of 128x256, two a multiprocessor"
    if (tiles := rows * -(-n // 128)) >= multiprocessors:
        return "m128n128", f"m={m}, n={n} make {tiles} tiles of 128x128, one a multiprocessor"
    return "m128n64", f"m={m}, n={n} make only {tiles} tiles of 128x128; narrow ones fill the GPU"
