"""Checks that do more with a case than run it have their tests, their ids and their commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness import layers
from harness.selection import kind_of
from suites.boundary import test_boundary
from suites.fake_shape import test_fake_shape
from suites.meta.users_project import (
    GOOD,
    TOYS,
    Project,
    failure,
    printed_command,
    ran,
    refusal,
)
from suites.module import test_module
from suites.numeric import test_numeric

if TYPE_CHECKING:
    from types import ModuleType

pytest_plugins = ("pytester",)

SUITES = (test_fake_shape, test_numeric, test_module, test_boundary)
NUMERIC = ("--pyargs", "suites.numeric", "-m", "cpu", "--cases=6")
FORGETFUL = """


from itertools import count


RUNS = count()


@kernel("double", backend="triton", arch=">=sm80", variant="forgetful")
def forgets_every_third_time(x):
    launch(x)
    return x + x + (next(RUNS) % 3 == 1)
"""
WITH_ROWS = TOYS.replace('    dtypes=("float32"', '    independent=("m",),\n    dtypes=("float32"')
CASE = "double.triton/m=3,n=6,dtype=float32,values=normal,layout=contiguous,config=default,seed=0"


def asked(module: ModuleType) -> dict[str, dict[str, Any]]:
    """What the marker of each test of a suite says."""
    found = {}
    for name, test in vars(module).items():
        for mark in getattr(test, "pytestmark", ()):
            found[name] = dict(mark.kwargs)
    return found


def test_every_check_of_the_harness_has_its_test_and_no_test_is_without() -> None:
    tests = {name: mark for module in SUITES for name, mark in asked(module).items()}
    assert {name: mark["layer"] for name, mark in tests.items()} == {
        f"test_{check.name}": check.layer for check in layers.CHECKS
    }
    for check in layers.CHECKS:
        mark = tests[f"test_{check.name}"]
        assert (mark.get("by") == "dtype") is check.by_dtype
        assert mark.get("needs", "") == check.needs


@pytest.mark.parametrize(
    ("case_id", "parts"),
    [
        (CASE, (CASE, "")),
        (f"{CASE}/rerun", (CASE, "rerun")),
        ("double.triton/probe=m=65", ("double.triton/probe=m=65", "")),
        ("a.b/n=1,path=x/y,seed=3/no_word", ("a.b/n=1,path=x/y,seed=3", "no_word")),
        ("a.b/n=1,path=x/rerun,seed=3", ("a.b/n=1,path=x/rerun,seed=3", "")),
    ],
)
def test_a_kind_is_what_follows_the_case(case_id: str, parts: tuple[str, str]) -> None:
    assert kind_of(case_id) == parts


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        ("", "test_matches_the_reference"),
        ("/rerun", "test_repeats_its_results"),
        ("/sequence", "test_leaves_other_calls_alone"),
        ("/impostor", "test_rejects_impostors"),
    ],
)
def test_an_id_selects_the_check_of_its_kind(project: Project, kind: str, test: str) -> None:
    result = project.run(*NUMERIC, f"--case={CASE}{kind}", "-rA")
    if kind == "/impostor":  # its cases are a list, which this one is not in
        result.stdout.fnmatch_lines(["*no case was checked; --case=*names none here*"])
        return
    assert ran(result) == {"passed": 1}
    result.stdout.fnmatch_lines([f"PASSED *{test}*double.triton-cpu-float32*"])


def test_an_id_of_an_unknown_kind_is_refused(project: Project) -> None:
    said = refusal(project.run(*NUMERIC, f"--case={CASE}/again"))
    assert f"--case='{CASE}/again' belongs to none of the selected tests" in said
    assert "dtype='x'" in refusal(
        project.run(*NUMERIC, f"--case={CASE.replace('float32', 'x')}/rerun")
    )


def test_a_check_is_left_out_where_the_op_has_nothing_for_it(project: Project) -> None:
    listed = project.run(*NUMERIC, GOOD, "--collect-only", "-q").outlines
    assert not any("test_keeps_neighbours_apart" in line for line in listed)
    project.write(rows=WITH_ROWS)
    listed = project.run(*NUMERIC, GOOD, "--collect-only", "-q", declare="rows.py").outlines
    assert sum("test_keeps_neighbours_apart" in line for line in listed) == 2


def test_the_printed_command_reproduces_a_rerun(project: Project) -> None:
    project.write(forgetful=TOYS + FORGETFUL)
    options = ("--kernel=double.triton.forgetful", "-k", "repeats and float32")
    first = failure(project.run(*NUMERIC, *options, declare="forgetful.py"))
    assert first[1].endswith("/rerun")
    assert "differs from the first run" in "".join(first)
    again = project.command(*printed_command(first))
    assert ran(again) == {"failed": 1}
    assert failure(again)[1:3] == first[1:3]
