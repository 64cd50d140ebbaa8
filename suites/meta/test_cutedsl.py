"""A kernel in the CuTe DSL becomes machine code without a GPU, once, and is launched as given."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch

from harness import compilation, cubins, native
from harness.artifact import CompileFailed
from harness.cutedsl import Source, compile_source
from harness.launches import capture_launches, record_launches
from suites.meta.scale_cutedsl import PARAMETERS, SOURCE, TEXT, function, require_compiler

if TYPE_CHECKING:
    from pathlib import Path

    from harness.launches import Launch

HALF: Final = torch.zeros(100, dtype=torch.float16)


def captured(kernel: native.Function) -> Launch:
    with capture_launches() as launches:
        kernel.launch(HALF, HALF, 100, 3.0, grid=1, block=128, shared_bytes=512)
    (launch,) = launches
    return launch


@pytest.mark.parametrize(("arch", "target"), [("sm80", "sm_80"), ("sm120", "sm_120")])
def test_an_arch_gets_machine_code_and_ptx(tmp_path: Path, arch: str, target: str) -> None:
    require_compiler()
    made = native.compile_launch(captured(function(tmp_path)), arch)
    assert (made.arch, made.kernel) == (arch, "suites.meta.scale_cutedsl.scale")
    assert len(made.find(r"\bSTG\S*U16")) == 1
    assert f".target {target}\n" in made.ptx
    assert ".reqntid 128" in made.ptx
    assert (made.shared_bytes, made.warps, made.spills) == (512, 4, False)
    assert made.cubin.startswith(b"\x7fELF")


@pytest.mark.parametrize(("specific", "target"), [(False, "sm_90\n"), (True, "sm_90a\n")])
def test_a_kernel_may_ask_for_its_arch_and_no_later_one(
    tmp_path: Path, target: str, *, specific: bool
) -> None:
    require_compiler()
    made = compile_source(replace(SOURCE, specific=specific), "sm90", folder=tmp_path)
    assert f".target {target}" in made.ptx


OTHER: Final[dict[str, dict[str, Any]]] = {
    "name": {"name": "other.py"},
    "text": {"text": TEXT + "\n"},
    "constants": {"constants": {"THREADS": 128, "TIMES": 4}},
    "parameters": {"parameters": {**PARAMETERS, "y": "float16?"}},
    "alignment": {"alignment": {"x": 16}},
    "specific": {"specific": True},
}


@pytest.mark.parametrize("changed", OTHER.values(), ids=OTHER)
def test_whatever_decides_the_machine_code_is_in_the_key(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    require_compiler()
    planted = cubins.Binary(b"planted", "scale", "")
    compile_source(SOURCE, "sm90", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    cubins.store(tmp_path, path.stem, planted)
    same = replace(SOURCE, constants=dict(reversed([*SOURCE.constants.items()])))
    assert compile_source(same, "sm90", folder=tmp_path) == planted
    assert compile_source(replace(SOURCE, **changed), "sm90", folder=tmp_path) != planted
    assert compile_source(SOURCE, "sm89", folder=tmp_path) != planted


def test_a_damaged_entry_is_compiled_anew(tmp_path: Path) -> None:
    require_compiler()
    made = compile_source(SOURCE, "sm80", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    for damage in (path.read_bytes()[:-1], b"", b"[]\n"):
        path.write_bytes(damage)
        assert compile_source(SOURCE, "sm80", folder=tmp_path) == made
        assert cubins.load(tmp_path, path.stem) == made


FOUND: Final = """
import sys
from pathlib import Path
from suites.meta.scale_cutedsl import SOURCE
from harness.cutedsl import compile_source
assert not {"cutlass", "torch", "cuda"} & set(sys.modules), "imported ahead of time"
print(compile_source(SOURCE, "sm80", folder=Path(sys.argv[1])).cubin)
assert not {"cutlass", "torch", "cuda"} & set(sys.modules), "imported for what is on disk"
"""


def test_another_process_finds_the_entry_and_imports_no_dsl(tmp_path: Path) -> None:
    require_compiler()
    compile_source(SOURCE, "sm80", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    cubins.store(tmp_path, path.stem, cubins.Binary(b"planted", "scale", ""))
    command = [sys.executable, "-c", FOUND, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "b'planted'\n"), done.stderr


def test_a_captured_launch_is_described_and_compiles_nothing(tmp_path: Path) -> None:
    kernel = function(tmp_path, replace(SOURCE, text="no Python"))
    launch = captured(kernel)
    assert (launch.backend, launch.name) == ("cutedsl", "scale")
    assert launch.module == "suites.meta.scale_cutedsl"
    assert launch.function is kernel
    assert launch.arguments == {"x": HALF, "y": HALF, "n": 100, "factor": 3.0}
    assert launch.options["shared_bytes"] == 512
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_a_launch_is_refused_after_it_was_seen(tmp_path: Path) -> None:
    with (
        record_launches() as launches,
        pytest.raises(ValueError, match=r"the tensors' devices are cpu; move all of them to one"),
    ):
        function(tmp_path).launch(HALF, HALF, 100, 1.0, grid=1, block=128)
    assert len(launches) == 1


WRONG: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no Python": ({"text": "def scale("}, r"SyntaxError: .*scale\.py, line 1"),
    "no such kernel": ({"kernel": "scales"}, "AttributeError: .*no attribute 'scales'"),
    "no such constant": ({"constants": {"THREADS": 128}}, "TIMES"),
    "no kernel": (
        {"text": TEXT.partition("    times(x, y, n")[0] + "    pass\n"},
        "scale launches 0 kernels; a source is of one",
    ),
    "a name that is not there": ({"text": TEXT.replace("here[0]", "where[0]")}, "where"),
}


@pytest.mark.parametrize(("changed", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_compile_is_said_without_colours(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    require_compiler()
    with pytest.raises(CompileFailed, match="does not compile for sm80") as raised:
        compile_source(replace(SOURCE, **changed), "sm80", folder=tmp_path)
    assert re.search(said, raised.value.message, re.DOTALL), raised.value.message
    assert "\x1b" not in raised.value.message
    assert str(tmp_path) not in raised.value.message
    assert not list(tmp_path.iterdir())


def test_an_arch_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arch='Hopper' is not an architecture such as 'sm90'"):
        compile_source(SOURCE, "Hopper", folder=tmp_path)
    require_compiler()
    with pytest.raises(CompileFailed, match="scale does not compile for sm99"):
        compile_source(SOURCE, "sm99", folder=tmp_path)


def test_a_parameter_that_the_dsl_does_not_take_is_named() -> None:
    with pytest.raises(TypeError, match=r"parameter 'x' of scale\.py is declared as 'complex64'"):
        Source("scale.py", TEXT, "scale", {"x": "complex64"})


def test_a_backend_that_is_not_compiled_names_those_that_are() -> None:
    launch = replace(captured(function(None)), backend="metal")
    with pytest.raises(NotImplementedError, match="use 'triton', 'cuda' or 'cutedsl'"):
        compilation._compile(launch, "sm90")  # noqa: SLF001 - the one place that knows backends


@pytest.mark.gpu
@pytest.mark.parametrize("shared_bytes", [0, 60 * 1024])
def test_it_runs_on_a_gpu(tmp_path: Path, shared_bytes: int) -> None:
    require_compiler()
    x = torch.arange(1000, dtype=torch.float16, device="cuda")
    y = torch.empty_like(x)
    with record_launches() as launches:
        function(tmp_path).launch(x, y, 1000, 0.5, grid=8, block=128, shared_bytes=shared_bytes)
    assert len(launches) == 1
    assert torch.equal(y, x * 1.5)
