"""The command line lists kernels, tables records, and says what is wrong with its input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
from harness import registry
from harness.__main__ import main
from harness.record import SCHEMA, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]
    Write = Callable[..., str]

DECLARATIONS = """
from harness import kernel, op, size


@op(inputs={"x": "n"}, outputs={"y": "n"}, domain={"n": size(0, 64)}, dtypes=("float32",))
def double(x):
    return 2 * x


@kernel("double", backend="triton", arch="sm10x")
def doubled(x):
    return x + x


@kernel("double", backend="cuda", arch="sm90", torch_op="mine::double", emulated=False)
def doubled_in_cuda(x):
    return x + x
"""
PASSED = Record(
    kernel="double.triton",
    arch="cpu",
    layer="numeric",
    check="test_matches_the_reference[float32]",
    verdict="passed",
    outcome="passed",
    evidence="emulated",
)
FAILED = replace(PASSED, layer="boundary", verdict="failed", outcome="wrong")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line on the declarations above; gives status, output and errors."""
    declarations = tmp_path / "mine.py"
    declarations.write_text(DECLARATIONS)

    def run(*arguments: str, declare: str = str(declarations)) -> tuple[int, str, str]:
        with registry.scratch():
            status = main([*arguments, f"--declare={declare}"])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def records(tmp_path: Path) -> Write:
    """Writes lines to a records file; gives its path."""

    def write(*lines: Record | str) -> str:
        path = tmp_path / "records.jsonl"
        texts = [line if isinstance(line, str) else line.to_json() for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts))
        return str(path)

    return write


def test_the_bundled_kernels_are_listed_without_an_option() -> None:
    root = Path(harness.__file__).parents[1]
    command = [sys.executable, "-m", "harness", "list", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = {row["kernel"] for row in json.loads(done.stdout)}
    assert names >= {
        "rms_norm.triton",
        "silu_and_mul.triton",
        "svdq_gemm_w4a4.triton",
        "svdq_quantize_w4a4_act_fuse_lora.triton",
    }


def test_list_shows_every_kernel(run: Run, tmp_path: Path) -> None:
    status, out, err = run("list")
    place = tmp_path / "mine.py"
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "double.cuda",
        f"  op double, backend cuda, {place}:15",
        "  archs  sm90",
        "  layers boundary compile fake_shape import_safety numeric",
        "double.triton",
        f"  op double, backend triton, {place}:10",
        "  archs  sm100 sm103",
        "  layers boundary compile import_safety numeric",
    ]


def test_list_as_json_has_these_fields(run: Run, tmp_path: Path) -> None:
    status, out, err = run("list", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)[1] == {
        "op": "double",
        "kernel": "double.triton",
        "backend": "triton",
        "archs": ["sm100", "sm103"],
        "layers": ["boundary", "compile", "import_safety", "numeric"],
        "place": f"{tmp_path / 'mine.py'}:10",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_list_names_a_module_that_did_not_load(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,  # noqa: FBT001 - a parameter of a test comes by its name
) -> None:
    package = tmp_path / f"half_there_{as_json}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("import no_such_language")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, err = run("list", *(["--json"] if as_json else []), declare=package.name)
    assert status == 0
    assert f"{package.name}.broken: not loaded: No module named 'no_such_language'" in out + err


def test_a_table_of_records(run: Run, records: Write) -> None:
    status, out, err = run("table", records(PASSED))
    assert (status, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()[:3]] == [
        "        import   fake     compile  numeric  module   e2e      boundary",
        "double.triton",
        "  cpu   ?                          ✓ emu                      ?",
    ]
    assert out.splitlines()[-1] == (
        "cells: 1 passed, 0 failed, 0 skipped, 13 uncovered of 14 claimed"
    )


def test_a_failed_record_fails_the_command(run: Run, records: Write) -> None:
    status, out, err = run("table", records(PASSED, FAILED))
    assert (status, err) == (1, "")
    assert "✗ emu" in out
    assert "1 passed, 1 failed" in out


BROKEN = {
    "cut off": (PASSED.to_json()[:-20], "not JSON"),
    "empty line": ("", "not JSON"),
    "no object": ("[1]", "schema="),
    "no schema": ("{}", "schema=None"),
    "another schema": (
        PASSED.to_json().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'),
        f"schema={SCHEMA + 1}, this version reads {SCHEMA}",
    ),
    "unknown field": (PASSED.to_json().replace('"device"', '"gadget"'), "gadget"),
    "missing field": (PASSED.to_json().replace('"arch": "cpu", ', ""), "arch"),
    "unknown layer": (PASSED.to_json().replace('"numeric"', '"numerics"'), "'numerics'"),
    "unknown verdict": (
        PASSED.to_json().replace('"verdict": "passed"', '"verdict": "fine"'),
        "'fine'",
    ),
    "unknown evidence": (PASSED.to_json().replace('"emulated"', '"hearsay"'), "'hearsay'"),
    "wrong type": (PASSED.to_json().replace('"kernel": "double.triton"', '"kernel": 7'), "kernel"),
}


@pytest.mark.parametrize(("line", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_records_file_is_named_with_its_line(
    run: Run, records: Write, line: str, words: str
) -> None:
    path = records(PASSED, line)
    status, out, err = run("table", path)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {path}:2: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_records_file_that_is_no_text(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\x80\x81\n")
    status, out, err = run("table", str(path))
    assert (status, out) == (2, "")
    assert str(path) in err


def test_a_records_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.jsonl")
    status, out, err = run("table", path)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert path in err


UNKNOWN = {
    "package": ("no_such_package", "declare='no_such_package' is no importable package"),
    "submodule": ("json.no_such_module", "declare='json.no_such_module' is no importable package"),
    "file": ("no_such_file.py", "no_such_file.py' is no file"),
}


@pytest.mark.parametrize("command", ["list", "table"])
@pytest.mark.parametrize(("target", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_target_is_named_with_what_to_give(
    run: Run,
    records: Write,
    command: str,
    target: str,
    words: str,
) -> None:
    arguments = ["table", records(PASSED)] if command == "table" else ["list"]
    status, out, err = run(*arguments, declare=target)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert "give a package, module or" in err


def test_a_kernel_of_no_op_lists_the_known_ones(run: Run, tmp_path: Path) -> None:
    orphan = tmp_path / "orphan.py"
    orphan.write_text(DECLARATIONS.replace('@kernel("double"', '@kernel("dubble"'))
    status, out, err = run("list", declare=str(orphan))
    assert (status, out) == (2, "")
    assert f"dubble.triton at {orphan}:10 implements op='dubble'" in err
    assert "known ops: double" in err


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "required: COMMAND" in capsys.readouterr().err
