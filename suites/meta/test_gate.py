"""The gate is green for a whole run, and red for a hole of each kind, which it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.gate.evidence import CannotJudge, Merged
from harness.gate.holes import Hole, Status
from harness.gate.judge import Finding, Judgement, judge
from suites.meta.gate_runs import (
    ALL,
    CPU,
    EVERYTHING,
    FACTS,
    HALF,
    KERNEL,
    NOW,
    NUMERIC,
    SM90,
    SM100,
    contract_of,
    failed,
    good,
    judged,
    only,
    run_of,
    skipped,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.manifest import Asked
    from harness.record import Record

RETAINED: Final = """
[[rules]]
policy = "retained"
arch = "sm100"
because = "no such machine"
reference = "#7"
"""
KNOWN: Final = f"""
[[known-failures]]
kernel = "{KERNEL}"
arch = "sm90"
dtype = "float16"
because = "rounds twice"
reference = "#8"
"""
EXCEPTION: Final = f"""
[[exceptions]]
kernel = "{KERNEL}"
arch = "sm100"
holes = ["skipped"]
because = "its runner is away"
reference = "#9"
"""


def red(judgement: Judgement) -> list[Finding]:
    return [each for each in judgement.findings if each.status is Status.RED]


def of(judgement: Judgement, asked: Asked) -> Finding:
    key = (asked.kernel, asked.arch, asked.layer, asked.dtype)
    (found,) = (f for f in judgement.findings if (f.kernel, f.arch, f.layer, f.dtype) == key)
    return found


def test_a_whole_run_is_green() -> None:
    judgement = judged(whole())
    assert (judgement.green, judgement.exit_status, judgement.notes) == (True, 0, ())
    assert {each.status for each in judgement.findings} == {Status.GREEN}
    assert len(judgement.findings) == len(ALL)
    assert judgement.runs == ("a1",)


PLANTED: Final[dict[str, tuple[Record | None, Hole, str]]] = {
    "failed": (failed(HALF), Hole.FAILED, "y: budget: 3 of 8 elements wrong (case double/m=1)"),
    "refused": (failed(HALF, "refused"), Hole.FAILED, "refused: "),
    "out of memory": (failed(HALF, "out_of_memory"), Hole.FAILED, "out_of_memory: "),
    "crashed": (failed(HALF, "crashed"), Hole.CRASHED, "crashed: "),
    "hung": (failed(HALF, "hung"), Hole.HUNG, "hung: "),
    "skipped": (skipped(HALF), Hole.SKIPPED, "sm90 is not on this machine"),
    "lost": (None, Hole.LOST, "collected in run a1 (a1.jsonl), and no record of it"),
    "no cases": (good(HALF, cases=0), Hole.NO_CASES, "0 cases, at least 1"),
    "all unfair": (good(HALF, cases=9, unfair=9), Hole.NO_CASES, "0 cases"),
    "other backend": (
        good(HALF, backend="cuda", launched=["cuda:m.f"]),
        Hole.OTHER_BACKEND,
        "ran on backend 'cuda', 'triton' is declared",
    ),
    "other launch": (
        good(HALF, launched=["cuda:aten.mm"]),
        Hole.OTHER_BACKEND,
        "launched cuda:aten.mm, none of them of backend 'triton'",
    ),
    "no launch": (good(HALF, launched=[]), Hole.OTHER_BACKEND, "no launch of a kernel was seen"),
    "emulated": (
        good(HALF, evidence="emulated"),
        Hole.WEAK_EVIDENCE,
        "evidence 'emulated', 'device' is asked for",
    ),
}


@pytest.mark.parametrize(("made", "hole", "words"), PLANTED.values(), ids=PLANTED)
def test_a_hole_is_red(made: Record | None, hole: Hole, words: str) -> None:
    judgement = judged(whole(only(HALF, made)))
    (finding,) = red(judgement)
    assert finding is of(judgement, HALF)
    assert finding.hole is hole
    assert words in finding.words
    assert judgement.exit_status == 1


@pytest.mark.parametrize("made", [made for made, *_ in PLANTED.values()], ids=PLANTED)
def test_what_is_retained_is_said_and_does_not_gate(made: Record | None) -> None:
    rule = RETAINED.replace("sm100", "sm90")
    finding = of(judged(whole(only(HALF, made)), rule), HALF)
    assert (finding.status, finding.reference) == (Status.RETAINED, "#7")
    assert finding.hole is not None
    assert judged(whole(only(HALF, made)), rule).green


def test_too_few_cases_of_one_check() -> None:
    rule = f'[[rules]]\ncheck = "{NUMERIC}"\narch = "sm90"\ncases = 21'
    findings = red(judged(whole(), rule))
    assert {(f.dtype, f.hole) for f in findings} == {
        ("float32", Hole.TOO_FEW_CASES),
        ("float16", Hole.TOO_FEW_CASES),
    }
    assert "20 cases, at least 21" in findings[0].words
    assert judged(whole(), rule.replace("21", "20")).green


def test_unfair_cases_do_not_count() -> None:
    made = good(HALF, cases=20, unfair=6)
    rule = f'[[rules]]\ncheck = "{NUMERIC}"\ncases = 15'
    (finding,) = red(judged(whole(only(HALF, made)), rule))
    assert (finding.hole, finding.dtype) == (Hole.TOO_FEW_CASES, "float16")


def dropped(*gone: Asked, **changes: Any) -> Merged:  # noqa: ANN401 - of any field
    kept = [each for each in ALL if each not in gone]
    return Merged((run_of(map(good, kept), kept, **changes),))


def test_what_options_dropped_is_red() -> None:
    (finding,) = red(judged(dropped(HALF, deselected=(HALF,))))
    assert (finding.hole, finding.dtype) == (Hole.DESELECTED, "float16")


def test_a_check_that_no_run_collected_is_red() -> None:
    (finding,) = red(judged(dropped(HALF, uncovered=(HALF,))))
    assert (finding.hole, finding.dtype) == (Hole.UNCOVERED, "float16")


def test_a_claimed_cell_without_any_check_is_red() -> None:
    compiled = next(each for each in SM90 if each.layer == "compile")
    (finding,) = red(judged(dropped(compiled)))
    assert (finding.hole, finding.arch, finding.layer) == (Hole.UNCOVERED, "sm90", "compile")


def test_a_module_that_did_not_load_is_red() -> None:
    (finding,) = red(judged(whole(not_loaded={"kernels.moe": "No module named 'triton'"})))
    assert finding.hole is Hole.UNCOVERED
    assert "kernels.moe could not be imported" in finding.words


def test_the_gravest_hole_is_named_and_the_others_counted() -> None:
    again = HALF._replace(check="test_repeats[float16]")
    lost = HALF._replace(check="test_neighbours[float16]")
    run = run_of([*map(good, ALL), failed(again, "crashed")], [*ALL, again, lost])
    (finding,) = red(judged(Merged((run,))))
    assert finding.hole is Hole.CRASHED
    assert finding.words.startswith("test_repeats[float16]: crashed: ")
    assert finding.words.endswith("; 1 lost more")


def test_a_launch_of_a_failed_check_is_one() -> None:
    impostor = HALF._replace(check="test_rejects_impostors[float16]")
    records = [failed(each) if each == HALF else good(each) for each in ALL]
    run = run_of([*records, good(impostor, launched=[])], [*ALL, impostor])
    (finding,) = red(judged(Merged((run,))))
    assert (finding.hole, "other_backend" in finding.words) == (Hole.FAILED, False)


UNFINISHED: Final = {
    "killed": ({"finished": "", "status": None}, "did not come to its end"),
    "interrupted": ({"status": 2}, "was interrupted"),
    "internal error": ({"status": 3}, "ended with an internal error"),
    "usage error": ({"status": 4}, "was refused by pytest"),
}


@pytest.mark.parametrize(("changes", "words"), UNFINISHED.values(), ids=UNFINISHED)
def test_a_run_that_did_not_end_is_red(changes: dict[str, Any], words: str) -> None:
    first, second = red(judged(whole(only(HALF, None), **changes)))
    assert first.hole is Hole.UNFINISHED
    assert words in first.words
    assert "11 of 12 collected checks have a record; run it again" in first.words
    assert second.hole is Hole.LOST


EMPTY: Final[dict[str, Any]] = {"collected": (), "kernels": {}, "cells": ()}


NAMED: Final[dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "rule": ((RETAINED,), {}),
    "known failure": ((KNOWN,), {}),
    "arch": ((), {"archs": ["sm90"]}),
    "kernel": ((), {"kernels": [KERNEL]}),
}
NONE: Final = Merged(
    (
        run_of((), status=4, not_loaded={"kernels.moe": "No module"}, **EMPTY),
        run_of((), name="b2", finished="", status=None, **EMPTY),
        run_of((), name="c3", status=5, **EMPTY),
    )
)


@pytest.mark.parametrize(("entries", "options"), NAMED.values(), ids=NAMED)
def test_runs_that_collected_nothing_say_how_they_ended(
    entries: tuple[str, ...], options: dict[str, Any]
) -> None:
    message = (
        r"^the runs collected nothing, so that no kernel is known: run a1 \(a1\.jsonl\) was "
        r"refused by pytest; run b2 \(b2\.jsonl\) did not come to its end; "
        r"run c3 \(c3\.jsonl\) ended; kernels\.moe could not be imported; run pytest again$"
    )
    with pytest.raises(CannotJudge, match=message):
        judge(contract_of(*entries), NONE, **options, now=NOW)


def test_runs_that_collected_nothing_are_red_where_nobody_names_a_kernel() -> None:
    assert {f.hole for f in red(judged(NONE))} == {Hole.UNFINISHED, Hole.UNCOVERED}


def machines(first: Callable[[Asked], Record], second: Callable[[Asked], Record]) -> Merged:
    return Merged((run_of(map(first, ALL)), run_of(map(second, ALL), name="b2")))


def elsewhere(*archs: str) -> Callable[[Asked], Record]:
    """What a machine without these archs records."""
    return lambda each: (
        skipped(each) if each.arch in archs and each.layer != "compile" else good(each)
    )


def test_machines_complete_each_other() -> None:
    judgement = judged(machines(elsewhere("sm90"), elsewhere("sm100")))
    assert (judgement.green, judgement.notes) == (True, ())
    assert judgement.runs == ("a1", "b2")
    assert not judged(machines(elsewhere("sm90"), elsewhere("sm90"))).green


@pytest.mark.parametrize("order", [1, -1])
def test_failed_anywhere_is_failed_and_the_duplicate_is_named(order: int) -> None:
    broken = lambda each: failed(each) if each == HALF else good(each)  # noqa: E731
    judgement = judged(machines(*(broken, good)[::order]))
    (finding,) = red(judgement)
    assert finding.hole is Hole.FAILED
    (note,) = judgement.notes
    assert note.startswith(f"duplicate: {NUMERIC}[float16] of {KERNEL} on sm90, numeric: ")
    assert "failed in run " in note
    assert "passed in run " in note


def test_what_one_machine_ran_well_is_enough() -> None:
    few = lambda each: good(each, cases=1)  # noqa: E731
    rule = '[[rules]]\nlayer = "numeric"\ncases = 9'
    assert judged(machines(few, good), rule).green
    assert judged(machines(good, few), rule).green


def test_dropped_on_one_machine_and_passed_on_another_is_passed() -> None:
    cpu, gpu = run_of(map(good, CPU), CPU, deselected=(*SM90, *SM100)), run_of([], (), name="b2")
    rest = run_of(map(good, (*SM90, *SM100)), (*SM90, *SM100), name="c3", deselected=CPU)
    assert judged(Merged((cpu, gpu, rest))).green
    assert {f.hole for f in red(judged(Merged((cpu, gpu))))} == {Hole.DESELECTED}


def test_an_arch_is_judged_with_what_needs_no_gpu() -> None:
    merged = whole(lambda each: failed(each) if each.arch == "sm100" else good(each))
    judgement = judged(merged, archs=["sm90"])
    assert judgement.green
    assert {each.arch for each in judgement.findings} == {"cpu", "sm90"}
    assert not judged(whole(only(CPU[0], failed(CPU[0]))), archs=["sm90"]).green


def test_an_arch_on_which_nothing_ran_is_red_whatever_is_retained() -> None:
    laptop = whole(elsewhere("sm90", "sm100"))
    assert not judged(laptop, RETAINED).green  # sm90 gates
    retained = RETAINED.replace('"sm100"', '["sm90", "sm100"]\nlayer = ["numeric", "boundary"]')
    assert judged(laptop, retained).green
    (finding,) = red(judged(laptop, retained, archs=["sm100"]))
    assert (finding.arch, finding.hole) == ("sm100", Hole.WEAK_EVIDENCE)
    assert "no check ran on sm100" in finding.words


def test_an_arch_whose_checks_only_failed_is_red() -> None:
    broken = lambda each: failed(each) if each.arch == "sm100" else good(each)  # noqa: E731
    assert not judged(whole(broken), RETAINED, archs=["sm100"]).green


def test_a_gate_that_asks_for_nothing_is_red() -> None:
    (finding,) = red(judged(whole(), RETAINED.replace("sm100", "*")))
    assert "a gate that asks for nothing is not green" in finding.words


def test_an_arch_or_kernel_that_is_not_there_cannot_be_judged() -> None:
    with pytest.raises(CannotJudge, match=r"arch='sm9' is claimed by no kernel.*nearest: 'sm90'"):
        judged(whole(), archs=["sm9"])
    with pytest.raises(CannotJudge, match=r"kernel='duble\.\*' matches none.*'double\.triton'"):
        judge(EVERYTHING, whole(), kernels=["duble.*"], now=NOW)


def test_kernels_can_be_judged_alone() -> None:
    other = [each._replace(kernel="triple.cuda") for each in ALL]
    kernels = {KERNEL: FACTS, "triple.cuda": replace(FACTS, backend="cuda")}
    run = run_of(
        [*map(good, ALL), *(failed(each, backend="cuda") for each in other)],
        [*ALL, *other],
        kernels=kernels,
        cells=tuple(dict.fromkeys(each[:3] for each in (*ALL, *other))),
    )
    assert judge(EVERYTHING, Merged((run,)), kernels=["double.*"], now=NOW).green
    assert not judge(EVERYTHING, Merged((run,)), now=NOW).green


def test_a_known_failure_is_excused_with_its_reference() -> None:
    judgement = judged(whole(only(HALF, failed(HALF))), KNOWN)
    finding = of(judgement, HALF)
    assert (finding.status, finding.hole, finding.reference) == (
        Status.EXCUSED,
        Hole.FAILED,
        "#8",
    )
    assert finding.words.endswith("; excused: rounds twice")
    assert judgement.green


@pytest.mark.parametrize("made", [skipped(HALF), None, good(HALF, cases=0)])
def test_a_known_failure_excuses_nothing_but_failures(made: Record | None) -> None:
    assert not judged(whole(only(HALF, made)), KNOWN).green


def test_an_unexpected_pass_is_red_until_its_entry_is_gone() -> None:
    (finding,) = red(judged(whole(), KNOWN))
    assert (finding.hole, finding.reference) == (Hole.UNEXPECTED_PASS, "#8")
    assert "contract.toml:3 knows it as a failure; remove that entry" in finding.words


def test_an_exception_excuses_the_holes_that_it_names() -> None:
    away = whole(elsewhere("sm100"))
    judgement = judged(away, EXCEPTION)
    assert judgement.green
    assert of(judgement, SM100[1]).reference == "#9"
    lost = whole(lambda each: None if each == SM100[1] else elsewhere("sm100")(each))
    assert [f.hole for f in red(judged(lost, EXCEPTION))] == [Hole.LOST]


LAST_DAY: Final = {"2026-03-01": False, "2026-03-02": True, "2026-03-03": True}


@pytest.mark.parametrize(("day", "valid"), LAST_DAY.items())
@pytest.mark.parametrize("entry", [RETAINED, KNOWN, EXCEPTION])
def test_what_has_expired_excuses_nothing(entry: str, day: str, valid: bool) -> None:  # noqa: FBT001
    def change(each: Asked) -> Record:
        return failed(each) if each == HALF else elsewhere("sm100")(each)

    entries = [f"{each}expires = {day}" if each is entry else each for each in (KNOWN, EXCEPTION)]
    if entry is RETAINED:
        entries = [KNOWN, f"{RETAINED}expires = {day}"]
    judgement = judged(whole(change), *entries)
    assert judgement.green == valid
    for finding in red(judgement):
        assert finding.hole is Hole.EXPIRED
        assert f"expired on {day} (#" in finding.words


def test_a_later_rule_decides() -> None:
    gating = f'[[rules]]\npolicy = "gating"\narch = "sm100"\nlayer = "numeric"\nkernel = "{KERNEL}"'
    judgement = judged(whole(elsewhere("sm100")), RETAINED, gating)
    assert {(f.layer, f.hole) for f in red(judgement)} == {("numeric", Hole.SKIPPED)}
    assert judged(whole(elsewhere("sm100")), gating, RETAINED).green
