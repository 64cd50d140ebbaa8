"""``harness new`` writes an op and a kernel that pass as they are, all of it or nothing."""

from __future__ import annotations

import shlex
import sys
import tomllib
from typing import TYPE_CHECKING, Final

import pytest

from harness import registry
from harness.__main__ import main
from harness.authoring.scaffold import WrongName, make
from harness.authoring.settings import with_settings
from harness.gate import contract
from suites.meta.absent import ABSENT
from suites.meta.users_project import ran

if TYPE_CHECKING:
    from pathlib import Path

    from suites.meta.users_project import Project

pytest_plugins = ("pytester",)

FOLDER: Final = "acme_scaffolded"
TARGETS: Final = (f"{FOLDER}.references", f"{FOLDER}.kernels")


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its text."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_what_is_scaffolded_passes_every_layer_and_a_fault_turns_it_red(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project.pytester.path
    with registry.scratch():
        assert main(["new", "fresh_sum", "--package", FOLDER]) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    # pytester's own settings would hide those that were written.
    (folder / "tox.ini").unlink()
    words = shlex.split(told)
    assert words[:3] == ["all", "python", "-m"]
    options = ("-p", "no:benchmark", "--cases=2", "-m", f"cpu or ({ABSENT} and compile)")
    result = project.pytester.run(sys.executable, *words[2:], *options)
    assert ran(result) == {"passed": 22}, str(result.stdout)

    kernel = folder / FOLDER / "kernels" / "fresh_sum.py"
    text = kernel.read_text(encoding="utf-8")
    assert text.count("(cols < n)") == 1
    kernel.write_text(text.replace("(cols < n)", "(cols < n - 1)"), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    with registry.scratch():
        status = main(["check", "fresh_sum.triton", "--m=5", "--n=7", "--dtype=float32"])
    out = capsys.readouterr().out
    assert status == 1, out
    assert "float32       default      FAILED" in out


def test_the_entry_of_the_contract_is_one_that_the_gate_reads(tmp_path: Path) -> None:
    with registry.scratch():
        make("entered", tmp_path, package=FOLDER)
    (rule,) = contract.read(tmp_path / "pyproject.toml").rules
    assert (rule.pattern.kernel, rule.gating, rule.cases) == (("entered.triton",), None, 12)


def test_in_a_checkout_the_parts_go_to_its_own_packages(tmp_path: Path) -> None:
    for name in ("references/__init__.py", "kernels/contract.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with registry.scratch():
        made = make("own", tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in made.paths} == {
        "references/own.py",
        "kernels/own/__init__.py",
        "kernels/own/triton.py",
        "pyproject.toml",
    }
    text = (tmp_path / "kernels/own/triton.py").read_text(encoding="utf-8")
    assert "from kernels import contract" in text
    assert '"kernel_parity::own_triton"' in text
    compile(text, "own.py", "exec")


NAMES: Final = {
    "no identifier": ("scaled-sum", "op='scaled-sum' is no name of a function"),
    "keyword": ("lambda", "op='lambda' is no name of a function"),
    "private": ("_sum", "op='_sum' is no name of a function"),
    "used by its module": ("torch", "op='torch' needs the name 'torch', which the module made"),
    "of its module's function": ("require_tensor", "op='require_tensor' needs the name '_require_"),
    "of its module's check": ("check", "op='check' needs the name '_check', which the module made"),
    "used by its reference": ("Expected", "op='Expected' needs the name 'Expected', which the mod"),
    "declared": ("rms_like", "op='rms_like' is declared at "),
}
DECLARED: Final = """
from harness import op, size

@op(inputs={"x": "n"}, outputs={"y": "n"}, domain={"n": size()}, dtypes=("float32",))
def rms_like(x):
    return x
"""


@pytest.mark.parametrize(("name", "words"), NAMES.values(), ids=NAMES)
def test_a_name_that_cannot_be_one_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(DECLARED)
    before = files_of(tmp_path)
    with registry.scratch():
        status = main(["new", name, f"--package={FOLDER}", "--declare=mine.py"])
    assert status == 2
    assert words in capsys.readouterr().err
    assert files_of(tmp_path) == before


PACKAGES: Final = {
    "the project's folder": (".", "which is no folder below"),
    "beside it": (
        "../acme",
        "name one below it, e.g. 'my_kernels', or run this in the folder that",
    ),
    "elsewhere": ("/elsewhere/acme", "package='/elsewhere/acme' is /elsewhere/acme, which is no"),
    "keyword": ("class", "package='class': 'class' is no name of a package; use letters"),
    "dotted": ("acme.sub", "package='acme.sub': 'acme.sub' is no name of a package; use letters"),
}


@pytest.mark.parametrize(("package", "words"), PACKAGES.values(), ids=PACKAGES)
def test_a_folder_that_cannot_be_a_package_is_refused(
    tmp_path: Path, package: str, words: str
) -> None:
    with registry.scratch(), pytest.raises(WrongName) as error:
        make("placed", tmp_path, package=package)
    assert f"package={package!r}" in str(error.value)
    assert words in str(error.value)
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("package", [f"./{FOLDER}", f"my.own/{FOLDER}/"])
def test_a_package_is_given_as_any_path_to_its_folder(tmp_path: Path, package: str) -> None:
    with registry.scratch():
        make("placed", tmp_path, package=package)
    assert (tmp_path / package / "kernels" / "placed.py").is_file()
    text = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["tool"]["pytest"]["parity_declare"] == list(TARGETS)


def test_a_folder_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()
    with (
        registry.scratch(),
        pytest.raises(OSError, match="work where this user may write") as error,
    ):
        make("placed", tmp_path, package=FOLDER)
    assert f"cannot be written to the folder '{tmp_path / FOLDER}" in str(error.value)


def test_a_file_of_settings_keeps_its_mode_and_the_ends_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_bytes(b"[project]\r\nname = 'x'\r\n")
    path.chmod(0o640)
    with registry.scratch():
        make("placed", tmp_path, package=FOLDER)
    assert path.stat().st_mode & 0o777 == 0o640
    text = path.read_bytes()
    assert text.startswith(b"[project]\r\nname = 'x'\r\n\r\n[tool.pytest]\r\n")
    assert text.count(b"\n") == text.count(b"\r\n")


def test_a_file_in_the_way_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / FOLDER / "kernels" / "busy.py"
    there.parent.mkdir(parents=True)
    there.write_text("precious")
    before = files_of(tmp_path)
    with registry.scratch():
        assert main(["new", "busy", f"--package={FOLDER}"]) == 2
    assert f"{there} is there already" in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.x]\ny = "z"\n')
    (tmp_path / "pyproject.toml.part").mkdir()  # where the new text would be written first
    before = files_of(tmp_path)
    with registry.scratch(), pytest.raises(OSError, match=r"pyproject\.toml cannot be written"):
        make("half", tmp_path, package=FOLDER)
    assert files_of(tmp_path) == before
    assert not (tmp_path / FOLDER).exists()


PYPROJECTS: Final = {
    "empty": ("", ["a.references", "a.kernels"]),
    "other tables": ('[project]\nname = "x"\n', ["a.references", "a.kernels"]),
    "a list": (
        '[tool.pytest.ini_options]\nparity_declare = ["mine"]\n\n[tool.x]\ny = 1\n',
        ["mine", "a.references", "a.kernels"],
    ),
    "a long list": (
        '[tool.pytest]\nparity_declare = [\n    "mine",\n    "yours",\n]\n',
        ["mine", "yours", "a.references", "a.kernels"],
    ),
    "known": ('[tool.pytest]\nparity_declare = ["a"]\n', ["a"]),
}


@pytest.mark.parametrize(("text", "wanted"), PYPROJECTS.values(), ids=PYPROJECTS)
def test_settings_are_extended_and_nothing_else_changes(
    tmp_path: Path, text: str, wanted: list[str]
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    settings = with_settings(path, "k.triton", ("a.references", "a.kernels"))
    assert settings.text is not None
    found, before = tomllib.loads(settings.text), tomllib.loads(text)
    tool = found["tool"].pop("pytest")
    assert (tool.get("ini_options") or tool)["parity_declare"] == wanted
    del found["tool"]["kernel-parity"]
    before.get("tool", {}).pop("pytest", None)
    assert found == {"tool": {}, **before}
    assert settings.advice == ()


def test_settings_that_cannot_be_extended_are_left_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.pytest]\nstrict = true\n[tool.kernel-parity]\ngate = {rules = []}\n")
    settings = with_settings(path, "k.triton", ("a",))
    assert settings.text == path.read_text()
    assert settings.advice[0] == 'tell pytest: parity_declare = ["a"]'
    assert "[[tool.kernel-parity.gate.rules]]" in settings.advice[1]
