"""A Triton kernel of a user's own goes through every layer on a machine without a GPU."""

from __future__ import annotations

from typing import Final

from harness.arch import CPU
from harness.cells import Layer
from suites.meta.absent import ABSENT
from suites.meta.users_project import RECORDS, Project, failure, printed_command, ran

LAYERS: Final = tuple(f"suites.{layer}.test_{layer}" for layer in Layer if layer != Layer.E2E)
pytest_plugins = ("pytester",)


TRITON: Final = """
import torch
import triton
import triton.language as tl

from harness import device, kernel, op, size


@op(
    inputs={"x": "n"},
    outputs={"y": "n"},
    domain={"n": size(0, 4096)},
    dtypes=("float32",),
    params={"factor": (0.5, 3.0)},
)
def scale(x, factor):
    return x * factor


@triton.jit
def _scale_kernel(x, y, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n) * factor, mask=at < n)


def _check(x):
    if x.dtype != torch.float32:
        raise TypeError(f"x.dtype={x.dtype} is not float32; convert x")
    if x.dim() != 1 or len(x) > 4096 or not x.is_contiguous():
        raise ValueError(f"x has shape {tuple(x.shape)}; pass a contiguous x [n], n at most 4096")
    if x.device.type == "meta":
        raise ValueError("x is on the device meta; move it to a GPU")


@torch.library.custom_op("their::scale", mutates_args=())
def _scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    _check(x)
    device.require_arch(x.device, ">=sm80")
    y = torch.empty_like(x)
    if len(x):
        _scale_kernel[(triton.cdiv(len(x), 256),)](x, y, len(x), factor, BLOCK=256)
    return y


@_scale.register_fake
def _fake_scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    _check(x)
    return torch.empty_like(x)


def scale_it(x, factor):
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x={x!r} is no tensor; pass one")
    return _scale(x, factor)


declared = {"backend": "triton", "arch": ">=sm80", "torch_op": "their::scale"}
kernel("scale", **declared)(scale_it)
kernel("scale", variant="dense", instructions={"sm100": r"UTC\\w*MMA"}, **declared)(scale_it)
"""


def test_a_kernel_of_a_users_own_passes_every_layer(project: Project) -> None:
    project.write(mine=TRITON)
    marks = f"{CPU} or ({ABSENT} and compile)"
    options = ("--declare=mine.py", "--kernel=scale.triton", "--cases=4", RECORDS)
    result = project.run_apart("--pyargs", *LAYERS, "-m", marks, *options)
    assert ran(result) == {"passed": 9}, str(result.stdout)
    assert {(r.layer, r.evidence) for r in project.read()} == {
        ("import_safety", "emulated"),
        ("fake_shape", "fake"),
        ("numeric", "emulated"),
        ("boundary", "emulated"),
        ("compile", "compiled"),
    }


def test_a_compile_failure_is_reproduced_without_a_gpu(project: Project) -> None:
    project.write(mine=TRITON)
    suite = "suites.compile.test_compile"
    options = ("-m", "sm100 and compile", "--kernel=scale.triton.dense", "--declare=mine.py")
    result = project.run_apart("--pyargs", suite, *options)
    assert ran(result) == {"failed": 1}
    first = failure(result)
    assert first[0] == "scale.triton.dense on sm100, compile (compiled): 3 problems"
    assert "_scale_kernel matches 'UTC\\\\w*MMA', expected on sm100" in first[3]
    again = project.run_apart(*printed_command(first)[1:])
    assert ran(again) == {"failed": 1}
    assert failure(again)[1:4] == first[1:4]
