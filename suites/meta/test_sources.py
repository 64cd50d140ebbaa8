"""A kernel is known by the hash of all sources that it may be made of."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Final

import pytest

from harness import kernel, op, registry, size
from harness.sources import UNKNOWN, source_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.declare import Kernel

DIGITS: Final = set("0123456789abcdef")


def declared(path: Path) -> Kernel:
    """A kernel whose function the file defines."""
    spec = importlib.util.spec_from_file_location("a_users_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return declared_as(module.run)


def once(x: Tensor) -> Tensor:
    return x


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a kernel, device code and what is no source."""
    folder = tmp_path / "package"
    (folder / "cuda").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "run.py": "def run(x):\n    return x\n",
        "policy.py": "TILE = 64\n",
        "cuda/gemm.cu": "// 1\n",
        "cuda/codes.cuh": "// 2\n",
        "notes.md": "3\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def hash_of(folder: Path) -> str:
    """The hash of the kernel there; of a copy, since a process asks for each file only once."""
    copy = Path(tempfile.mkdtemp(dir=folder.parent), "copy")
    found = source_hash(declared(shutil.copytree(folder, copy) / "run.py"))
    assert (len(found), set(found) - DIGITS) == (16, set())
    return found


@pytest.mark.parametrize("name", ["run.py", "policy.py", "cuda/gemm.cu", "cuda/codes.cuh"])
def test_another_source_of_its_package_is_another_kernel(package: Path, name: str) -> None:
    before = hash_of(package)
    path = package / name
    path.write_text(path.read_text() + "\n")
    assert hash_of(package) != before


def test_a_source_that_moves_or_vanishes_is_another_kernel(package: Path) -> None:
    before = hash_of(package)
    (package / "cuda" / "codes.cuh").rename(package / "codes.cuh")
    moved = hash_of(package)
    (package / "codes.cuh").unlink()
    assert len({before, moved, hash_of(package)}) == 3


def test_what_is_no_source_and_where_it_lies_do_not_count(package: Path) -> None:
    before = hash_of(package)
    (package / "notes.md").write_text("4\n")
    (package / "run.pyc").write_text("5\n")
    assert hash_of(package) == before


def test_beside_a_single_file_only_device_code_counts(package: Path) -> None:
    (package / "__init__.py").unlink()
    before = hash_of(package)
    (package / "policy.py").write_text("TILE = 128\n")
    (package / "cuda" / "gemm.cu").write_text("// 6\n")
    assert hash_of(package) == before
    (package / "gemm.cu").write_text("// 7\n")
    assert hash_of(package) != before


def test_what_becomes_of_the_files_later_does_not_count(package: Path) -> None:
    before = source_hash(declared(package / "run.py"))
    (package / "policy.py").write_text("TILE = 128\n")
    assert source_hash(declared(package / "run.py")) == before != hash_of(package)


def test_a_function_without_a_file_has_no_hash() -> None:
    code = compile("def run(x): return x", "<nowhere>", "exec").co_consts[0]
    assert source_hash(declared_as(FunctionType(code, {}))) == UNKNOWN


def declared_as(function: Callable[..., object]) -> Kernel:
    """A kernel that is this function."""
    with registry.scratch():
        op(inputs={"x": "m"}, outputs={"y": "m"}, domain={"m": size(1, 8)}, dtypes=("float32",))(
            once
        )
        kernel("once", backend="triton", arch=">=sm80")(function)
        return registry.kernel("once.triton")
