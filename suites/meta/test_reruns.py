"""A kernel whose result depends on anything but its inputs is found out by running it again."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import layers
from harness.case import parse
from harness.reruns import check_case
from suites.meta.scaling import check_of, computed, declared, failure_of, launch, right

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
repeats = layers.repeats_its_results


def leaves_a_column_unwritten(x: Tensor, **rest: object) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    launch()
    y[:, 1:] = computed(x, **rest)[:, 1:]  # type: ignore[arg-type]
    return y


def reads_what_nobody_wrote(x: Tensor, **rest: object) -> Tensor:
    """A workspace that only matters in its sign: NaN compares like a positive number."""
    workspace = torch.empty(1)
    y = right(x, **rest)  # type: ignore[arg-type]
    return y + 1 if float(workspace) > 2.0**99 else y


def counting(error: Callable[[int], float]) -> Callable[..., Tensor]:
    """A kernel whose nth run is off by a relative error."""
    runs = itertools.count()

    def run(x: Tensor, **rest: object) -> Tensor:
        launch()
        return (computed(x, **rest) * (1 + error(next(runs)))).to(x.dtype)  # type: ignore[arg-type]

    return run


def launches_once() -> Callable[..., Tensor]:
    """A kernel that remembers its last call, and does not run again for the same tensor."""
    last: list[tuple[Tensor, Tensor]] = []

    def run(x: Tensor, **rest: object) -> Tensor:
        if not last or last[0][0] is not x:
            last[:] = [(x, right(x, **rest))]  # type: ignore[arg-type]
        return last[0][1].clone()

    return run


def fails_later() -> Callable[..., Tensor]:
    """A kernel that gives up after a few runs."""
    runs = itertools.count()

    def run(x: Tensor, **rest: object) -> Tensor:
        launch()
        if next(runs) % 2:
            msg = "out of workspaces"
            raise RuntimeError(msg)
        return computed(x, **rest).to(x.dtype)  # type: ignore[arg-type]

    return run


def moves() -> Callable[..., Tensor]:
    """A kernel whose result lies elsewhere every other time."""
    runs = itertools.count()

    def run(x: Tensor, **rest: object) -> Tensor:
        y = right(x, **rest)  # type: ignore[arg-type]
        return y.to("meta") if next(runs) % 2 else y

    return run


FAULTS = {
    "unwritten": (leaves_a_column_unwritten, r"its memory poisoned with \w+ after \w+, differs"),
    "uninitialised": (reads_what_nobody_wrote, "differs from the first run: exact: "),
    "random": (counting(lambda run: run % 2 * 2.0**-22), "y: run 2, .*elements wrong"),
    "cached": (launches_once(), "run 2, .*: no launch was seen"),
    "device": (moves(), "y: run 2, .*, lies on meta, the inputs on cpu"),
    "error": (fails_later(), "run 2, .*: raised RuntimeError after 1 launches: out of workspaces"),
}


@pytest.mark.parametrize(("function", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_reproduced_by_its_id(
    function: Callable[..., Tensor], says: str
) -> None:
    words = failure_of(repeats, function)
    assert "/rerun\n" in words
    assert re.search(says, words), words


def test_a_sound_kernel_passes_and_says_what_ran() -> None:
    with declared(right):
        check = check_of()
        repeats(check)
    assert check.counts["cases"] >= 4
    assert check.counts["second_device_skipped"] == check.counts["cases"]


def test_a_kernel_that_is_declared_non_deterministic_has_its_budget() -> None:
    within, beyond = 2.0**-25, 2.0**-10
    assert failure_of(repeats, counting(lambda run: run % 2 * within), deterministic=False) == ""
    words = failure_of(repeats, counting(lambda run: run % 2 * beyond), deterministic=False)
    assert "run 2, " in words
    assert "y: budget: " in words


def test_the_runs_are_of_one_call() -> None:
    """Inputs keep their addresses: a rerun that builds them anew could meet another alignment."""
    seen = []

    def run(x: Tensor, **rest: object) -> Tensor:
        seen.append(x.data_ptr())
        return right(x, **rest)  # type: ignore[arg-type]

    with declared(run):
        case = parse(
            "scaled.cuda/m=3,n=4,dtype=float32,sign=plus,values=normal,"
            "layout=contiguous,config=default,seed=1"
        )
        check = check_of()
        assert check_case(check.op, check.kernel, case, CPU, repeats=3) == ()
    assert len(seen) == 3
    assert len(set(seen)) == 1
