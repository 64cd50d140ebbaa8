"""Mutants of texts in the CuTe DSL: by rule, parsed, compiled, planted, listed where they run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from harness import cutedsl
from harness.artifact import CompileFailed
from harness.check import Settings
from harness.cutedsl import compile_source
from harness.power import machine_code, report, rules_cutedsl
from harness.power.campaign import Campaign, NoMutants, Wanted
from harness.power.cutedsl_values import Kind, code, values_of
from harness.power.mutation import Mutation, mutations
from harness.power.session import Described, Inventory, Options
from harness.power.syntax import FAMILIES, Source
from harness.power.targets import CUTEDSL, SourceNotFound, Target, targets
from kernels.nvfp4.cutedsl_gemm import _gemm
from kernels.nvfp4.cutedsl_policy import CONFIGS
from suites.meta.power_rows import ROW, RUN, matrix
from suites.meta.scale_cutedsl import SOURCE, require_compiler

if TYPE_CHECKING:
    from pathlib import Path

GEMM = "nvfp4_gemm.cutedsl"
SCALED = "nvfp4_gemm.cutedsl.block_scaled"
FILES = {
    "kernels/nvfp4/cutedsl/gemm_block_scaled.py": SCALED,
    "kernels/nvfp4/cutedsl/gemm_dequantized.py": GEMM,
    "kernels/nvfp4/cutedsl/gemm_dequantized_async.py": GEMM,
    "kernels/nvfp4/cutedsl/gemm_warp_scaled.py": "nvfp4_gemm.cutedsl.warp_scaled",
}
ORDERS = ["never_waits", "barrier_removed", "fence_removed", "batch_left_open", "never_released"]


@cache
def texts() -> dict[str, Target]:
    return {each.module: each for each in targets("kernels") if each.language == CUTEDSL}


@cache
def bundled() -> tuple[Mutation, ...]:
    found = texts().values()
    return tuple(m for each in found for m in mutations(each.kernel, each.module, each.source()))


def test_the_texts_of_kernels_are_targets() -> None:
    assert {name: each.kernel for name, each in texts().items()} == FILES


@pytest.mark.parametrize("backend", ["cutedsl", "triton"])
def test_a_text_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Where the kernel is in the DSL; elsewhere a string that ends in .py is any string."""
    folder = tmp_path / f"kernels_in_{backend}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    declared = f'@kernel("f", backend="{backend}")\ndef f(x):\n    return source("gone.py")\n'
    (folder / "f.py").write_text(declared, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    if backend == "cutedsl":
        with pytest.raises(SourceNotFound, match=r"names 'gone\.py'; .* one such file: none"):
            targets(folder.name)
    else:
        assert [each.language for each in targets(folder.name)] == ["Python"]


def test_there_are_many_of_every_family_that_a_kernel_can_have() -> None:
    counts = Counter((each.kernel, each.family) for each in bundled())
    wanted = [family for family in FAMILIES if family != "wrapper"]
    assert [(k, f) for k in (GEMM, SCALED) for f in wanted if counts[k, f] < 10] == []
    assert len({each.id for each in bundled()}) == len(bundled()) >= 60
    assert 0.25 < sum(each.held_out for each in bundled()) / len(bundled()) < 0.42


def test_every_rule_finds_its_place_in_the_real_texts() -> None:
    made = {each.rule for each in bundled()}
    assert {each.name for each in rules_cutedsl.RULES} == made


def test_every_mutant_parses_and_changes_code_alone() -> None:
    """All were parsed when they were made; the trees of some are compared."""
    for name, target in texts().items():
        source = target.source()
        tree = ast.parse(source)
        own = [each for each in bundled() if each.module == name]
        assert all(each.apply(source) != source and '"""' not in each.before for each in own)
        for each in own[::25]:
            changed = ast.parse(each.apply(source))
            assert ast.dump(changed) != ast.dump(tree), each
            assert ast.get_docstring(changed) == ast.get_docstring(tree), each


def test_every_wait_barrier_and_commit_has_a_mutant_without_it() -> None:
    removed = Counter(each.before for each in bundled() if each.rule in ORDERS)
    for statement in ("wait(t, slice_)", "cute.arch.sync_threads()", "cute.arch.sync_warp()"):
        assert removed[statement] == sum(
            each.source().count(f"{statement}\n") for each in texts().values()
        ), statement
    for statement in ('inline_ptx("cp.async.wait_group 0;")', "stage.release()", "commit()"):
        assert removed[statement] > 0, statement


SMALL = '''
FULL = 2.0**16

@cute.kernel
def f(x, rows, columns, t):
    """Of rows and columns."""
    row = cute.arch.thread_idx() // 4 + 8 * rows
    factor = Float32(3.0)
    word = load_words(x, row + columns)
    low = word << (9 - row)
    if row < rows:
        out = scaled(factor, columns, t) + FULL
    commit()
    bits[row + 1] = low & Uint32(0xF0)

def load_words(x, at):
    return inline_ptx(f"ld {at + 1};", write_only_types=[Uint32])

def scaled(y, at, t):
    return y * 2.0
'''


def test_values_are_told_from_places() -> None:
    source = Source(SMALL)
    values, found = values_of(source), dict[str, str]()
    for node in code(source):
        if isinstance(node, ast.BinOp):
            found[source.of(node)] = str(values.kind(node) or "place")
    assert found == {
        "cute.arch.thread_idx() // 4 + 8 * rows": "place",
        "cute.arch.thread_idx() // 4": "place",
        "8 * rows": "place",
        "row + columns": "place",
        "word << (9 - row)": Kind.WORD,
        "9 - row": "place",
        "scaled(factor, columns, t) + FULL": Kind.NUMBER,
        "row + 1": "place",
        "low & Uint32(0xF0)": Kind.WORD,
        "y * 2.0": Kind.NUMBER,
    }


@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        ("batch_left_open", ("commit()", "pass")),
        ("drop_term", ("scaled(factor, columns, t) + FULL", "scaled(factor, columns, t)")),
        ("drop_factor", ("y * 2.0", "y")),
        ("drop_factor", ("low & Uint32(0xF0)", "low")),
        ("other_constant", ("0xF0", "0x70")),
        ("other_operator", ("<<", ">>")),
        ("round_value", ("y * 2.0", "(y * 2.0).to(cutlass.Float16).to(cutlass.Float32)")),
        ("off_by_a_factor", ("y * 2.0", "(y * 2.0) * 1.001")),
        ("other_operation", ("//", "%")),
        ("drop_offset", ("row + columns", "row")),
        ("drop_scale_of_place", ("8 * rows", "rows")),
        ("other_place", ("8", "16")),
        ("next_element", ("row + 1", "(row + 1) + 1")),
        ("other_role", ("columns", "rows")),
        ("one_too_many", ("<", "<=")),
        ("one_too_few", ("rows", "rows - 1")),
        ("drop_guard", ("row < rows", "True")),
        ("swapped_arguments", ("factor, columns", "columns, factor")),
    ],
)
def test_a_rule_makes_the_fault_of_its_name(rule: str, edit: tuple[str, str]) -> None:
    made = mutations("f.cutedsl", "user/f.py", SMALL)
    assert edit in {(each.before, each.after) for each in made if each.rule == rule}


