"""Loading declares once, says what is not there, and keeps what could not be imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import registry
from harness.cells import Layer
from harness.registry import (
    DeclarationFailed,
    DeclarationNotFound,
    UnknownName,
    load,
    load_all,
    load_errors,
)
from harness.subjects import subject

DOUBLED = """
from harness import kernel, op, size

@op(inputs={"x": "m"}, outputs={"y": "m"}, domain={"m": size(0, 4)}, dtypes=("float32",))
def doubled(x):
    return x + x

@kernel("doubled", backend="triton", arch="sm90")
def doubled_on_gpu(x):
    return x + x
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes an importable file; the modules that the test imports are forgotten afterwards."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with registry.scratch():
        yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_file_declares(write: Write) -> None:
    load(str(write("theirs.py", DOUBLED)))
    (kernel,) = registry.kernels()
    assert kernel.name == "doubled.triton"
    assert kernel.place.partition(":")[0].endswith("theirs.py")


def test_a_file_is_executed_once(write: Write) -> None:
    path = write("counted.py", "with open(f'{__file__}.log', 'a') as log: log.write('again')")
    load(str(path))
    load(str(path))
    assert path.with_name("counted.py.log").read_text(encoding="utf-8") == "again"


def test_two_files_of_one_name_both_declare(write: Write) -> None:
    one = write("one/kernels.py", DOUBLED)
    two = write("two/kernels.py", DOUBLED.replace("doubled", "doubled_twice"))
    registry.load_all([str(one), str(two)])
    assert [kernel.op for kernel in registry.kernels()] == ["doubled", "doubled_twice"]


def test_a_file_that_fails_fails_again(write: Write) -> None:
    path = write("broken.py", "raise OSError('libcuda.so.1 is not there')")
    for _ in range(2):
        with pytest.raises(OSError, match=r"libcuda.so.1"):
            load(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationNotFound) as error:
        load(str(tmp_path / "absent.py"))
    assert f"declare={str(tmp_path / 'absent.py')!r} is no file" in str(error.value)


def test_a_package_declares_with_all_its_submodules(write: Write) -> None:
    write("acme/__init__.py", "")
    write("acme/norm/__init__.py", "")
    write("acme/norm/triton.py", DOUBLED)
    load("acme")
    assert [kernel.name for kernel in registry.kernels()] == ["doubled.triton"]
    assert load_errors() == {}


def test_a_module_declares(write: Write) -> None:
    write("acme_module.py", DOUBLED)
    load("acme_module")
    assert registry.op("doubled").name == "doubled"


@pytest.mark.parametrize("target", ["acme_absent", "acme_absent.kernels", "acme_here.absent"])
def test_a_package_that_is_not_there_is_named(write: Write, target: str) -> None:
    write("acme_here/__init__.py", "")
    with pytest.raises(DeclarationNotFound, match=f"declare='{target}' is no importable package"):
        load(target)


def test_a_package_that_misses_something_is_not_called_absent(write: Write) -> None:
    write("acme_needs/__init__.py", "import acme_dependency")
    with pytest.raises(ModuleNotFoundError, match="acme_dependency") as error:
        load("acme_needs")
    assert not isinstance(error.value, DeclarationNotFound)


def test_a_submodule_that_cannot_be_imported_leaves_the_others(write: Write) -> None:
    write("acme_parts/__init__.py", "")
    write("acme_parts/cute.py", "import cutlass_that_is_not_there")
    write("acme_parts/deep/__init__.py", "raise ImportError('too old')")
    write("acme_parts/triton.py", DOUBLED)
    load("acme_parts")
    assert [kernel.name for kernel in registry.kernels()] == ["doubled.triton"]
    errors = load_errors()
    assert sorted(errors) == ["acme_parts.cute", "acme_parts.deep"]
    assert "cutlass_that_is_not_there" in str(errors["acme_parts.cute"])
    assert str(errors["acme_parts.deep"]) == "too old"


def test_the_first_error_of_a_submodule_stays(write: Write) -> None:
    write("acme_again/__init__.py", "")
    part = write("acme_again/part.py", "raise ImportError('the cause')")
    load("acme_again")
    part.write_text("raise ImportError('a consequence of it')", encoding="utf-8")
    load("acme_again")
    assert str(load_errors()["acme_again.part"]) == "the cause"


def test_a_file_that_ends_the_process_is_refused_by_its_place(write: Write) -> None:
    path = write("acme_ends.py", "raise SystemExit(0)")
    with pytest.raises(DeclarationFailed) as error:
        load_all([str(path)])
    assert str(error.value) == f"declare={str(path)!r}: {path}:1: SystemExit: 0"


def test_a_submodule_that_ends_the_process_leaves_the_others(write: Write) -> None:
    write("acme_exit/__init__.py", "")
    path = write("acme_exit/cute.py", "import sys\nsys.exit('no driver')")
    write("acme_exit/triton.py", DOUBLED)
    load_all(["acme_exit"])
    assert [each.name for each in registry.kernels()] == ["doubled.triton"]
    assert str(load_errors()["acme_exit.cute"]) == f"{path}:2: SystemExit: no driver"


def test_a_missing_import_is_told_with_the_file_that_wants_it(write: Write) -> None:
    path = write("acme_wants.py", "import acme_that_is_not_there")
    with pytest.raises(DeclarationFailed) as error:
        load_all([str(path)])
    assert f"{path}:1: ModuleNotFoundError: No module named 'acme_that" in str(error.value)


def test_a_declaration_that_is_wrong_is_not_kept_for_later(write: Write) -> None:
    write("acme_wrong/__init__.py", "")
    write("acme_wrong/triton.py", DOUBLED.replace('"sm90"', '"sm9"'))
    with pytest.raises(ValueError, match="arch='sm9'"):
        load("acme_wrong")


def test_what_is_given_is_a_copy(write: Write) -> None:
    del write
    load_errors()["acme"] = ImportError()
    assert load_errors() == {}


def test_subjects_are_listed_by_name_and_refused_twice() -> None:
    def mlp() -> None: ...

    def attention() -> None: ...

    with registry.scratch():
        for build in (mlp, attention):
            subject(ops=("doubled",), dtypes=("float32",))(build)
        assert [s.name for s in registry.subjects()] == ["attention", "mlp"]
        assert {s.layer for s in registry.subjects()} == {Layer.MODULE}
        first = mlp.__code__.co_firstlineno

        def mlp() -> None: ...

        with pytest.raises(registry.DuplicateDeclaration) as error:
            subject(ops=("doubled",), dtypes=("float32",))(mlp)
    for line in (first, mlp.__code__.co_firstlineno):
        assert f"{__file__}:{line}" in str(error.value)


def test_an_unknown_name_is_a_lookup_error() -> None:
    with registry.scratch(), pytest.raises(UnknownName, match=r"kernel 'a\.b' is unknown"):
        registry.kernel("a.b")
