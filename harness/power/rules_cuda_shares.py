"""Faults of who does which share in CUDA C++: slices, splits, blocks of a cluster, pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_OF_A_WARP: Final = "sums_of(shared, warp, piece, lane)"
_LEFT: Final = "*sums_of(shared, 0, piece, lane) = sum;"


@rule("synchronisation")
def slices_share_a_place(code: Code) -> Found:
    """Warps that overwrite each other's sums in shared memory."""
    yield from code.like("(slice - 1) * $stride", "0 * $stride")
    yield from code.like("shared + slice * kSlice", "shared")
    yield from code.like(f"*{_OF_A_WARP} =", "*sums_of(shared, 0, piece, lane) =")
    yield from code.like("shared + warp * kWarpBytes", "shared")


@rule("synchronisation")
def slice_added_twice(code: Code) -> Found:
    """The sums of one slice of a block, or of one warp, added in place of another's."""
    yield from code.like("other * $stride", "(other > 0 ? other - 1 : 0) * $stride")
    yield from code.like("shared[slice * kSlice", "shared[(slice - 1) * kSlice")
    yield from code.like(f"*{_OF_A_WARP})", "*sums_of(shared, warp - 1, piece, lane))")
    for name in ("slice", "warp"):
        yield from code.like(f"int {name} = 1;", f"int {name} = 0;")


@rule("synchronisation")
def slice_left_out(code: Code) -> Found:
    """The sums of one slice of a block, or of one warp, not added."""
    for name, end in (("slice", "WARPS_K"), ("warp", "WARPS")):
        yield from code.like(f"int {name} = 1;", f"int {name} = 2;")
        yield from code.like(f"; {name} < {end};", f"; {name} < {end} - 1;")


@rule("synchronisation")
def every_slice_goes_on(code: Code) -> Found:
    """All slices of a block store, though one alone has the whole sum."""
    yield from code.like("if (slice > 0) return;", ";")
    yield from code.like("if (place.slice > 0) return;", ";")
    yield from code.like("if (owns)", "if (true)")
    yield from code.like("place.slice == 0", "true")


@rule("synchronisation")
def splits_share_a_workspace(code: Code) -> Found:
    """Blocks that share k, or that own a column of tiles, write their sums over each other's."""
    yield from code.like("static_cast<long long>(ptx::block_y())", "static_cast<long long>(0)")
    yield from code.like("static_cast<long long>(col / BLOCK_N)", "static_cast<long long>(0)")


@rule("synchronisation")
def workspace_of_another_split(code: Code) -> Found:
    """The sums of the split before in place of a split's own."""
    yield from code.like("static_cast<long long>(split)", "static_cast<long long>(split - 1)")
    yield from code.like("(first + i) * all", "(first + i - 1) * all")


@rule("synchronisation")
def split_added_twice(code: Code) -> Found:
    """The sums of the first split are what the others are added to, and added again."""
    yield from code.like("int split = 1;", "int split = 0;")
    yield from code.like("int first = 1;", "int first = 0;")


@rule("synchronisation")
def split_left_out(code: Code) -> Found:
    """The sums of one split are not added."""
    yield from code.like("int split = 1;", "int split = 2;")
    yield from code.like("split < splits", "split < splits - 1")
    yield from code.like("int first = 1;", "int first = 2;")
    yield from code.like("first + i < splits", "first + i < splits - 1")


@rule("synchronisation")
def sums_of_another_block(code: Code) -> Found:
    """The sums of the block before in place of a block's own, or of the first for all."""
    yield from code.like(
        "ptx::cluster_float($$place, block)", "ptx::cluster_float($$place, block - 1)"
    )
    yield from code.like("ptx::cluster_float($$place, block)", "ptx::cluster_float($$place, 0)")


@rule("synchronisation")
def block_added_twice(code: Code) -> Found:
    """The sums of the first block of a cluster are what others are added to, and added again."""
    yield from code.like("int block = 1;", "int block = 0;")