def test_neither_docstrings_nor_f_strings_nor_signatures_change() -> None:
    untouched = ("Of rows", "ld {", "def ", "@cute")
    made = mutations("f.cutedsl", "user/f.py", SMALL)
    assert not any(words in each.context for each in made for words in untouched)


def chosen(rule: str, before: str, file: str = "gemm_dequantized.py") -> Mutation:
    """The first, but for conversions to fp16, which are exact and on one path alone."""
    return next(
        each
        for each in bundled()
        if (each.rule, each.before) == (rule, before)
        and each.module.endswith(file)
        and "e4m3x2" not in each.context
    )


@pytest.mark.parametrize(
    ("rule", "before"),
    [("never_waits", "wait(t, slice_)"), ("truncates", "rn"), ("other_role", "wcodes_row")],
)
def test_a_mutant_compiles_to_other_machine_code_and_is_kept_apart_on_disk(
    tmp_path: Path, rule: str, before: str
) -> None:
    require_compiler()
    source = _gemm(CONFIGS["m16n32"]).source
    assert isinstance(source, cutedsl.Source)
    original = replace(source, specific=True)  # for sm_90a
    changed = replace(original, text=chosen(rule, before).apply(original.text))
    made = [compile_source(each, "sm90", folder=tmp_path) for each in (original, changed)]
    again = [compile_source(each, "sm90", folder=tmp_path) for each in (original, changed)]
    assert made[0].cubin != made[1].cubin
    assert again == made
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("times", "hosted", "differs"),
    [
        ("float((TIMES))", False, False),
        ("float(TIMES + 1)", False, True),
        ("float(NONE)", False, None),
        ("float((TIMES))", True, True),
    ],
    ids=["the same code", "other code", "no code", "other code of the host"],
)
def test_machine_code_tells_what_is_no_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: str,
    *,
    hosted: bool,
    differs: bool | None,
) -> None:
    require_compiler()
    signature, launched = "TIMES: cutlass.Constexpr):\n    times(", "block=[THREADS, 1, 1])"
    text = SOURCE.text
    if hosted:
        text = text.replace("factor: cutlass.Float32,\n          THREADS: cutlass.Constexpr, "
                            + signature, "factor: cutlass.Float32, stream,\n          "
                            "THREADS: cutlass.Constexpr, " + signature)  # fmt: skip
        text = text.replace(launched, "block=[THREADS, 1, 1], stream=stream)")
    source = replace(SOURCE, text=text, hosted=hosted)
    changed = text.replace("float(TIMES)", times)
    assert changed != text
    found = (replace(source, name="another.py", text=""), replace(source, text=changed))
    monkeypatch.setattr(machine_code, "sources", lambda *_: iter(found))
    fault = machine_code.Fault(text, changed)
    if differs is None:
        with pytest.raises(CompileFailed, match="NONE"):
            machine_code.differs("scale.cutedsl", "sm90", fault, folder=tmp_path)
    else:
        assert machine_code.differs("scale.cutedsl", "sm90", fault, folder=tmp_path) is differs


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("UNIT = oops", "Began Uncompiled Concluded"),
        ("UNIT = (16)", "Began Concluded"),
    ],
    ids=["no program", "the same program"],
)
def test_a_child_runs_neither_what_does_not_compile_nor_what_is_the_same(
    tmp_path: Path, after: str, told: str
) -> None:
    require_compiler()
    code_of_a_child = f"""
        import sys
        from pathlib import Path
        from harness.check import Settings
        from harness.power.mutation import written
        from harness.power.session import Known, Options, TryMutant
        from harness.power.targets import targets
        from harness.power.witness import original

        (target,) = (t for t in targets("kernels") if t.path.name == "gemm_dequantized.py")
        where = target.kernel, target.module, target.source()
        says = dict(family="semantic", rule="by_hand", anchor="UNIT = 16", after={after!r})
        declared = ("references", "kernels")
        options = Options(targets=declared, arch="sm90", settings=Settings(), quick=True,
                          folder=Path(sys.argv[1]))
        task = TryMutant(written(*where, **says), where[2], Known({{}}, (), original([])), False)
        task.perform(options, 0, lambda message: print(type(message).__name__, end=" "))
        import kernels
        assert Path(sys.argv[1]) in Path(kernels.__file__).parents
    """
    words = [sys.executable, "-c", dedent(code_of_a_child), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == told


# A fault takes half a minute: these two show that the command works, docs/power.md has a sample.
@pytest.mark.parametrize(
    ("rule", "before"),
    [("truncates", "rn"), ("never_waits", 'inline_ptx("cp.async.wait_group 0;")')],
    ids=["rounding", "a copy under way"],
)
def test_interpreted_ptx_kills_what_is_a_fault(tmp_path: Path, rule: str, before: str) -> None:
    require_compiler()
    mutant = chosen(rule, before)
    words = [sys.executable, "-m", "suites.numeric.interpreted_mutants", "--mutant", mutant.id]
    words += ["--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"1/1 killed: {mutant.id} "), done.stdout
    assert f"| {mutant.family} | 1 | 1 | 0 |" in done.stdout


def campaign(folder: Path, *asked: str, mutant: str | None = None) -> Campaign:
    """A campaign on sm90, which no child can run here."""
    options = Options(targets=(), arch="sm90", settings=Settings(), quick=True, folder=folder)
    made = Campaign(options, Wanted(jobs=1, step_seconds=1, kernels=asked, mutant=mutant))
    module = "kernels.nvfp4.cutedsl_gemm"
    file = str(next(t.path for t in targets("kernels") if t.module == module))
    described = Described(GEMM, "nvfp4_gemm", module, 24, 1)
    elsewhere = {SCALED: "sm100,sm103"}
    made.inventory = Inventory((described,), {module: file}, (), {}, elsewhere=elsewhere)
    return made


def test_mutants_that_need_another_arch_are_listed_and_not_tried(tmp_path: Path) -> None:
    made = campaign(tmp_path, GEMM, SCALED)
    assert {each.kernel for each in made.mutants} == {GEMM}
    assert {each for each in made.mutants if "/" in each.module} == {
        each for each in bundled() if each.kernel == GEMM
    }
    away = sum(each.kernel == SCALED for each in bundled())
    assert made.elsewhere[SCALED]["needs"] == "sm100,sm103"
    assert int(str(made.elsewhere[SCALED]["mutants"])) > away
    text = report.markdown(matrix(ROW, run={**RUN, "mutants": 1, "elsewhere": made.elsewhere}))
    assert f"Not tried, in no count: {SCALED} {made.elsewhere[SCALED]['mutants']} (need" in text


@pytest.mark.parametrize("by_id", [True, False])
def test_a_kernel_of_another_arch_alone_is_an_error(tmp_path: Path, *, by_id: bool) -> None:
    asked = campaign(tmp_path, mutant=f"{SCALED}/a@0") if by_id else campaign(tmp_path, SCALED)
    with pytest.raises(NoMutants, match=f"'{SCALED}' needs sm100,sm103, and this is sm90"):
        _ = asked.mutants
    assert campaign(tmp_path, GEMM).elsewhere == {}
