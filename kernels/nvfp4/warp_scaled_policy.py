"""How NVFP4's GEMM by warps' block-scaled products is launched on sm120: in which tiling, and why.

Pure: of the sizes and the multiprocessors. No measurement stands behind the choices yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ARCH: Final = "sm120"  # which has block-scaled products, and no tensor memory
SPAN: Final = 64  # bytes of codes of a row, and
SCALES: Final = 8  # of their scales, which a step has once or twice


@dataclass(frozen=True)
class Tile:
    """A tiling of ``cutedsl/gemm_warp_scaled.py``, which tells what its constants mean."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    spans: int
    stages: int
    band: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: codes and scales of all stages."""
        return self.stages * (self.rows + self.columns) * self.spans * (SPAN + SCALES)

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "WARPS_M": self.warps_m,
            "WARPS_N": self.warps_n,
            "SPANS": self.spans,
            "STAGES": self.stages,
            "BAND": self.band,
        }

    def tiles(self, m: int, n: int) -> int:
        """Blocks of an output ``[m, n]``."""
        return -(-m // self.rows) * -(-n // self.columns)


# A multiprocessor has 100 KiB, of which each block costs one more: two blocks of all but the last,
# whose eight warps hide their own waiting.
CONFIGS: Final = {
    "m16n32": Tile(16, 32, warps_m=1, warps_n=4, spans=2, stages=6, band=1),
    "m32n64": Tile(32, 64, warps_m=1, warps_n=4, spans=2, stages=3, band=1),
    "m64n64": Tile(64, 64, warps_m=2, warps_n=2, spans=1, stages=5, band=8),
    "m64n128": Tile(64, 128, warps_m=2, warps_n=4, spans=1, stages=3, band=8),
    "m128n128": Tile(128, 128, warps_m=2, warps_n=4, spans=1, stages=5, band=8),
}


def choose_config(m: int, n: int, multiprocessors: int) -> tuple[str, str]:
    """The name of the default tiling for an output ``[m, n]``, and why."""
    if m <= 16:
        return "m16n32", f"m={m} fits one tile row; narrow tiles share out n={n}"
    if m <= 32:
        return "m32n64", f"m={m} fits one tile row of 32"
    if m > 64 and (tiles := CONFIGS["m128n128"].tiles(m, n)) >= multiprocessors:
        return "m128n128", f"m={m}, n={n} make {tiles} tiles of 128x128, one a multiprocessor"
    if (wide := CONFIGS["m64n128"].tiles(m, n)) >= multiprocessors:
        return "m64n128", f"m={m}, n={n} make {wide} tiles of 64x128, one a multiprocessor"
    return "m64n64", f"m={m}, n={n} make only {wide} tiles of 64x128; smaller ones fill the GPU"
