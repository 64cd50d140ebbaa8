"""A search is reproduced by its seed, remembers its failures, and ends in time."""

from __future__ import annotations

import importlib
import itertools
import random
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import strategies as st

from harness.case import Case
from harness.explore import SHRINK_SECONDS, Search, explore
from harness.judge import ParityFailure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = st.builds(
    lambda m, n, values: Case(
        kernel="a.b", sizes=(("m", m), ("n", n)), dtype="float16", values=values
    ),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.sampled_from(("normal", "ties")),
)


def passing(case: Case) -> None:
    assert case.kernel == "a.b"


def failing(*, m: int = 0, n: int = 0) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        if case.size_of["m"] >= m and case.size_of["n"] >= n:
            title = "a.b on cpu"
            raise ParityFailure(title, (f"m is at least {m}",), case=case.id)

    return check


def run(
    check: Callable[[Case], None],
    *,
    run_seed: int = 0,
    examples: int = 100,
    scope: str = "here",
    database: Path | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[list[str], ParityFailure | None]:
    """The ids of all cases in the order in which they were checked, and the failure."""
    search = Search(check, clock=clock)
    try:
        explore(CASES, search, examples=examples, run_seed=run_seed, scope=scope, database=database)
    except ParityFailure as failure:
        return search.ids, failure
    return search.ids, None


@pytest.mark.parametrize("check", [passing, failing(m=37)])
def test_the_run_seed_alone_decides_the_cases(check: Callable[[Case], None]) -> None:
    one, two = run(check, run_seed=7)[0], run(check, run_seed=7)[0]
    assert one == two
    assert len(one) > 10
    assert run(check, run_seed=8)[0] != one


def test_numbers_in_imported_modules_do_not_change_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(passing)[0]
    (tmp_path / "plugin_of_numbers.py").write_text(f"NUMBERS = {list(range(1000))}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("plugin_of_numbers")
    assert run(passing)[0] == before


def test_the_global_generators_stay_untouched() -> None:
    states = random.getstate(), torch.random.get_rng_state()
    run(failing(m=37))
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_as_many_cases_as_asked_for_are_tried() -> None:
    for examples in (1, 10, 60):
        ids, failure = run(passing, examples=examples)
        assert failure is None
        assert examples * 0.8 <= len(ids) <= examples


@pytest.mark.parametrize("run_seed", range(5))
def test_no_case_runs_twice(run_seed: int) -> None:
    checked: list[str] = []

    def check(case: Case) -> None:
        checked.append(case.id)
        failing(m=37, n=101)(case)

    ids, failure = run(check, run_seed=run_seed)
    assert failure is not None
    assert len(set(checked)) == len(checked)
    assert ids == checked


def test_no_case_of_a_small_domain_runs_twice() -> None:
    """However many choices lead to it."""
    checked: list[str] = []
    few = st.integers(0, 1000).map(
        lambda n: Case(kernel="a.b", sizes=(("m", n % 5),), dtype="float16")
    )
    search = Search(lambda case: checked.append(case.id))
    explore(few, search, examples=100, run_seed=0, scope="", database=None)
    assert len(checked) == len(set(checked)) == 5
    assert search.ids == checked


@pytest.mark.parametrize("run_seed", range(5))
def test_the_smallest_failure_is_reported_with_the_first_that_was_met(run_seed: int) -> None:
    ids, failure = run(failing(m=37, n=101), run_seed=run_seed)
    assert failure is not None
    assert failure.case.startswith("a.b/m=37,n=101,dtype=float16,values=normal,")
    assert failure.case in ids
    assert failure.first is not None
    assert failure.first.case in ids
    assert ids.index(failure.first.case) <= ids.index(failure.case)
    assert not getattr(failure, "__notes__", None)


def test_a_passing_search_raises_nothing() -> None:
    assert run(failing(m=5001))[1] is None


def test_an_error_of_the_check_itself_is_not_hidden() -> None:
    def broken(case: Case) -> None:
        if case.size_of["m"] > 10:
            msg = "the reference is broken"
            raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError, match="the reference is broken"):
        run(broken)


def test_a_remembered_failure_comes_first(tmp_path: Path) -> None:
    found = run(failing(m=37), database=tmp_path)[1]
    assert found is not None
    for run_seed in (0, 1):
        ids, again = run(failing(m=37), run_seed=run_seed, database=tmp_path)
        assert ids[0] == found.case
        assert again is not None
        assert again.case == found.case
    assert run(failing(m=37), run_seed=1)[0][0] != found.case


def test_a_failure_that_is_mended_is_tried_and_forgotten(tmp_path: Path) -> None:
    found = run(failing(m=37), database=tmp_path)[1]
    assert found is not None
    ids, failure = run(passing, run_seed=1, database=tmp_path)
    assert ids[0] == found.case
    assert failure is None
    for _ in range(2):  # what was met on the way is tried as well, then nothing is left
        ids, _ = run(passing, run_seed=1, database=tmp_path)
    assert ids == run(passing, run_seed=1)[0]


def test_another_scope_has_failures_of_its_own(tmp_path: Path) -> None:
    run(failing(m=37), scope="here", database=tmp_path)
    fresh = run(passing, run_seed=1, scope="there")[0]
    assert run(passing, run_seed=1, scope="there", database=tmp_path)[0] == fresh


class Clock:
    """Seconds that pass by being counted: so many for every check after the first failure."""

    def __init__(self, start: float, step: float) -> None:
        self.now = start
        self._step = step
        self._failed = False

    def __call__(self) -> float:
        return self.now

    def checks(self, check: Callable[[Case], None]) -> Callable[[Case], None]:
        def timed(case: Case) -> None:
            self.now += self._step if self._failed else 0
            try:
                check(case)
            except ParityFailure:
                self._failed = True
                raise

        return timed


@pytest.mark.parametrize("start", [0.0, 1e6])
@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_shrinking_ends_in_time(start: float, seconds: float) -> None:
    clock = Clock(start, seconds)
    ids, failure = run(clock.checks(failing(m=37, n=101)), clock=clock)
    assert failure is not None
    assert failure.first is not None
    after = ids[ids.index(failure.first.case) + 1 :]
    assert len(after) == SHRINK_SECONDS / seconds + 1
    assert failure.case in ids
    assert failure.problems == ("m is at least 37",)


def test_a_search_before_any_failure_takes_its_time() -> None:
    seconds = itertools.count(step=1000.0)
    ids, failure = run(passing, clock=lambda: next(seconds))
    assert failure is None
    assert len(ids) >= 80


def test_the_first_failure_is_reported_where_no_time_is_left() -> None:
    clock = Clock(0.0, 1000.0)
    ids, failure = run(clock.checks(failing(m=37)), clock=clock)
    assert failure is not None
    assert failure.first is not None
    assert failure.case in ids[ids.index(failure.first.case) :]
    assert len(ids) - ids.index(failure.first.case) <= 2
