"""A CUDA kernel of a user's own, declared in a file, passes what needs no GPU."""

from __future__ import annotations

from typing import Final

import pytest

from harness.arch import ARCHES
from harness.device import present_archs
from suites.meta.scale_cuda import require_compiler
from suites.meta.users_project import RECORDS, Project, failure, ran

pytest_plugins = ("pytester",)

SUITES: Final = ("suites.compile.test_compile", "suites.import_safety.test_import_safety")
HERE: Final = " or ".join(["import_safety", *(f"({arch} and compile)" for arch in ARCHES)])
CUDA: Final = """
import ctypes

import torch

from harness import device, kernel, op, size
from harness.nvrtc import Function, Source


@op(
    inputs={"x": "n"},
    outputs={"y": "n"},
    domain={"n": size(0, 4096)},
    dtypes=("float32",),
    params={"factor": (0.5, 3.0)},
)
def scale(x, factor):
    return x * factor


SCALE = Function(
    Source(
        name="scale.cu",
        kernel="scale<float>",
        text='''
        template <typename T> __global__ void scale(const T* x, T* y, int n, T factor) {
          int at = blockIdx.x * blockDim.x + threadIdx.x;
          if (at < n) y[at] = x[at] * factor;
        }
        ''',
    ),
    parameters={
        "x": "float32", "y": "float32", "n": ctypes.c_int32, "factor": ctypes.c_float,
    },
    module=__name__,
)


@kernel("scale", backend="cuda", arch=">=sm80", instructions={">=sm80": r"\\bFMUL\\b"})
def scale_it(x, factor):
    device.require_arch(x.device, ">=sm80")
    y = torch.empty_like(x)
    if len(x):
        SCALE.launch(x, y, len(x), factor, grid=-(-len(x) // 256), block=256)
    return y
"""


def test_it_compiles_for_every_arch_and_is_safe_to_import(project: Project) -> None:
    require_compiler()
    project.write(mine=CUDA)
    options = ("--declare=mine.py", "--kernel=scale.cuda", RECORDS)
    result = project.run_apart("--pyargs", *SUITES, "-m", HERE, *options)
    assert ran(result) == {"passed": 1 + len(ARCHES)}, str(result.stdout)
    compiled = [r for r in project.read() if r.layer == "compile"]
    assert {r.evidence for r in compiled} == {"compiled"}
    assert {r.arch for r in compiled} == set(ARCHES)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("FMUL", "IMMA", "no instruction of declared_mine.scale<float> matches"),
        ("y[at] =", "z[at] =", 'scale.cu(4): error: identifier "z" is undefined'),
        ('"x": "float32"', '"x": "int8"', "x.dtype='float32'; the kernel reads int8"),
    ],
)
def test_what_is_wrong_is_said(project: Project, right: str, wrong: str, said: str) -> None:
    require_compiler()
    project.write(mine=CUDA.replace(right, wrong, 1))
    options = ("-m", "sm90 and compile", "--kernel=scale.cuda", "--declare=mine.py")
    result = project.run_apart("--pyargs", SUITES[0], *options)
    assert ran(result) == {"failed": 1}, str(result.stdout)
    assert said in "\n".join(failure(result))


@pytest.mark.gpu
def test_without_cuda_core_what_would_run_is_skipped_with_what_to_install(project: Project) -> None:
    absent = "import sys\n\nsys.modules['cuda'] = None\n"
    project.write(mine=absent + CUDA)
    (arch, *_) = present_archs()
    options = ("-m", f"{arch} and numeric", "--kernel=scale.cuda", "--declare=mine.py", "-rs")
    result = project.run_apart("--pyargs", "suites.numeric", *options)
    assert set(ran(result)) == {"skipped"}, str(result.stdout)
    assert "pip install 'cuda-core[cu13]>=1.2,<2.0'" in str(result.stdout)
