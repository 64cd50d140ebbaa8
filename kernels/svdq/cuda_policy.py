"""Which path, tiling and split of k a launch of the CUDA W4A4 kernels takes, and why, in words.

Pure functions of sizes and arch. Every choice is a name in ``GEMM_CONFIGS`` or
``QUANTIZE_CONFIGS``, so a test that visits the tables has visited all that a policy can choose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kernels.svdq.domain import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORT: Final = 256  # rows up to which the quantizer needs warps along k to occupy the GPU
MAX_TILES_WITHOUT_LOSS: Final = 4  # of 8 ranks, with all of the quantizer's blocks
S4_ARCHES: Final = ("sm80", "sm86", "sm89")  # m16n8k64.s4 is native; later emulated, 20 x slower
CLUSTER: Final = 8  # blocks that every arch with clusters runs as one
FINISHERS: Final = 4  # warps of gemm_short.cu beside those that multiply, if there is as much
STEP: Final = 4  # groups of 64 in a stage of gemm_short.cu


@dataclass(frozen=True, kw_only=True)
class GemmTile:
    """A tiling of gemm.cu.

    The block's rows and columns of the output, its grid of warps, groups of 64 a stage, stages,
    tile rows a band, and blocks that share a multiprocessor's registers.
    """

    block_m: int
    block_n: int
    warps_m: int
    warps_n: int
    warps_k: int
    groups: int
    stages: int
    band: int
    blocks: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n * self.warps_k

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: codes, and scales with a half in front of them."""
        rows = self.block_m + self.block_n
        stage = self.groups * (rows * (GROUP // 2) + 2 * rows + 8)
        return self.stages * -(-stage // 16) * 16

    def fit(self, limit: int) -> GemmTile:  # noqa: ARG002 - as that of `ShortTile`
        """This tiling, which fits everywhere."""
        return self

    def tiles(self, m: int, n: int) -> int:
        """Tiles of an output ``[m, n]``."""
        return -(-m // self.block_m) * -(-n // self.block_n)

    def steps(self, k: int) -> int:
        """Stages that a block without split fills one after the other."""
        return -(-k // (GROUP * self.groups))

    def defines(self, path: str, *, act_unsigned: bool, bf16: bool) -> dict[str, int]:
        """The macros that make gemm.cu this tiling; ``bf16`` is said of the scales."""
        return {
            "PATH_S8": int(path == "s8"),
            "UNSIGNED": int(act_unsigned),
            "BF16": int(bf16),
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "WARPS_M": self.warps_m,
            "WARPS_N": self.warps_n,
            "WARPS_K": self.warps_k,
            "GROUPS": self.groups,
            "STAGES": self.stages,
            "BLOCKS": self.blocks,
        }


@dataclass(frozen=True, kw_only=True)
class ShortTile:
    """A tiling of gemm_short.cu.

    The block's rows and columns of the output, its warps that multiply, and their stages, as many
    as fit. Some more warps finish the tile.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        pieces = self.block_m // 8 * self.block_n // 16
        return 32 * (self.warps + min(pieces, FINISHERS))

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: stages of each warp."""
        codes = (self.block_m + self.block_n) * STEP * GROUP // 2
        row_scales = -(-STEP * (self.block_m // 2 + 1) * 4 // 16) * 16
        return self.warps * self.stages * (codes + row_scales + STEP * self.block_n * 2)

    def fit(self, limit: int) -> ShortTile:
        """This tiling with no more stages than fit into ``limit`` bytes of shared memory."""
        return replace(self, stages=min(self.stages, self.stages * limit // self.shared_bytes))

    def tiles(self, m: int, n: int) -> int:
        """Tiles of an output ``[m, n]``."""
        return -(-m // self.block_m) * -(-n // self.block_n)

    def steps(self, k: int) -> int:
        """Stages that a warp of a block without split fills one after the other."""
        return -(-k // (GROUP * STEP * self.warps))

    def defines(self, path: str, *, act_unsigned: bool, bf16: bool) -> dict[str, int]:
        """The macros that make gemm_short.cu this tiling; ``bf16`` is said of the scales."""
        return {
            "PATH_S8": int(path == "s8"),
            "UNSIGNED": int(act_unsigned),
            "BF16": int(bf16),
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "WARPS": self.warps,
            "STAGES": self.stages,
        }


@dataclass(frozen=True, kw_only=True)
class TallTile:
    """A tiling of gemm_tall.cu.

    The block's rows and columns of the output, its grid of warps, groups of 64 a stage, stages,
    tile rows a band, and blocks that share a multiprocessor's registers.
    """

    block_m: int
    block_n: int
    warps_m: int
    warps_n: int
    groups: int
    stages: int
    band: int
    blocks: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: codes, scales of two steps, offsets of threads."""
        stage = self.groups * (self.block_m + self.block_n) * (GROUP // 2)
        scales = 4 * self.groups * (2 * self.block_m + self.block_n)
        return self.stages * stage + 2 * scales + 3 * 16 * self.threads

    def fit(self, limit: int) -> TallTile:  # noqa: ARG002 - as that of `ShortTile`
        """This tiling, which fits everywhere."""
        return self

    def tiles(self, m: int, n: int) -> int:
        """Tiles of an output ``[m, n]``."""
        return -(-m // self.block_m) * -(-n // self.block_n)

    def steps(self, k: int) -> int:
        """Stages that a block fills one after the other."""
        return -(-k // (GROUP * self.groups))

    def defines(self, path: str, *, act_unsigned: bool, bf16: bool) -> dict[str, int]:
        """The macros that make gemm_tall.cu this tiling; ``bf16`` is said of the scales."""
        return {
            "PATH_S8": int(path == "s8"),
            "UNSIGNED": int(act_unsigned),
            "BF16": int(bf16),
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "WARPS_M": self.warps_m,
            "WARPS_N": self.warps_n,
            "GROUPS": self.groups,
            "STAGES": self.stages,
            "BLOCKS": self.blocks,
        }


Tile = GemmTile | ShortTile | TallTile

# fmt: off
_SHORT_TILES: Final = {
    "m8n32": ShortTile(block_m=8, block_n=32, warps=8, stages=2),
    "m8n64": ShortTile(block_m=8, block_n=64, warps=4, stages=3),
    "m16n32": ShortTile(block_m=16, block_n=32, warps=4, stages=4),
    "m16n64": ShortTile(block_m=16, block_n=64, warps=4, stages=3),
    "m32n32": ShortTile(block_m=32, block_n=32, warps=4, stages=3),
}
_MIDDLE_TILES: Final = {
    "m64n64": GemmTile(block_m=64, block_n=64, warps_m=2, warps_n=2, warps_k=1, groups=2, stages=4, band=4),  # noqa: E501
    "m64n128": GemmTile(block_m=64, block_n=128, warps_m=2, warps_n=4, warps_k=1, groups=2, stages=4, band=8),  # noqa: E501
}
_TALL_TILES: Final = {
    "m128n64": TallTile(block_m=128, block_n=64, warps_m=2, warps_n=2, groups=2, stages=3, band=8, blocks=2),  # noqa: E501
}
# fmt: on
GEMM_TILES: Final[Mapping[str, Tile]] = {**_SHORT_TILES, **_MIDDLE_TILES, **_TALL_TILES}
_SPLITS: Final = {
    "m8n32": (1, 2, 4, 8),
    "m8n64": (1,),
    "m16n32": (1, 2, 4, 8),
    "m16n64": (1,),
    "m32n32": (1, 2, 4, 8),
    "m64n64": (1, 2, 4),
    "m64n128": (1,),
    "m128n64": (1,),  # gemm_tall.cu never shares a tile's k
}


@dataclass(frozen=True)
class GemmConfig:
    """A tiling, by its name in ``GEMM_TILES``, and the number of blocks that share a tile's k."""

    name: str
    splits: int

    @property
    def tile(self) -> Tile:
        """The tiling."""
        return GEMM_TILES[self.name]


def _named(tile: str, splits: int) -> str:
    return tile if splits == 1 else f"{tile}_k{splits}"


GEMM_CONFIGS: Final = {
    _named(name, splits): GemmConfig(name, splits)
    for name, allowed in _SPLITS.items()
    for splits in allowed
}


# Of gemm.cu, ended by requantize.cuh: a block has all of its tile's y, in groups of 64. Warps may
# share k, blocks not.
# fmt: off
REQUANTIZE_TILES: Final = {
    "m16n64": GemmTile(block_m=16, block_n=64, warps_m=1, warps_n=2, warps_k=4, groups=4, stages=6, band=1),  # noqa: E501
    "m32n64": GemmTile(block_m=32, block_n=64, warps_m=1, warps_n=2, warps_k=4, groups=4, stages=4, band=1),  # noqa: E501
    "m64n64": _MIDDLE_TILES["m64n64"],
    "m64n128": _MIDDLE_TILES["m64n128"],
}
# fmt: on


def choose_path(arch: str) -> tuple[str, str]:
    """The integer product that is native on ``arch``, ``s4`` or ``s8``, and why."""
    if arch in S4_ARCHES:
        return "s4", f"{arch} multiplies 4-bit codes natively"
    return "s8", f"{arch} emulates 4-bit products; bytes are native"


def has_clusters(arch: str) -> bool:
    """Whether ``arch`` has clusters of blocks, and launches that overlap."""
    return arch not in S4_ARCHES


def choose_gemm(m: int, n: int, k: int, multiprocessors: int) -> tuple[str, str]:
    """The name of the tiling and split of k for an output ``[m, n]``, and why.

    The rank does not weigh: the low-rank branch costs the same per output in every tiling.
    """
    choose = _short_tile if m <= 64 else _tall_tile
    tile, why = choose(m, n, multiprocessors)
    splits, because = _splits(tile, m, n, k, multiprocessors)
    return _named(tile, splits), f"{why}; {because}"


def choose_requantize(m: int, n: int, multiprocessors: int) -> tuple[str, str]:
    """The name of the tiling of a GEMM that quantizes its result, and why."""
    if m <= 16:
        return "m16n64", f"m={m} fits one tile row of 16"
    if m <= 32:
        return "m32n64", f"m={m} fits one tile row of 32: weights are read once"
    tall = REQUANTIZE_TILES["m64n128"]
    tiles = tall.tiles(m, n)
    if tiles >= multiprocessors and n % tall.block_n == 0:
        return "m64n128", f"m={m}, n={n} make {tiles} whole tiles, one or more a multiprocessor"
    return "m64n64", f"m={m}, n={n} make fewer whole tiles of 64x128 than there are multiprocessors"


def _short_tile(m: int, n: int, multiprocessors: int) -> tuple[str, str]:
    if m > 32:
        return "m64n64", f"m={m} fits one tile row of 64"
    if m > 16:
        return "m32n32", f"m={m} fits one tile row of 32: weights are read once"
    rows = 8 if m <= 8 else 16
    # A wide tile reads activations half as often, if there are enough of them to read weights.
    if 2 * GEMM_TILES[f"m{rows}n64"].tiles(m, n) > multiprocessors:
        return f"m{rows}n64", f"m={m} fits {rows} rows; tiles of 64 occupy most of the GPU"
    return f"m{rows}n32", f"m={m} fits {rows} rows; n={n} needs narrow tiles to occupy the GPU"


def _tall_tile(m: int, n: int, multiprocessors: int) -> tuple[str, str]:
    # A tile costs about the same per output in all of these; the last, part-filled wave decides.
    for name, waves in (("m128n64", 2), ("m64n128", 1)):
        tiles = GEMM_TILES[name].tiles(m, n)
        if tiles >= waves * multiprocessors:
            return name, f"m={m}, n={n} make {tiles} tiles, enough for {waves} wave(s)"
    return "m64n64", f"m={m}, n={n} make fewer tiles of 64x128 than there are multiprocessors"


def _splits(tile: str, m: int, n: int, k: int, multiprocessors: int) -> tuple[int, str]:
    """Blocks double until there is one for every multiprocessor, while shares keep some steps."""
    blocks, steps = GEMM_TILES[tile].tiles(m, n), GEMM_TILES[tile].steps(k)
    # The warps of a short tile share its steps, and are all that hides its waits for memory.
    least = 1 if isinstance(GEMM_TILES[tile], ShortTile) else 8
    splits = 1
    for more in _SPLITS[tile]:
        # Twice as many blocks pay for the second kernel only if half the GPU stands idle.
        if blocks * splits * 2 <= multiprocessors and steps // more >= least:
            splits = more
    if splits == 1:
        return 1, f"{blocks} tile(s) of {steps} steps, not split"
    return splits, f"{blocks} tile(s) leave multiprocessors idle: k in {splits} shares"


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """A tiling of quantize.cu.

    Warps over rows and over k, stages, blocks that share k, the most ranks of one block, and blocks
    that share a multiprocessor's registers.
    """

    warps_m: int
    warps_k: int
    stages: int
    splits: int
    ranks: int = 64
    blocks: int = 1

    @property
    def block_m(self) -> int:
        """Rows of a block."""
        return 16 * self.warps_m

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_k

    def share(self, k: int) -> int:
        """Groups of a split; the last ones may have fewer, or none."""
        return -(-(k // GROUP) // self.splits)

    def rank_tiles(self, r: int) -> int:
        """Tiles of 8 ranks that one block sums; more ranks take more blocks."""
        fits = 16 if r <= 16 else 32 if r <= 32 else 64
        return min(fits, self.ranks) // 8

    def rank_pieces(self, r: int) -> int:
        """Blocks that share the ranks of one row tile: the third axis of the grid."""
        return -(-r // self.ranks)

    def shared_bytes(self, r: int) -> int:
        """Dynamic shared memory of a block: rows of lora_down, each with 16 bytes for the banks."""
        return self.stages * self.warps_k * GROUP * (16 * self.rank_tiles(r) + 16)

    def is_clustered(self, *, clusters: bool) -> bool:
        """Whether the blocks that share k are a cluster, on an arch with ``clusters``."""
        return clusters and self.warps_k > 1 and 1 < self.splits <= CLUSTER

    def defines(self, r: int, *, bf16: bool, clusters: bool) -> dict[str, int]:
        """The macros that make quantize.cu this tiling, on an arch with ``clusters`` or without."""
        return {
            "CLUSTERED": int(self.is_clustered(clusters=clusters)),
            "OVERLAPS": int(clusters and self.warps_k > 1),
            "BF16": int(bf16),
            "WARPS_M": self.warps_m,
            "WARPS_K": self.warps_k,
            "RANK_TILES": self.rank_tiles(r),
            "STAGES": self.stages,
            # 64 ranks have 16 sums a thread more: one block less, or they spill.
            "BLOCKS": max(1, self.blocks - (self.rank_tiles(r) > MAX_TILES_WITHOUT_LOSS)),
        }


_QUANTIZE_TILES: Final = {
    "m16k4": QuantizeConfig(warps_m=1, warps_k=4, stages=2, splits=1),
    "m16k8": QuantizeConfig(warps_m=1, warps_k=8, stages=2, splits=1, ranks=16),
    "m16k16": QuantizeConfig(warps_m=1, warps_k=16, stages=2, splits=1, ranks=16),
    "m64k1": QuantizeConfig(warps_m=4, warps_k=1, stages=3, splits=1, blocks=4),
}
_QUANTIZE_SPLITS: Final = {
    "m16k4": (8, 16, 32),
    "m16k8": (2, 4, 8),
    "m16k16": (1, 2, 4, 8),
    "m64k1": (1, 2, 4, 8, 16),
}
QUANTIZE_CONFIGS: Final = {
    _named(name, splits): replace(_QUANTIZE_TILES[name], splits=splits)
    for name, allowed in _QUANTIZE_SPLITS.items()
    for splits in allowed
}


def choose_quantize(
    m: int, k: int, r: int, multiprocessors: int, *, clusters: bool
) -> tuple[str, str]:
    """The name of the tiling for ``x [m, k]`` and rank ``r``, and why.

    On an arch with ``clusters`` of blocks a few blocks need no second kernel to add their sums.
    """
    tile, why = _quantize_tile(m, k, clusters=clusters)
    shape = _QUANTIZE_TILES[tile]
    blocks = -(-m // shape.block_m) * shape.rank_pieces(r)
    steps = -(-k // (GROUP * shape.warps_k))
    # A step of a short tile is one wait for memory, the same for one step as for all. A tall one
    # has rows enough to hide that: fewer steps would be a workspace to be read back for nothing.
    least = 1 if shape.warps_k > 1 else 4
    allowed = _QUANTIZE_SPLITS[tile]
    splits = allowed[0]
    for more in allowed[1:]:
        if blocks * more <= 4 * multiprocessors and steps // more >= least:
            splits = more
    made = f"r={r} makes {blocks} block(s) of {steps} steps: k in {splits} share(s)"
    return _named(tile, splits), f"{why}; {made}"


def _quantize_tile(m: int, k: int, *, clusters: bool) -> tuple[str, str]:
    groups = k // GROUP
    if m > SHORT:
        return "m64k1", f"m={m} makes warps enough by rows"
    if groups <= _QUANTIZE_TILES["m16k16"].warps_k:
        return "m16k16", f"k={k} has a warp of one block for each group: one step, one launch"
    if clusters:
        return "m16k8", f"m={m}, k={k}: up to {CLUSTER} blocks are one cluster, one launch"
    if m > 16 or groups < 8 * _QUANTIZE_TILES["m16k4"].warps_k:
        return "m16k16", f"m={m}, k={k}: wide blocks leave few sums to be added"
    return "m16k4", f"m={m} fits 16 rows: k over as many multiprocessors as it has steps"
