"""Mutants apply exactly or not at all, have stable names, and spread over kernels and families."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from harness.power import syntax
from harness.power.mutation import (
    AnchorGone,
    BrokenRule,
    Mutation,
    main,
    mutations,
    sample,
    written,
)
from harness.power.syntax import FAMILIES, Edit
from harness.power.targets import PYTHON, Target, targets

KERNELS = (
    "nvfp4_gemm.triton",
    "nvfp4_moe_down.triton",
    "nvfp4_moe_up.triton",
    "nvfp4_quantize.triton",
    "rms_norm.triton",
    "silu_and_mul.triton",
    "svdq_gemm_w4a4.triton",
    "svdq_quantize_w4a4_act_fuse_lora.triton",
)
# A weighted sum of products has no activation, maximum or rounding of its own to get wrong.
FEW = {("nvfp4_moe_down.triton", "semantic")}
# Their device code is C++ (suites/meta/test_cuda_mutants.py) or the CuTe DSL's.
ON_A_GPU = (
    *("nvfp4_gemm.cutedsl", "nvfp4_gemm.cutedsl.block_scaled", "nvfp4_gemm.cutedsl.warp_scaled"),
    *("svdq_gemm_w4a4.cuda", "svdq_quantize_w4a4_act_fuse_lora.cuda"),
    *("svdq_gemm_w4a4_activated.cuda", "svdq_gemm_w4a4_requantized.cuda"),
)
SMALL = '''"""A kernel."""

import triton
import triton.language as tl


@triton.jit
def _double(x, y, n, BLOCK_N: tl.constexpr):
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.load(x + cols, mask=cols < n, other=0.0).to(tl.float32)
    tl.store(y + cols, tile * 2.0, mask=cols < n)
'''


@cache
def bundled() -> tuple[tuple[Target, ...], tuple[Mutation, ...]]:
    found = tuple(target for target in targets("kernels") if target.language == PYTHON)
    made = [m for t in found for m in mutations(t.kernel, t.module, t.source())]
    return found, tuple(made)


def small(source: str = SMALL) -> list[Mutation]:
    return mutations("double.triton", "double", source)


def test_every_family_has_mutants_of_every_kernel() -> None:
    counts = Counter((each.kernel, each.family) for each in bundled()[1])
    pairs = [(k, f) for k in KERNELS for f in FAMILIES if (k, f) not in FEW]
    missing = [pair for pair in pairs if counts[pair] < 3]
    assert {each.kernel for each in bundled()[1]} == {*KERNELS, *ON_A_GPU}
    assert not missing
    assert sum(counts.values()) >= 600
    for family in FAMILIES:
        assert sum(counts[kernel, family] for kernel in KERNELS) >= 40, family


def test_wrappers_of_a_kernel_are_targets_too() -> None:
    modules = {target.module: target.kernel for target in bundled()[0]}
    assert modules["kernels.norm.module"] == "rms_norm.triton"
    assert modules["kernels.svdq.linear"] == "svdq_gemm_w4a4.triton"
    assert "kernels.contract" not in modules


def test_a_module_beside_the_kernels_of_one_op_is_a_target_of_one_that_can_be_emulated() -> None:
    modules = {target.module: target.kernel for target in bundled()[0]}
    assert modules["kernels.nvfp4.gemm_arguments"] == "nvfp4_gemm.triton"
    assert modules["kernels.nvfp4.quantize_arguments"] == "nvfp4_quantize.triton"
    assert modules["kernels.svdq.gemm_arguments"] == "svdq_gemm_w4a4.triton"
    assert modules["kernels.svdq.quantize_arguments"] == "svdq_quantize_w4a4_act_fuse_lora.triton"
    assert not {"kernels.nvfp4.domain", "kernels.svdq.domain"} & set(modules)
    wrapping = {target.module for target in bundled()[0] if target.wraps}
    assert wrapping == {
        "kernels.activation.module",
        "kernels.norm.module",
        "kernels.nvfp4.linear",
        "kernels.nvfp4.moe",
        "kernels.svdq.linear",
        "kernels.svdq.mlp",
    }


def test_every_mutant_of_the_bundled_kernels_parses_and_differs() -> None:
    sources = {target.module: target.source() for target in bundled()[0]}
    results = set()
    for each in bundled()[1]:
        changed = each.apply(sources[each.module])
        ast.parse(changed)
        results.add((each.module, changed))
    assert len(results) == len(bundled()[1])


def test_ids_are_unique() -> None:
    ids = Counter(each.id for each in bundled()[1])
    assert [name for name, count in ids.items() if count > 1] == []


def test_docstrings_messages_annotations_and_tuning_stay() -> None:
    untouched = ("num_warps", "num_stages", "maxnreg", '"""', "msg =", "__all__", "-> Tensor:")
    for each in bundled()[1]:
        assert not any(word in each.before for word in untouched), each


def test_a_third_is_held_out() -> None:
    held_out = sum(each.held_out for each in bundled()[1])
    assert 0.28 < held_out / len(bundled()[1]) < 0.39


def test_ids_survive_an_edit_elsewhere() -> None:
    moved = SMALL.replace("import triton\n", "import math\nimport triton\n")
    assert [each.id for each in small(moved)] == [each.id for each in small()]
    assert {each.line for each in small(moved)} == {each.line + 1 for each in small()}


def test_ids_change_with_the_line_around() -> None:
    other = SMALL.replace("tile * 2.0", "tile * 4.0")
    same = {each.id for each in small(other)} & {each.id for each in small()}
    assert not any(each.before == "2.0" for each in small(other))
    assert same == {each.id for each in small() if "tile * 2.0" not in each.context}


