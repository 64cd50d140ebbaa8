"""The plugin's options select cells, and a wrong one is refused in words that say what to give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from harness.arch import ARCHES, CPU
from harness.cells import Layer
from harness.device import present_archs
from suites.meta.absent import ABSENT, HERE_AND_AWAY
from suites.meta.users_project import (
    BAD,
    GOOD,
    NUMERIC,
    TOYS,
    Project,
    failure,
    ran,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

pytest_plugins = ("pytester",)


def test_every_marker_is_registered(project: Project) -> None:
    lines = project.run("--markers").outlines
    for name in (*Layer, CPU, *ARCHES):
        assert any(line.startswith(f"@pytest.mark.{name}: ") for line in lines), name


def test_an_arch_selects_its_cells_and_skips_what_needs_the_device(project: Project) -> None:
    result = project.run(*HERE_AND_AWAY, "-m", ABSENT, "-rs", GOOD)
    assert ran(result) == {"skipped": 3}
    machine = ", ".join(present_archs()) or "no GPU"
    reason = f"{ABSENT} is not on this machine, which has {machine}"
    result.stdout.fnmatch_lines(
        ["cells: 0 passed, 0 failed, 2 skipped, *", f"SKIPPED [[]3] *{reason}"]
    )


def test_without_a_browser_its_tests_are_skipped_with_the_remedy(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(
        test_page="""
        import pytest

        @pytest.mark.browser
        def test_page():
            raise AssertionError
        """
    )
    monkeypatch.setenv("PATH", "")
    result = project.command("pytest", "test_page.py", "-rs")
    assert ran(result) == {"skipped": 1}
    result.stdout.fnmatch_lines(["SKIPPED * no Chromium is on this machine; apt-get install *"])


@pytest.mark.parametrize("expression", ["sm101", "cpu and sm101", "not (numerics or cpu)"])
def test_an_unknown_marker_is_named(project: Project, expression: str) -> None:
    unknown = next(word for word in ("sm101", "numerics") if word in expression)
    said = refusal(project.run(*NUMERIC, "-m", expression))
    assert f"-m {expression!r}: no marker {unknown!r} is registered" in said
    for known in (*Layer, CPU, *ARCHES):
        assert known in said


SELECTIONS = {
    "kernel": (
        ["--kernel=double.triton"],
        {"double.triton-cpu-float32", "double.triton-cpu-float16"},
    ),
    "op": (["--op=double", BAD], {f"double.triton.tail-cpu-{t}" for t in ("float32", "float16")}),
    "layer": (["--layer=boundary", GOOD], {"double.triton-cpu"}),
}


@pytest.mark.parametrize(("options", "ids"), SELECTIONS.values(), ids=SELECTIONS)
def test_filters_select_cells(project: Project, options: Sequence[str], ids: set[str]) -> None:
    layers = ("suites.boundary", "suites.numeric")
    where = layers if "--layer=boundary" in options else layers[1:]
    result = project.run("--pyargs", *where, "-m", CPU, "--collect-only", "-q", *options)
    assert {line.partition("[")[2][:-1] for line in result.outlines if "[" in line} == ids


CASE: Final = (
    "--case=double.triton/m=1,n=6,dtype=float32,"
    "values=normal,layout=contiguous,config=default,seed=0"
)
UNKNOWN = {
    "kernel": (["--kernel=triple"], "kernel 'triple' is unknown; known: double.triton, "),
    "op": (["--op=triple"], "op 'triple' is unknown; known: double"),
    "layer": (["--layer=numerics"], "argument --layer: invalid choice: 'numerics' (choose from "),
    "cases": (["--cases=0"], "--cases='0' is not a whole number of at least 1"),
    "seed": (["--parity-seed=x"], "argument --parity-seed: invalid int value: 'x'"),
    "case of no kernel": (["--case=triple/m=1"], "kernel 'triple' is unknown; known: double.tri"),
    "case without fields": (["--case=double.triton"], "case='double.triton': "),
    "case of too few fields": (
        ["--case=double.triton/m=1,dtype=float32,values=normal"],
        "missing or unknown fields ['config', 'layout', 'n', 'seed']",
    ),
    "case outside the domain": ([CASE.replace("n=6", "n=65")], "n=65 is outside 1..64"),
    "case of unknown values": ([CASE.replace("normal", "odd")], "values='odd' is not in ['normal'"),
    "case of unknown layout": ([CASE.replace("contiguous", "odd")], "layout='odd' is not in ['con"),
    "case of an unknown group": ([CASE.replace("values", "without=lora,values")], "'lora'"),
    "case of another layer": (
        ["--case=double.triton/probe=m=65"],
        "--case='double.triton/probe=m=65' belongs to none of the selected tests",
    ),
    "case of another kernel": ([CASE, BAD], "belongs to none of the selected tests"),
}


@pytest.mark.parametrize(("options", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_wrong_option_is_refused(project: Project, options: Sequence[str], words: str) -> None:
    assert words in refusal(project.run(*NUMERIC, *options))


DECLARATIONS = {
    "missing file": ("nothing.py", "", "nothing.py' is no file; give a package, module or exist"),
    "missing package": ("nothing", "", "declare='nothing' is no importable package; give a pack"),
    "unknown op": (
        "mine.py",
        "kernel('triple', backend='triton', arch='sm90')(len)",
        "implements op='triple', which nobody declared; known ops: none; declare it with @op",
    ),
    "unknown backend": (
        "mine.py",
        "kernel('double', backend='trition', arch='sm90')",
        "backend='trition' of a kernel of 'double' is unknown; use triton, cuda, cutedsl",
    ),
    "unknown arch": (
        "mine.py",
        "kernel('double', backend='triton', arch='sm91')",
        "arch='sm91' covers none of sm80, ",
    ),
    "a crash": (
        "mine.py",
        "raise RuntimeError('driver too old')",
        "mine.py:2: RuntimeError: driver too old",
    ),
    "a typo": ("mine.py", "def f(:", "mine.py:2: SyntaxError: "),
    "missing language": (
        "mine.py",
        "import no_such_language",
        "No module named 'no_such_language'",
    ),
}


@pytest.mark.parametrize(("target", "source", "words"), DECLARATIONS.values(), ids=DECLARATIONS)
def test_a_wrong_declaration_is_refused(
    project: Project, target: str, source: str, words: str
) -> None:
    if source:
        project.write(mine=f"from harness import kernel\n{source}")
    assert words in refusal(project.run(*NUMERIC, declare=target))


def test_a_second_declaration_names_both_places(project: Project) -> None:
    again = "@kernel('double', backend='triton', arch='sm90')\ndef again(x): ..."
    project.write(mine=f"{TOYS}\n{again}")
    said = refusal(project.run(*NUMERIC, declare="mine.py"))
    assert "kernel 'double.triton' is declared twice: at " in said
    lines = (project.pytester.path / "mine.py").read_text().splitlines()
    places = {lines.index("def good(x):"), lines.index("def again(x): ...")}  # of the decorators
    assert {int(number) for number in re.findall(r"mine\.py:(\d+)", said)} == places


def test_workers_do_not_hide_a_refusal(project: Project) -> None:
    said = refusal(project.run(*NUMERIC, "-n", "1", declare="nothing.py"))
    assert "nothing.py' is no file" in said


def test_the_ini_file_declares_too(project: Project) -> None:
    project.pytester.makeini("[pytest]\nparity_declare = toys.py")
    assert ran(project.command("pytest", *NUMERIC, GOOD)) == {"passed": 2}
    project.pytester.makeini("[pytest]\nparity_declare = toes.py")
    assert "toes.py' is no file" in refusal(project.command("pytest", *NUMERIC))


BROKEN_IMPORTS = {
    "a missing package": "import no_such_language",
    "a crash": "raise RuntimeError('driver too old')",
    "a typo": "def f(:",
}


def write_package(project: Project, broken: str, source: str) -> None:
    """Write the package ``mine`` of the toys and a file that does not import."""
    package = project.pytester.mkpydir("mine")
    (package / broken).parent.mkdir(exist_ok=True)
    (package / broken).write_text(source)
    (package / "toys.py").write_text(TOYS)
    project.pytester.syspathinsert()


@pytest.mark.parametrize("source", BROKEN_IMPORTS.values(), ids=BROKEN_IMPORTS)
@pytest.mark.parametrize("broken", ["broken.py", "broken/__init__.py"])
def test_a_module_that_does_not_import_fails_by_its_name(
    project: Project, broken: str, source: str
) -> None:
    write_package(project, broken, source)
    only = ("-m", "import_safety and cpu", "-k", "every_declared_module_loaded")
    result = project.run("--pyargs", "suites.import_safety", *only, declare="mine")
    assert ran(result) == {"failed": 1}
    assert any("mine.broken" in line for line in failure(result))


def test_an_unknown_kernel_may_be_in_a_module_that_did_not_load(project: Project) -> None:
    write_package(project, "broken.py", "import no_such_language")
    said = refusal(project.run(*NUMERIC, "--kernel=triple", declare="mine"))
    assert "mine.broken did not load: No module named 'no_such_language'" in said


def test_a_kernel_without_an_operator_has_no_fake(project: Project) -> None:
    result = project.run("--pyargs", "suites.fake_shape", "--collect-only")
    assert "double" not in str(result.stdout)
    with_one = TOYS.replace('variant="tail"', 'variant="tail", torch_op="mine::double"')
    project.write(toys=with_one)
    result = project.run("--pyargs", "suites.fake_shape", "--collect-only", "-m", CPU)
    assert {"double.triton.tail-cpu", "double.triton.tail-cpu-float16"} <= set(
        re.findall(r"\[(.*)\]", str(result.stdout))
    )
