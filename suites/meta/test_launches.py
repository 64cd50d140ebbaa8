"""Launches are seen, held back or redirected, and nothing stays behind."""

# The parameters of a kernel have the types of its launch, and its constants upper-case names.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN401, N803

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from harness.emulation import emulate
from harness.launches import (
    Launch,
    capture_launches,
    executing,
    name_launches,
    record_launches,
    report_launch,
    suspended,
)


@triton.jit
def add(x_ptr, out_ptr, n, amount=1.0, BLOCK: tl.constexpr = 16):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x + amount, mask=at < n)


def launch_add(x: torch.Tensor, out: torch.Tensor, **options: Any) -> None:
    add[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, out, len(x), **options)


def test_a_launch_is_described() -> None:
    x, out = torch.zeros(40), torch.zeros(40)
    with capture_launches() as launches:
        launch_add(x, out, num_warps=2, num_stages=1)
    (launch,) = launches
    assert (launch.backend, launch.name, launch.module) == ("triton", "add", __name__)
    assert launch.function is add
    assert launch.grid == (3,)
    assert list(launch.arguments) == ["x_ptr", "out_ptr", "n", "amount", "BLOCK"]
    assert launch.arguments["x_ptr"] is x
    assert launch.arguments["out_ptr"] is out
    assert [launch.arguments[name] for name in ("n", "amount", "BLOCK")] == [40, 1.0, 16]
    assert launch.constants == {"BLOCK"}
    assert launch.options == {"num_warps": 2, "num_stages": 1}
    assert str(launch) == f"{__name__}.add[3]"


def test_a_launch_that_a_scope_sees_is_named_once_and_keeps_no_tensor() -> None:
    x, out = torch.zeros(40), torch.zeros(40)
    with name_launches() as names:
        with capture_launches():
            launch_add(x, out)
            launch_add(x, out)
        assert names == {f"triton:{__name__}.add"}
    with capture_launches():
        launch_add(x, out)
    assert names == {f"triton:{__name__}.add"}


def test_captured_launches_do_not_execute() -> None:
    x, out = torch.zeros(40), torch.zeros(40)
    with emulate(), capture_launches() as launches:
        launch_add(x, out)
    assert len(launches) == 1
    assert not out.any()


def test_recorded_launches_execute() -> None:
    x, out = torch.zeros(40), torch.zeros(40)
    with record_launches() as launches, emulate():
        launch_add(x, out)
        launch_add(out, out)
    assert len(launches) == 2
    assert out.unique().tolist() == [2.0]


def test_every_open_scope_sees_a_launch() -> None:
    x = torch.zeros(40)
    with emulate(), record_launches() as outer:
        with record_launches() as inner:
            launch_add(x, x)
        with capture_launches() as captured:
            launch_add(x, x)
        launch_add(x, x)
    assert [len(seen) for seen in (outer, inner, captured)] == [3, 1, 1]
    assert x.unique().tolist() == [2.0]


def test_another_backends_launcher_reports() -> None:
    launch = Launch("cuda", "gemm", "their.package", None, (4, 2), {"a": 1})
    assert report_launch(launch)
    with record_launches() as recorded:
        assert report_launch(launch)
    with capture_launches() as captured:
        assert not report_launch(launch)
    assert recorded == captured == [launch]


def test_suspended_launches_are_not_seen() -> None:
    with capture_launches() as launches, suspended():
        assert report_launch(Launch("cuda", "gemm", "their.package", None, (1,), {}))
    assert launches == []


CONFIGS = [triton.Config({"BLOCK": size}, num_warps=warps) for size, warps in ((8, 1), (32, 4))]


@triton.autotune(CONFIGS, key=["n"])
@triton.jit
def tuned(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1, mask=at < n)


@triton.autotune(
    CONFIGS, key=["n"], prune_configs_by={"early_config_prune": lambda c, *_, **__: c[1:]}
)
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def pruned(x_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):  # noqa: ARG001
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1, mask=at < n)


def test_an_autotuned_kernel_takes_its_first_config_and_measures_nothing() -> None:
    x = torch.zeros(40)
    with emulate(), record_launches() as launches:
        tuned[lambda meta: (triton.cdiv(40, meta["BLOCK"]),)](x, 40)
    (launch,) = launches
    assert launch.grid == (5,)
    assert launch.arguments["BLOCK"] == 8
    assert launch.options["num_warps"] == 1
    assert x.unique().tolist() == [1.0]
    assert tuned.cache == {}  # a real launch would still measure


def test_pruning_and_heuristics_are_respected() -> None:
    x = torch.zeros(40)
    with emulate(), record_launches() as launches:
        pruned[lambda meta: (triton.cdiv(40, meta["BLOCK"]),)](x, 40)
    assert launches[0].arguments["BLOCK"] == 32
    assert launches[0].arguments["EVEN"] is False
    assert x.unique().tolist() == [1.0]


def test_an_executor_may_look_and_go_on() -> None:
    seen: list[str] = []

    def watch(launch: Launch, proceed: Any) -> Any:
        seen.append(launch.name)
        return "done" if proceed is not None else None

    with executing(watch):
        x = torch.zeros(40)
        assert add[(1,)](x, x, 40) == "done"
    assert seen == ["add"]


def test_warmup_is_no_launch_and_needs_no_gpu_here() -> None:
    with capture_launches() as launches:
        assert add.warmup(torch.float32, torch.float32, 16, grid=(1,)) is None
    assert launches == []


def test_triton_is_as_before_after_an_error() -> None:
    before = JITFunction.run, Autotuner.run
    during: list[object] = []

    def fail() -> None:
        with record_launches(), capture_launches():
            during.append(JITFunction.run)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert during != [before[0]]
    assert (JITFunction.run, Autotuner.run) == before


def test_wrong_arguments_name_the_kernel() -> None:
    with capture_launches(), pytest.raises(TypeError, match=r"add: missing a required argument"):
        add[(1,)](torch.zeros(1))


@pytest.mark.parametrize("grid", [(1.5,), 4])
def test_a_grid_must_be_integers(grid: object) -> None:
    x = torch.zeros(16)
    with capture_launches(), pytest.raises(TypeError, match="is not a sequence of integers"):
        add[grid](x, x, 16)