def test_equal_lines_have_mutants_of_their_own() -> None:
    twice = SMALL.replace("    tl.store(y", "    tile = -tile\n    tile = -tile\n    tl.store(y")
    found = [each for each in small(twice) if each.rule == "drop_sign"]
    assert len(found) == 2
    assert len({each.id for each in found}) == 2


def test_a_stale_mutant_is_an_error() -> None:
    mutant = small()[0]
    assert mutant.apply(SMALL) != SMALL
    with pytest.raises(AnchorGone, match="make the mutants anew"):
        mutant.apply(f"# a line\n{SMALL}")
    with pytest.raises(AnchorGone, match="make the mutants anew"):
        mutant.apply(SMALL.replace(mutant.context, mutant.context + "  # moved on"))


def test_a_mutant_that_changes_nothing_is_an_error() -> None:
    idle = dataclasses.replace(small()[0], after=small()[0].before)
    with pytest.raises(AnchorGone, match="changes nothing"):
        idle.apply(SMALL)


def test_a_mutant_by_hand_needs_its_anchor_once() -> None:
    by_hand = {"family": "semantic", "rule": "by_hand", "after": "tile * 3.0"}
    mutant = written("double.triton", "double", SMALL, anchor="tile * 2.0", **by_hand)
    assert mutant.line == 11
    assert "tile * 3.0, mask" in mutant.apply(SMALL)
    for anchor, times in (("no such text", "0 times"), ("cols < n", "2 times")):
        with pytest.raises(AnchorGone, match=times):
            written("double.triton", "double", SMALL, anchor=anchor, **by_hand)


def test_offsets_are_those_of_characters() -> None:
    accented = SMALL.replace('"""A kernel."""', '"""Ein schöner Kern: µ."""')
    assert [each.id for each in small(accented)] == [each.id for each in small()]
    beside = SMALL.replace("mask=cols < n)", 'mask=cols < n), "µµ", cols * 3.0')
    assert all(each.apply(beside) for each in small(beside))


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_a_line_ends_where_the_parser_says(mark: str) -> None:
    marked = SMALL.replace('"""A kernel."""', f'"""A{mark}kernel."""')
    assert [each.id for each in small(marked)] == [each.id for each in small()]


def test_the_order_is_the_same_each_time() -> None:
    assert small() == small()


def test_a_language_without_rules_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'user/double\.rs' is .*; known: \.cu, \.cuh, \.py"):
        mutations("double.rust", "user/double.rs", SMALL)


@pytest.mark.parametrize(
    ("anchor", "after"),
    [("", "def ("), ("tile * 2.0", "(tile"), ("tile =", "pass"), ("@", "@@")],
)
def test_a_rule_that_breaks_the_source_is_an_error(
    monkeypatch: pytest.MonkeyPatch, anchor: str, after: str
) -> None:
    """At its end, within a function, before one."""

    def broken(text: str) -> list[Edit]:
        start = text.rindex(anchor)
        return [Edit("index", "breaks", start, start + len(anchor), after)]

    monkeypatch.setattr("harness.power.mutation.RULES", {PYTHON: (broken,)})
    with pytest.raises(BrokenRule, match=r"rule='breaks' .* does not parse"):
        small()


@pytest.mark.parametrize(
    ("anchor", "after"),
    [("\nimport triton.l", "; import triton.l"), ("@triton.jit\n", ""), ("", "x")],
)
def test_an_edit_of_several_statements_is_source(anchor: str, after: str) -> None:
    start = SMALL.index(anchor) if anchor else len(SMALL)
    edit = Edit("index", "joins", start, start + len(anchor), after)
    syntax.check(SMALL, edit, SMALL[:start] + after + SMALL[edit.end :])


def test_a_sample_covers_kernels_and_families_before_it_repeats_one() -> None:
    cells = {(each.kernel, each.family) for each in bundled()[1]}
    chosen = sample(bundled()[1], len(cells))
    assert {(each.kernel, each.family) for each in chosen} == cells
    more = sample(bundled()[1], 4 * len(cells))
    wrappers = [e.rule for e in more if (e.kernel, e.family) == (KERNELS[2], "wrapper")]
    assert len(set(wrappers)) == len(wrappers) == 4


def test_a_sample_depends_on_content_alone_and_grows_at_its_end() -> None:
    mutants = list(bundled()[1])
    assert sample(mutants[::-1], 50) == sample(mutants, 80)[:50]
    assert sample(mutants, 10**6) == sample(mutants, len(mutants))
    assert len(sample(mutants, 10**6)) == len(mutants)
    assert sample(mutants, 0) == []
    with pytest.raises(ValueError, match="count=-1 is negative"):
        sample(mutants, -1)


def test_an_unknown_package_is_an_error() -> None:
    with pytest.raises(ValueError, match="package='no_such_package' is no importable package"):
        targets("no_such_package")


def test_the_counts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    found = [line.split()[-2] for line in printed.splitlines() if line.startswith(KERNELS)]
    assert list(map(int, found)) == [sum(m.kernel == k for m in bundled()[1]) for k in KERNELS]
    assert all(name in printed for name in KERNELS)


def test_making_mutants_imports_neither_kernels_nor_torch() -> None:
    code = (
        "import sys; from harness.power import mutation; mutation.main(['--list']);"
        "heads = [name.split('.')[0] for name in sys.modules];"
        "sys.exit(sum(head in ('kernels', 'torch', 'triton') for head in heads))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "svdq_gemm_w4a4.triton/swap" in done.stdout
