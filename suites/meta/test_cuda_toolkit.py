"""A toolkit with a part missing says which part, and what to install for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness import backends, cuda_toolkit
from harness.cuda_toolkit import ToolkitMissing
from suites.meta.scale_cuda import require_compiler

if TYPE_CHECKING:
    from pathlib import Path

ARCHS = (80, 90)
REMEDY = r"pip install 'cuda-toolkit\[cccl,crt,cudart,nvrtc\]==13\.\*'"


class Folders:
    """What stands in for `cuda.pathfinder`: one folder with some headers, or none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find_nvidia_header_directory(self, _name: str, /) -> str | None:
        return str(self._folder) if self._folder else None


def headers(folder: Path, *names: str) -> Folders:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return Folders(folder)


def version(major: int, minor: int = 0) -> tuple[tuple[int, int], tuple[int, ...]]:
    return (major, minor), ARCHS


def test_a_whole_toolkit_is_described(tmp_path: Path) -> None:
    names = ("cuda_fp16.h", "crt/host_defines.h", "nv/target", "cuda_runtime_api.h")
    finder = headers(tmp_path, *names)
    found = cuda_toolkit.find(finder, lambda: version(13, 2))
    assert (found.version, found.archs, found.include) == ((13, 2), ARCHS, (tmp_path,))
    (tmp_path / "cuda_runtime_api.h").write_text("another release")
    assert cuda_toolkit.find(finder, lambda: version(13, 2)).headers != found.headers


def test_a_header_that_the_wheels_lack_is_taken_from_a_toolkit(tmp_path: Path) -> None:
    wheels, installed = tmp_path / "wheels", tmp_path / "toolkit"
    for folder in (wheels, installed):
        folder.mkdir()
    headers(wheels, "cuda_fp16.h", "nv/target", "cuda_runtime_api.h")
    headers(installed, "crt/host_defines.h")

    class Both(Folders):
        def find_nvidia_header_directory(self, name: str, /) -> str | None:
            return str(installed if name == "nvcc" else wheels)

    found = cuda_toolkit.find(Both(None), lambda: version(13))
    assert found.include == (wheels, installed)
    (installed / "crt/host_defines.h").write_text("another release")
    assert cuda_toolkit.find(Both(None), lambda: version(13)).headers != found.headers


def test_a_missing_compiler_says_what_to_install() -> None:
    def ask() -> tuple[tuple[int, int], tuple[int, ...]]:
        msg = "Failure finding libnvrtc.so.13"
        raise RuntimeError(msg)

    with pytest.raises(ToolkitMissing, match=rf"NVRTC is not .*libnvrtc\.so\.13.*{REMEDY}"):
        cuda_toolkit.find(Folders(None), ask)


@pytest.mark.parametrize("major", [12, 14])
def test_a_compiler_of_another_release_says_which(major: int) -> None:
    with pytest.raises(ToolkitMissing, match=rf"NVRTC has version {major}\.0, outside.*{REMEDY}"):
        cuda_toolkit.find(Folders(None), lambda: version(major))


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ((), "'cuda_fp16.h' of nvidia-cuda-runtime"),
        (("cuda_fp16.h",), "'crt/host_defines.h' of nvidia-cuda-crt"),
        (("cuda_fp16.h", "crt/host_defines.h"), "'nv/target' of nvidia-cuda-cccl"),
    ],
)
def test_a_missing_header_says_which_package_brings_it(
    tmp_path: Path, present: tuple[str, ...], missing: str
) -> None:
    finder = headers(tmp_path, *present)
    with pytest.raises(ToolkitMissing, match=f"the header {missing} is not .*{REMEDY}"):
        cuda_toolkit.find(finder, lambda: version(13))


def test_no_folder_of_headers_is_said_as_well() -> None:
    with pytest.raises(ToolkitMissing, match=r"is not \(nowhere\)"):
        cuda_toolkit.find(Folders(None), lambda: version(13))


def test_the_real_toolkit_is_found_once() -> None:
    require_compiler()
    assert cuda_toolkit.toolkit() is cuda_toolkit.toolkit()
    assert cuda_toolkit.AT_LEAST <= cuda_toolkit.toolkit().version < cuda_toolkit.BELOW


ASK = """
import json, sys
from harness import backends
{sabotage}
said = []
for _ in range(2):
    try:
        backends.require("cuda")
    except ImportError as error:
        said.append(error)
assert said and said[0] is said[1] is backends.load_error("cuda")
print(json.dumps([type(said[0]).__name__, str(said[0])]))
"""
# The part itself answers as it would; what is replaced is this process's finder of modules.
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cuda":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
# A package of the right name and version, with no toolkit beside it.
INCOMPLETE = """
import types
core = types.ModuleType("cuda.core")
core.__version__ = "1.2.2"
sys.modules |= {"cuda": types.ModuleType("cuda"), "cuda.core": core}
"""


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (ABSENT, r"cannot be imported .*; pip install 'cuda-core[cu13]>=1.2,<2.0'"),
        (INCOMPLETE, "backend 'cuda' is not complete"),
        (INCOMPLETE.replace("1.2.2", "0.9"), "has version 0.9, outside what is known to work"),
    ],
)
def test_the_load_error_is_kept_and_can_be_asked_for(sabotage: str, said: str) -> None:
    code = ASK.format(sabotage=sabotage)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, words = json.loads(done.stdout)
    assert name == backends.BackendMissing.__name__
    start, _, end = said.partition(".*")
    assert start in words
    assert end in words


def test_importing_asks_for_neither_cuda_nor_torch() -> None:
    code = (
        "import sys, harness.nvrtc; "
        "print([m for m in ('cuda', 'torch', 'triton', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
