"""Faults of who waits for whom in CUDA C++: barriers, copies in flight, stages, shares of a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_NEXT: Final = "if (step + STAGES - 1 < steps) { $$$body }"


@rule("synchronisation")
def barrier_removed(code: Code) -> Found:
    """Threads that do not wait for each other."""
    yield from code.like("ptx::block_barrier();", ";")


@rule("synchronisation")
def vote_of_one(code: Code) -> Found:
    """A barrier that also votes, left out: each thread goes on, by its own vote."""
    yield from code.like("ptx::block_barrier_any($$mine)", "($$mine)")


@rule("synchronisation")
def waits_for_one_less(code: Code) -> Found:
    """The newest stage counted as there while its copies are under way."""
    yield from code.like("wait_batches<STAGES - 2>", "wait_batches<STAGES - 1>")


@rule("synchronisation")
def never_waits(code: Code) -> Found:
    """Asynchronous copies read without a wait."""
    yield from code.like("ptx::wait_batches<STAGES - 2>();", ";")


@rule("synchronisation")
def last_wait_dropped(code: Code) -> Found:
    """Copies still under way when the memory they write to is used for something else."""
    yield from code.like("ptx::wait_batches<0>();", ";")


@rule("synchronisation")
def batch_left_open(code: Code) -> Found:
    """Copies that are in no batch: a wait for batches does not cover them."""
    yield from code.like("ptx::close_batch();", ";")


@rule("synchronisation")
def batch_closed_twice(code: Code) -> Found:
    """An empty batch more each step: the wait covers fewer of the full ones."""
    yield from code.like("ptx::close_batch();", "ptx::close_batch(); ptx::close_batch();")


@rule("synchronisation")
def fills_before_the_barrier(code: Code) -> Found:
    """A stage refilled while others still read it."""
    vote = "careful = ptx::block_barrier_any($$mine);"
    filling = "bring($$step, $$stage);"
    swapped = "bring($$step, $$stage); careful = ptx::block_barrier_any($$mine);"
    yield from code.like(f"{vote} {filling}", swapped)
    barrier = "ptx::block_barrier();"
    yield from code.like(f"{barrier} {_NEXT}", f"{_NEXT} {barrier}")


@rule("synchronisation")
def stage_stands_still(code: Code) -> Found:
    """One of the stages' counters does not move on."""
    yield from code.like("$stage = after($stage);", ";")


@rule("synchronisation")
def stage_left_out(code: Code) -> Found:
    """One of the stages' counters moves on by two."""
    yield from code.like("$stage = after($stage);", "$stage = after(after($stage));")


@rule("synchronisation")
def other_first_stage(code: Code) -> Found:
    """One of the stages' counters begins one off."""
    yield from code.like("read = 0", "read = 1")
    yield from code.like("stored = STAGES - 2", "stored = STAGES - 1")
    yield from code.like("brought = STAGES - 1", "brought = STAGES - 2")


@rule("synchronisation")
def other_stage(code: Code) -> Found:
    """The stage beside the right one."""
    yield from code.like("(step + STAGES - 1) % STAGES", "(step + STAGES) % STAGES")
    yield from code.like("step % STAGES", "(step + 1) % STAGES")


@rule("synchronisation")
def fewer_stages_ahead(code: Code) -> Found:
    """One stage too few filled before the loop that counts on them."""
    yield from code.like("ahead < STAGES - 1", "ahead < STAGES - 2")


@rule("synchronisation")
def scales_of_the_stage_too_late(code: Code) -> Found:
    """Scales written to shared memory one step after their codes are used."""
    yield from code.like("store_scales(from + ahead, ahead)", "store_scales(until, ahead)")
    yield from code.like("if (ahead < STAGES - 2) $f($$$a);", "$f($$$a);")


@rule("synchronisation")
def slices_share_a_place(code: Code) -> Found:
    """Warps that overwrite each other's sums in shared memory."""
    yield from code.like("(slice - 1) * $stride", "0 * $stride")


@rule("synchronisation")
def slice_added_twice(code: Code) -> Found:
    """The sums of one slice of a block added in place of each other's."""
    yield from code.like("other * $stride", "(other > 0 ? other - 1 : 0) * $stride")


@rule("synchronisation")
def every_slice_goes_on(code: Code) -> Found:
    """All slices of a block store, though one alone has the whole sum."""
    yield from code.like("if (slice > 0) return;", ";")
    yield from code.like("if (place.slice > 0) return;", ";")


@rule("synchronisation")
def splits_share_a_workspace(code: Code) -> Found:
    """Blocks that share k write their sums over each other's."""
    yield from code.like("static_cast<long long>(ptx::block_y())", "static_cast<long long>(0)")


@rule("synchronisation")
def workspace_of_another_split(code: Code) -> Found:
    """The sums of the split before in place of a split's own."""
    yield from code.like("static_cast<long long>(split)", "static_cast<long long>(split - 1)")
    yield from code.like("split * all", "(split - 1) * all")


@rule("synchronisation")
def split_added_twice(code: Code) -> Found:
    """The sums of the first split are what the others are added to, and added again."""
    yield from code.like("int split = 1;", "int split = 0;")


@rule("synchronisation")
def split_left_out(code: Code) -> Found:
    """The sums of one split are not added."""
    yield from code.like("int split = 1;", "int split = 2;")
    yield from code.like("split < splits", "split < splits - 1")


@rule("synchronisation")
def exchange_dropped(code: Code) -> Found:
    """A lane's own value in place of another's."""
    yield from code.like("ptx::exchange($$value, $$mask)", "($$value)")


@rule("synchronisation")
def exchange_one_short(code: Code) -> Found:
    """Lanes that agree with half of their neighbours only."""
    yield from code.like("mask <= 2", "mask < 2")
    yield from code.like("int mask = 1;", "int mask = 2;")


RULES: Final = (
    *(barrier_removed, vote_of_one, waits_for_one_less, never_waits, last_wait_dropped),
    *(batch_left_open, batch_closed_twice, fills_before_the_barrier, stage_stands_still),
    *(stage_left_out, other_first_stage, other_stage, fewer_stages_ahead),
    *(scales_of_the_stage_too_late, slices_share_a_place, slice_added_twice),
    *(every_slice_goes_on, splits_share_a_workspace, workspace_of_another_split),
    *(split_added_twice, split_left_out, exchange_dropped, exchange_one_short),
)
