"""Faults of who waits for whom in CUDA C++: barriers, copies in flight, stages, launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.power.cpp import Code, rule

if TYPE_CHECKING:
    from harness.power.cpp import Found

_TURN: Final = "const int next = i + kAhead; if (next < count) { $$$body } ptx::close_batch();"
_NEXT: Final = "if (step + STAGES - 1 < steps) { $$$body }"


@rule("synchronisation")
def barrier_removed(code: Code) -> Found:
    """Threads that do not wait for each other."""
    yield from code.like("ptx::block_barrier();", ";")


@rule("synchronisation")
def vote_of_one(code: Code) -> Found:
    """A barrier that also votes, left out: each thread goes on, by its own vote."""
    yield from code.like("ptx::block_barrier_any($$mine)", "($$mine)")
    yield from code.like("ptx::any_lane($$mine)", "($$mine)")


@rule("synchronisation")
def warp_barrier_removed(code: Code) -> Found:
    """Lanes that do not wait for each other's copies, or for who still reads them."""
    yield from code.like("ptx::warp_barrier();", ";")


@rule("synchronisation")
def cluster_barrier_removed(code: Code) -> Found:
    """Blocks that read sums of another one not yet there, or that it has left behind."""
    yield from code.like("ptx::cluster_barrier();", ";")


@rule("synchronisation")
def barrier_of_fewer(code: Code) -> Found:
    """A warp, or a block, that waits for itself alone."""
    yield from code.like("ptx::block_barrier();", "ptx::warp_barrier();")
    yield from code.like("ptx::cluster_barrier();", "__syncthreads();")


@rule("synchronisation")
def previous_not_waited_for(code: Code) -> Found:
    """Inputs read while the kernel that makes them still runs."""
    yield from code.like("ptx::wait_for_previous();", ";")


@rule("synchronisation")
def one_thread_waits(code: Code) -> Found:
    """Inputs read by all threads when one of them may."""
    yield from code.like(
        "ptx::wait_for_previous();", "if (ptx::thread() == 0) ptx::wait_for_previous();"
    )


@rule("synchronisation")
def reads_before_it_waits(code: Code) -> Found:
    """The wait for the kernel before, behind what reads its results."""
    wait = "ptx::wait_for_previous();"
    between = "const int finisher = $$number; Float4 low_rank[kOwn];"
    whole = f"{wait} {between} if (finisher < 0) {{ $$$multiply }}"
    yield from code.like(whole, f"{between} if (finisher < 0) {{ $$$multiply {wait} }}")


@rule("synchronisation")
def next_one_starts_first(code: Code) -> Found:
    """The next kernel let in before this one has waited: as good, if that one waits for this."""
    wait, start = "ptx::wait_for_previous();", "ptx::let_next_start();"
    yield from code.like(f"{wait} {start}", f"{start} {wait}")
    yield from code.like(wait, f"{start} {wait}")


@rule("synchronisation")
def waits_for_one_less(code: Code) -> Found:
    """The newest stage counted as there while its copies are under way."""
    yield from code.like("wait_batches<STAGES - 2>", "wait_batches<STAGES - 1>")


@rule("synchronisation")
def waits_one_step_late(code: Code) -> Found:
    """The first step, or the first two, taken without a wait."""
    yield from code.like("if (i >= 0) {", "if (i > 0) {")
    yield from code.like("if (i >= 0) {", "if (i > 1) {")


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
def fills_before_the_barrier(code: Code) -> Found:
    """A stage refilled while others still read it."""
    vote = "careful = ptx::block_barrier_any($$mine);"
    filling = "bring_step($$step, $$stage);"
    swapped = f"{filling} {vote}"
    yield from code.like(f"{vote} {filling}", swapped)
    yield from code.like(
        f"ptx::warp_barrier(); }} {_TURN}", f"}} {_TURN} if (i >= 0) ptx::warp_barrier();"
    )
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
    yield from code.like("brought = 0", "brought = 1")
    yield from code.like("brought = STAGES - 1", "brought = STAGES - 2")


@rule("synchronisation")
def other_stage(code: Code) -> Found:
    """The stage beside the right one."""
    yield from code.like("(step + STAGES - 1) % STAGES", "(step + STAGES) % STAGES")
    yield from code.like("step % STAGES", "(step + 1) % STAGES")
    for base in ("shared", "base", "stages"):
        yield from code.like(f"{base} + read *", f"{base} + brought *")
    yield from code.like("stages + brought *", "stages + read *")


@rule("synchronisation")
def ring_of_another_length(code: Code) -> Found:
    """Stages that follow each other in a ring of one less, or of one more than there are."""
    yield from code.like("stage + 1 == STAGES", "stage + 2 >= STAGES")
    yield from code.like("stage + 1 == STAGES", "stage == STAGES")


@rule("synchronisation")
def fewer_stages_ahead(code: Code) -> Found:
    """One stage too few filled before the loop that counts on them."""
    yield from code.like("ahead < STAGES - 1", "ahead < STAGES - 2")
    yield from code.like("kAhead = STAGES - 1", "kAhead = STAGES - 2")


@rule("synchronisation")
def more_stages_ahead(code: Code) -> Found:
    """As many steps ahead as there are stages: the newest one fills what is read."""
    yield from code.like("kAhead = STAGES - 1", "kAhead = STAGES")
    yield from code.like(
        "bring_step(step + STAGES - 1, brought)", "bring_step(step + STAGES, read)"
    )


@rule("synchronisation")
def scales_of_another_stage(code: Code) -> Found:
    """Scales taken from the stage that is being filled."""
    for place in ("kCodeBytes", "kColumnsAt"):
        yield from code.like(f"(stage + {place})", f"(shared + brought * kStageBytes + {place})")


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
    *(barrier_removed, vote_of_one, warp_barrier_removed, cluster_barrier_removed),
    *(barrier_of_fewer, previous_not_waited_for, one_thread_waits, reads_before_it_waits),
    *(next_one_starts_first, waits_for_one_less, waits_one_step_late, never_waits),
    *(last_wait_dropped, batch_left_open, fills_before_the_barrier),
    *(stage_stands_still, stage_left_out, other_first_stage, other_stage),
    *(ring_of_another_length, fewer_stages_ahead, more_stages_ahead, scales_of_another_stage),
    *(exchange_dropped, exchange_one_short),
)
