"""How NVFP4's GEMM is launched in the CuTe DSL: how an arch dequantizes, and in which tiling.

Pure: of the arch, the sizes and the multiprocessors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from harness import arch as arches

SPAN: Final = 64  # bytes of codes of a row, and
SCALES: Final = 8  # of their scales, which a step has once or twice
SHIFTED: Final = "shifted"
CONVERTED: Final = "converted"
ASIDE: Final = "aside"
# The claim of each path.
PATHS: Final = {SHIFTED: "sm80,sm86", CONVERTED: "sm89", ASIDE: "sm90"}
_REASONS: Final = {
    SHIFTED: "has no conversion from E4M3: bits of codes and scales are shifted to fp16's places",
    CONVERTED: "converts E4M3 to fp16, which codes and scales are or become by few shifts",
    ASIDE: "converts E4M3 to fp16, and multiplies many rows aside from the threads that do it",
}
ARCH: Final = ",".join(PATHS.values())


@dataclass(frozen=True)
class Tile:
    """A tiling of ``cutedsl/gemm_dequantized.py``, which tells what its constants mean.

    With one slice the warps of a block share what they load. With more of one warp each, a warp
    loads for itself and waits for no other, which suits few rows.
    """

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    slices: int
    spans: int
    stages: int
    band: int
    converts: bool = False
    specific: ClassVar[bool] = False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n * self.slices

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: all stages, or the sums that slices hand over at the end."""
        step = (self.rows + self.columns) * self.spans * (SPAN + SCALES)
        sums = 4 * self.rows * self.columns if self.slices > 1 else 0
        return self.slices * max(self.stages * step, sums)

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "WARPS_M": self.warps_m,
            "WARPS_N": self.warps_n,
            "SLICES": self.slices,
            "SPANS": self.spans,
            "STAGES": self.stages,
            "BAND": self.band,
            "CONVERTS": int(self.converts),
        }

    def tiles(self, m: int, n: int) -> int:
        """Blocks of an output ``[m, n]``."""
        return -(-m // self.rows) * -(-n // self.columns)


@dataclass(frozen=True)
class WarpgroupTile:
    """A tiling of ``cutedsl/gemm_dequantized_async.py``, of two warpgroups of 64 rows each."""

    columns: int
    buffers: int
    band: int
    rows: ClassVar[int] = 128
    threads: ClassVar[int] = 256
    specific: ClassVar[bool] = True

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: a buffer has 64 numbers a row in fp16."""
        return self.buffers * (self.rows + self.columns) * 64 * 2

    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "BUFFERS": self.buffers,
            "BAND": self.band,
        }

    def tiles(self, m: int, n: int) -> int:
        """Blocks of an output ``[m, n]``."""
        return -(-m // self.rows) * -(-n // self.columns)


# A warp has 64 by 64 of the output where it can: what it dequantizes then serves most products.
# All fit into the 99 KiB of sm86 and sm89. A path may have another tiling under a name.
CONFIGS: Final = {
    "m16n32": Tile(16, 32, warps_m=1, warps_n=1, slices=8, spans=1, stages=2, band=1),
    "m16n64": Tile(16, 64, warps_m=1, warps_n=1, slices=8, spans=1, stages=2, band=1),
    "m32n64": Tile(32, 64, warps_m=1, warps_n=1, slices=4, spans=1, stages=3, band=1),
    "m64n64": Tile(64, 64, warps_m=1, warps_n=1, slices=4, spans=1, stages=2, band=8),
    "m64n128": Tile(64, 128, warps_m=1, warps_n=2, slices=2, spans=1, stages=3, band=8),
    "m128": Tile(128, 128, warps_m=2, warps_n=2, slices=1, spans=1, stages=4, band=8),
}
_OF_PATH: Final = {ASIDE: {"m128": WarpgroupTile(256, buffers=3, band=8)}}
# Tiles of 128 rows a multiprocessor, from which on they are worth it.
_ENOUGH: Final = {SHIFTED: 2, CONVERTED: 2, ASIDE: 1}


def tile_of(config: str, path: str) -> Tile | WarpgroupTile:
    """The tiling of ``CONFIGS`` that a path of ``PATHS`` has under a name."""
    of_all = replace(CONFIGS[config], converts=path != SHIFTED)
    return _OF_PATH.get(path, {}).get(config, of_all)


def choose_path(arch: str) -> tuple[str, str]:
    """How a kernel for ``arch``, one that ``ARCH`` claims, dequantizes, and why."""
    for path, claim in PATHS.items():
        if arches.admits(claim, arch):
            return path, f"{arch} {_REASONS[path]}"
    msg = f"arch={arch!r} is not supported; paths are for {ARCH}; use another backend"
    raise arches.UnsupportedArch(msg)


def choose_config(m: int, n: int, multiprocessors: int, path: str) -> tuple[str, str]:
    """The name of a path's default tiling for an output ``[m, n]``, and why."""
    if m <= 16 and n < 128 * multiprocessors:
        return "m16n32", f"m={m} fits one tile row; n={n} needs narrow tiles to occupy the GPU"
    if m <= 16:
        return "m16n64", f"m={m} fits one tile row and n={n} makes two tiles of 64 a multiprocessor"
    if m <= 32:
        return "m32n64", f"m={m} fits one tile row of 32"
    tall, enough = tile_of("m128", path), _ENOUGH[path]
    if (tiles := tall.tiles(m, n)) >= enough * multiprocessors:
        each = f"{tall.rows}x{tall.columns}, {enough} or more a multiprocessor"
        return "m128", f"m={m}, n={n} make {tiles} tiles of {each}"
    if (wide := CONFIGS["m64n128"].tiles(m, n)) >= multiprocessors:
        return "m64n128", f"m={m}, n={n} make {wide} tiles of 64x128, one a multiprocessor"
    return "m64n64", f"m={m}, n={n} make only {wide} tiles of 64x128; smaller ones fill the GPU"
