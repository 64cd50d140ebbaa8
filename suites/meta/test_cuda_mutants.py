"""Mutants of CUDA C++: of code alone, at every rule's place, compiled, and planted as text."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

import kernels.svdq.cuda_quantize
from harness.artifact import CompileFailed
from harness.check import Settings
from harness.nvrtc import Source, compile_source
from harness.power import cpp, machine_code, rules_cuda
from harness.power.campaign import Campaign, Wanted, _sources_of
from harness.power.cpp import Code
from harness.power.mutation import AnchorGone, Mutation, main, mutations, sample
from harness.power.session import Described, Inventory, Options
from harness.power.syntax import FAMILIES
from harness.power.targets import CUDA, SourceNotFound, Target, targets
from kernels.svdq.cuda_policy import GEMM_TILES, QUANTIZE_CONFIGS
from kernels.svdq.cuda_sources import source as source_of
from suites.meta.scale_cuda import SOURCE, require_compiler

if TYPE_CHECKING:
    from pathlib import Path

GEMM = "svdq_gemm_w4a4.cuda"
ACTIVATED = "svdq_gemm_w4a4_activated.cuda"
REQUANTIZED = "svdq_gemm_w4a4_requantized.cuda"
QUANTIZE = "svdq_quantize_w4a4_act_fuse_lora.cuda"
FILES = {
    "kernels/svdq/cuda/activation.cuh": ACTIVATED,
    "kernels/svdq/cuda/codes.cuh": GEMM,
    "kernels/svdq/cuda/encode.cuh": QUANTIZE,
    "kernels/svdq/cuda/gemm.cu": GEMM,
    "kernels/svdq/cuda/gemm_add_splits.cu": GEMM,
    "kernels/svdq/cuda/gemm_short.cu": GEMM,
    "kernels/svdq/cuda/gemm_tall.cu": GEMM,
    "kernels/svdq/cuda/low_rank.cuh": GEMM,
    "kernels/svdq/cuda/quantize.cu": QUANTIZE,
    "kernels/svdq/cuda/quantize_add_splits.cu": QUANTIZE,
    "kernels/svdq/cuda/requantize.cuh": REQUANTIZED,
    "kernels/svdq/cuda/vectors.cuh": QUANTIZE,  # the nearest, by a file of its own
}


@cache
def device_files() -> dict[str, Target]:
    return {each.module: each for each in targets("kernels") if each.language == CUDA}


@cache
def bundled() -> tuple[Mutation, ...]:
    return tuple(
        mutation
        for each in device_files().values()
        for mutation in mutations(each.kernel, each.module, each.source())
    )


def test_files_of_one_kernel_are_targets_and_what_kernels_share_is_none() -> None:
    assert {name: each.kernel for name, each in device_files().items()} == FILES
    assert not any(each.wraps for each in device_files().values())


def test_a_file_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user_kernels").mkdir()
    (tmp_path / "user_kernels" / "__init__.py").touch()
    declared = '@kernel("f", backend="cuda")\ndef f(x):\n    return source("gone.cu", "f")\n'
    (tmp_path / "user_kernels" / "f.py").write_text(declared, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SourceNotFound, match=r"names 'gone\.cu'; .* one such file: none"):
        targets("user_kernels")


def test_what_kernels_share_is_the_nearest_one_s_or_nobody_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shared_kernels"
    folder.mkdir()
    texts = {"a.cu": ("x", "near"), "b.cu": ("x",), "c.cu": ("x",), "near": ("far",), "x": ()}
    texts |= {"far": (), "put_in": ("near", "far")}
    for name, includes in texts.items():
        lines = [f'#include "{each}.cuh"\n' for each in includes]
        (folder / (name if "." in name else f"{name}.cuh")).write_text("".join(lines))
    (folder / "__init__.py").touch()
    for name, file in (("a", "a.cu"), ("b", "b.cu"), ("c", "c.cu"), ("d", "put_in.cuh")):
        declared = f'@kernel("{name}", backend="cuda")\ndef f(x):\n    return source("{file}")\n'
        (folder / f"{name}.py").write_text(declared, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = {e.path.name: e.kernel for e in targets("shared_kernels") if e.language == CUDA}
    # x.cuh: as near to three; far.cuh: two includes from either.
    own = {"a.cu": "a.cuda", "b.cu": "b.cuda", "c.cu": "c.cuda", "put_in.cuh": "d.cuda"}
    assert found == {**own, "near.cuh": "a.cuda"}


def test_there_are_many_of_every_family_and_some_of_synchronisation() -> None:
    counts = Counter((each.kernel, each.family) for each in bundled())
    assert len(bundled()) >= 60
    assert {kernel for kernel, _ in counts} == set(FILES.values())
    wanted = [family for family in FAMILIES if family != "wrapper"]
    assert [(k, f) for k in (GEMM, QUANTIZE) for f in wanted if counts[k, f] < 10] == []
    assert counts[REQUANTIZED, "synchronisation"] >= 10
    assert counts[ACTIVATED, "arithmetic"] >= 10
    assert len({each.id for each in bundled()}) == len(bundled())
    assert 0.25 < sum(each.held_out for each in bundled()) / len(bundled()) < 0.42


def test_every_pattern_of_every_rule_stands_in_the_real_sources() -> None:
    texts = [each.source() for each in device_files().values()]
    assert cpp.idle(rules_cuda.RULES, texts) == []
    names = [each.name for each in rules_cuda.RULES]
    assert len(set(names)) == len(names)


def test_a_rule_whose_anchor_is_gone_is_named() -> None:
    texts = [each.source().replace("block_barrier", "wall") for each in device_files().values()]
    gone = [each.partition(": ") for each in cpp.idle(rules_cuda.RULES, texts)]
    assert {name for name, _, _ in gone} == {
        *("barrier_removed", "vote_of_one", "barrier_of_fewer", "fills_before_the_barrier")
    }
    assert all("block_barrier" in pattern for _, _, pattern in gone)


def test_every_barrier_and_wait_has_a_mutant_without_it() -> None:
    removed = {
        "ptx::block_barrier();": "barrier_removed",
        "ptx::warp_barrier();": "warp_barrier_removed",
        "ptx::cluster_barrier();": "cluster_barrier_removed",
        "ptx::wait_for_previous();": "previous_not_waited_for",
        "ptx::wait_batches<STAGES - 2>();": "never_waits",
        "ptx::wait_batches<0>();": "last_wait_dropped",
        "ptx::close_batch();": "batch_left_open",
    }
    texts = [each.source() for each in device_files().values()]
    counts = Counter(each.rule for each in bundled())
    for statement, rule in removed.items():
        assert counts[rule] == sum(text.count(statement) for text in texts) > 0, rule


def test_a_mutant_of_another_text_is_an_error() -> None:
    for each in bundled()[::40]:
        text = device_files()[each.module].source()
        assert each.apply(text) != text
        with pytest.raises(AnchorGone, match="make the mutants anew"):
            each.apply(text.replace(each.context, "// moved on"))


def test_every_mutant_of_the_bundled_kernels_changes_code_alone() -> None:
    texts = {name: each.source() for name, each in device_files().items()}
    apart = {name: [t.text for t in Code(text).apart] for name, text in texts.items()}
    code = {name: [t.text for t in Code(text).words] for name, text in texts.items()}
    for each in bundled():
        changed = Code(each.apply(texts[each.module]))
        assert [token.text for token in changed.apart] == apart[each.module], each
        assert [token.text for token in changed.words] != code[each.module], each
        assert not {"//", "/*", "#", '"'} & set(each.before), each


def test_the_command_lists_the_mutants_of_one_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--kernel", GEMM]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"{GEMM}/") for line in lines)
    assert sum(" kernels/svdq/cuda/" in line for line in lines) == sum(
        each.kernel == GEMM for each in bundled()
    )
    with pytest.raises(SystemExit):
        main(["--list", "--kernel", "no_such.cuda"])
    assert "kernel='no_such.cuda' is unknown; known: " in capsys.readouterr().err


def test_a_run_is_begun_anew_when_a_source_of_cuda_changes() -> None:
    assert {each.name for each in _sources_of("kernels")} >= {"gemm.cu", "ptx.cuh", "linear.py"}


def test_a_run_on_a_gpu_takes_them_for_the_kernels_own(tmp_path: Path) -> None:
    options = Options(
        targets=(), arch="sm90", settings=Settings(), quick=True, folder=tmp_path / "out"
    )
    made = Campaign(options, Wanted(jobs=1, step_seconds=1))
    module = "kernels.svdq.cuda_quantize"
    described = Described(QUANTIZE, "svdq_quantize_w4a4_act_fuse_lora", module, 24, 1)
    path = kernels.svdq.cuda_quantize.__file__
    made.inventory = Inventory((described,), {module: path}, (), {})
    own = [each for each in bundled() if each.kernel == QUANTIZE]
    assert [each for each in made.mutants if each.module != module] == own
    assert {each.module for each in own} <= made._parts()  # noqa: SLF001 - no child can run here


def real(module: str) -> Source:
    """A configuration that compiles a file."""
    if "/quantize" in module or "encode" in module:
        defines = QUANTIZE_CONFIGS["m16k8_k4"].defines(16, bf16=True, clusters=True)
        return source_of("quantize.cu", "svdq_quantize_w4a4", defines)
    short = "_short" * ("short" in module or "codes" in module)
    kind = "_tall" if "tall" in module else short
    tile = {"": "m64n64", "_short": "m16n64", "_tall": "m128n64"}[kind]
    defines = GEMM_TILES[tile].defines("s8", act_unsigned=False, bf16=True)
    return source_of(f"gemm{kind}.cu", f"svdq_gemm_w4a4{kind}", defines)


@pytest.mark.parametrize(
    ("module", "rule"),
    [
        ("kernels/svdq/cuda/gemm.cu", "fills_before_the_barrier"),
        ("kernels/svdq/cuda/low_rank.cuh", "low_rank_before_the_scale"),
        ("kernels/svdq/cuda/gemm_short.cu", "warp_barrier_removed"),
        ("kernels/svdq/cuda/gemm_short.cu", "fills_before_the_barrier"),
        ("kernels/svdq/cuda/gemm_tall.cu", "waits_for_one_less"),
        ("kernels/svdq/cuda/codes.cuh", "careful_path_for_the_others"),
        ("kernels/svdq/cuda/quantize.cu", "other_stage"),
        ("kernels/svdq/cuda/quantize.cu", "cluster_barrier_removed"),
        ("kernels/svdq/cuda/encode.cuh", "extremum_of_floats"),
    ],
)
def test_mutants_compile_to_other_machine_code(tmp_path: Path, module: str, rule: str) -> None:
    require_compiler()
    original = device_files()[module].source()
    mutant = next(each for each in bundled() if (each.module, each.rule) == (module, rule))
    put = machine_code.Fault(mutant.apply(original), original)
    made = put.without(real(module)).compile("sm90", folder=tmp_path)
    assert made.cubin != compile_source(real(module), "sm90", folder=tmp_path).cubin
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("times", "differs"),
    [("(TIMES)", False), ("2 * TIMES", True), ("NONE", None)],
    ids=["the same code", "other code", "no code"],
)
def test_machine_code_tells_what_is_no_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: str,
    differs: bool | None,  # noqa: FBT001
) -> None:
    require_compiler()
    changed = SOURCE.text.replace("TIMES * ", f"{times} * ")
    assert changed != SOURCE.text
    launched = (replace(SOURCE, name="another.cu", text=""), replace(SOURCE, text=changed))
    monkeypatch.setattr(machine_code, "sources", lambda *_: iter(launched))
    fault = machine_code.Fault(SOURCE.text, changed)
    if differs is None:
        with pytest.raises(CompileFailed, match="NONE"):
            machine_code.differs("scale.cuda", "sm90", fault, folder=tmp_path)
    else:
        assert machine_code.differs("scale.cuda", "sm90", fault, folder=tmp_path) is differs


def test_a_planted_text_reaches_what_a_launch_compiles(tmp_path: Path) -> None:
    """In a header: the wrapper, its launch and all other files are the real ones."""
    (mutant,) = sample([e for e in bundled() if e.module.endswith("low_rank.cuh")], 1)
    text = device_files()[mutant.module].source()
    (tmp_path / "changed").write_text(mutant.apply(text), encoding="utf-8")
    code = f"""
        import sys
        from pathlib import Path
        from harness import registry
        from harness.power.machine_code import Fault, sources
        from harness.power.plant import AlreadyImported, serve_file

        folder = Path(sys.argv[1])
        stale = folder / "packages" / "kernels" / "of_an_earlier_mutant.py"
        stale.parent.mkdir(parents=True)
        stale.touch()
        changed, original = (folder / "changed").read_text(), Path(sys.argv[2]).read_text()
        try:
            serve_file("kernels/svdq/cuda/gone.cuh", "", folder)
        except FileNotFoundError as error:
            print(error)
        serve_file({mutant.module!r}, changed, folder)
        registry.load_all(("references", "kernels"))
        for kernel in ({GEMM!r}, {QUANTIZE!r}):
            found = list(sources(kernel, "sm90"))
            mended = [Fault(original, changed).without(each) for each in found]
            print(kernel, len(found) > 3, sum(each != other for each, other in zip(found, mended)))
            assert {{each.headers["low_rank.cuh"] for each in found}} == {{changed}}
            assert {{each.headers["low_rank.cuh"] for each in mended}} == {{original}}
        import kernels
        assert folder in Path(kernels.__file__).parents
        assert not stale.exists()
        try:
            serve_file({mutant.module!r}, changed, folder)
        except AlreadyImported as error:
            print(error)
    """
    path = str(device_files()[mutant.module].path)
    words = [sys.executable, "-c", dedent(code), str(tmp_path), path]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    gone, gemm, quantize, imported = done.stdout.splitlines()
    assert "file='kernels/svdq/cuda/gone.cuh' is not in" in gone
    assert gemm == f"{GEMM} True {gemm.split()[-1]}"
    assert int(gemm.split()[-1]) > 3
    assert quantize.startswith(f"{QUANTIZE} True")
    assert "module='kernels' is imported already" in imported


@pytest.mark.parametrize(
    ("after", "told"),
    [("first = oops;", "Began Uncompiled Concluded"), ("first = (1);", "Began Concluded")],
    ids=["no program", "the same program"],
)
def test_a_child_runs_neither_what_does_not_compile_nor_what_is_the_same(
    tmp_path: Path, after: str, told: str
) -> None:
    require_compiler()
    code = f"""
        import sys
        from pathlib import Path
        from harness.check import Settings
        from harness.power.mutation import written
        from harness.power.session import Known, Options, TryMutant
        from harness.power.targets import targets
        from harness.power.witness import original

        (target,) = (t for t in targets("kernels") if t.path.name == "quantize_add_splits.cu")
        where = target.kernel, target.module, target.source()
        says = dict(family="semantic", rule="by_hand", anchor="first = 1;", after={after!r})
        declared = ("references", "kernels")
        options = Options(targets=declared, arch="sm90", settings=Settings(), quick=True,
                          folder=Path(sys.argv[1]))
        task = TryMutant(written(*where, **says), where[2], Known({{}}, (), original([])), False)
        task.perform(options, 0, lambda message: print(type(message).__name__, end=" "))
    """
    words = [sys.executable, "-c", dedent(code), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == told