@rule("synchronisation")
def block_left_out(code: Code) -> Found:
    """The sums of one block of a cluster, or of all but the first, are not added."""
    yield from code.like("int block = 1;", "int block = 2;")
    yield from code.like("block < ptx::blocks_y()", "block < ptx::blocks_y() - 1")
    yield from code.like("block < kCluster", "block < kCluster - 1")
    yield from code.like("$of ? add_blocks($$$a) : $add($$$b)", "$add($$$b)")


@rule("synchronisation")
def block_leaves_one_slice(code: Code) -> Found:
    """What a block leaves to its cluster is the sums of one slice, or of one warp."""
    yield from code.like("all[at] = add_slices(all, at);", ";")
    yield from code.like(_LEFT, ";")


@rule("synchronisation")
def every_block_stores(code: Code) -> Found:
    """All blocks of a cluster store, though the first alone has the whole sum."""
    yield from code.like("!CLUSTERED || ptx::block_y() == 0", "true")
    yield from code.like("ptx::block_y() == 0 && ($$$single)", "true")


@rule("synchronisation")
def clusters_for_splits(code: Code) -> Found:
    """Blocks that are no cluster taken for one, or one for blocks that share nothing."""
    yield from code.like("CLUSTERED ? 0 : $$part)", "$$part)")
    yield from code.like("clustered = PATH_S8 && ptx::blocks_y() > 1", "clustered = false")
    yield from code.like("(PATH_S8 || ptx::blocks_y() == 1)", "true")


@rule("index")
def other_piece(code: Code) -> Found:
    """A piece of the tile finished as another one, or by another finisher's numbers."""
    yield from code.like("finisher + own * kFinishers", "finisher * kOwn + own")
    yield from code.like("finisher + own * kFinishers", "finisher")
    yield from code.like("piece += kFinishers", "piece += kFinishers + 1")
    yield from code.like("[piece / kTilesM]", "[piece % kTilesN]")
    yield from code.like("row + piece % kTilesM", "row + piece / kTilesN")
    yield from code.like("col + piece / kTilesM", "col + piece % kTilesN")
    yield from code.like("low_rank[own], f", "low_rank[kOwn - 1 - own], f")


@rule("index")
def share_of_another(code: Code) -> Found:
    """Steps taken by every warp, or by none."""
    yield from code.like("first = from + warp", "first = from")
    yield from code.like("step * WARPS_K + slice", "step * WARPS_K")
    yield from code.like("turn * WARPS_K + slice", "turn * WARPS_K")
    yield from code.like("$a += WARPS * kPitch", "$a += kPitch")
    yield from code.like("(i < 0) continue", "(i < 1) continue")


@rule("index")
def turn_not_wrapped(code: Code) -> Found:
    """A turn that begins in the middle and goes on behind the end."""
    yield from code.like("(i + turn < count ? 0 : count)", "0")
    yield from code.like("next > 0 && next + turn == count", "false")
    yield from code.like("ptx::block_x() % count", "ptx::block_x()")
    yield from code.like("turn + 1 < $$pieces ? turn + 1 : 0", "turn + 1")
    yield from code.like("slice % ptx::blocks_z()", "slice")


@rule("index")
def turn_of_another(code: Code) -> Found:
    """What is brought begins at another step than what is counted, or wraps one off."""
    yield from code.like("$from(first + turn * WARPS)", "$from(first)")
    yield from code.like("next + turn == count", "next + turn == count + 1")
    yield from code.like("next + turn == count", "next + turn + 1 == count")
    yield from code.like("$cursor = $from(first);", ";")


RULES: Final = (
    *(slices_share_a_place, slice_added_twice, slice_left_out, every_slice_goes_on),
    *(splits_share_a_workspace, workspace_of_another_split, split_added_twice, split_left_out),
    *(sums_of_another_block, block_added_twice, block_left_out, block_leaves_one_slice),
    *(every_block_stores, clusters_for_splits, other_piece, share_of_another),
    *(turn_not_wrapped, turn_of_another),
)
