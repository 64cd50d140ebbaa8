"""The fake results of runners' ops: right without a runner, for every rank, dtype and id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.nvfp4 import runners
from suites.module.runner_patterns import IN, OUT, Dense, DenseExperts
from suites.module.svdq_layers import HALVES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEADING = [(), (5,), (2, 3), (0,), (2, 0, 3)]


@pytest.fixture
def linear() -> Iterator[int]:
    kept = Dense()
    yield runners.register_linear(kept, "fake linear", keep=False)
    del kept


@pytest.fixture
def moe() -> Iterator[int]:
    kept = DenseExperts()
    yield runners.register_moe(kept, "fake moe", keep=False)
    del kept


def rows(dtype: torch.dtype, *leading: int) -> Tensor:
    return torch.ones(*leading, IN, dtype=dtype)


def routed(dtype: torch.dtype, *leading: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.tensor([3, 0]).expand(*leading, 2).contiguous()
    return rows(dtype, *leading), torch.full((*leading, 2), 0.5), ids


def described(y: Tensor) -> tuple[object, ...]:
    return y.shape, y.dtype, y.device, y.stride(), y.storage_offset()


def check(op: Callable[..., Tensor], tensors: tuple[Tensor, ...], runner_id: int) -> None:
    real = op(*tensors, runner_id, OUT)
    for at in (runner_id, runner_id + 1):  # of which there is no runner
        with FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(each) for each in tensors), at, OUT)
        assert described(fake) == described(real)
    assert real.dtype is tensors[0].dtype
    assert not any(real.untyped_storage()._cdata == t.untyped_storage()._cdata for t in tensors)  # noqa: SLF001


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("leading", LEADING)
def test_fake_and_real_agree(
    linear: int, moe: int, dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    check(runners.linear_gemm, (rows(dtype, *leading),), linear)
    check(runners.moe_gemm, routed(dtype, *leading), moe)


@pytest.mark.parametrize("leading", [(5,), (2, 3), (0,)])
def test_torch_accepts_both_ops(linear: int, moe: int, leading: tuple[int, ...]) -> None:
    half = torch.float16
    torch.library.opcheck(torch.ops.nvfp4.linear_gemm, (rows(half, *leading), linear, OUT))
    torch.library.opcheck(torch.ops.nvfp4.moe_gemm, (*routed(half, *leading), moe, OUT))


def test_one_graph_has_rows_and_ids_as_symbols(linear: int) -> None:
    """An id is a constant of a graph only where it is read from a module."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    twice = Dense(2)
    other = runners.register_linear(twice, "another", keep=False)
    compiled = torch.compile(runners.linear_gemm, fullgraph=True, dynamic=True, backend=backend)
    for at, m, expected in ((linear, 3, IN), (other, 7, 2 * IN)):
        y = compiled(rows(torch.float16, m), at, OUT)
        assert y.shape == (m, OUT)
        assert bool((y == expected).all())
    assert len(graphs) == 1


def test_rows_of_an_export_may_be_symbolic(linear: int) -> None:
    class ByHand(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return runners.linear_gemm(x, linear, OUT)

    m = torch.export.Dim("m", max=64)
    exported = torch.export.export(
        ByHand(), (rows(torch.float16, 3, 2),), dynamic_shapes={"x": {0: m}}
    )
    assert exported.module()(rows(torch.float16, 7, 2)).shape == (7, 2, OUT)
