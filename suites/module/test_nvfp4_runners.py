"""NVFP4Linear behind an integer id: the same bits however it runs, for as long as it lives."""

from __future__ import annotations

import gc
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from harness.emulation import emulate
from harness.launches import record_launches
from kernels.nvfp4 import runners
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.runner_modules import RunnerModule, use_runners
from kernels.nvfp4.runner_registry import Registry, UnknownRunner
from suites.module.runner_patterns import HAZARDS, IN, OURS, OUT, PUBLISHED, Dense, DenseExperts
from suites.module.svdq_layers import HALVES, dense, draw, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Plain(NVFP4Linear):
    """Computes its dequantized weight without a kernel, where only the plumbing matters."""

    def run(self, x: Tensor) -> Tensor:
        return (x.double() @ self.dequantized_weight().t()).to(x.dtype)


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulate():
        yield


def layer_of(dtype: torch.dtype = torch.bfloat16) -> NVFP4Linear:
    return NVFP4Linear.from_linear(dense(40, 96, dtype))


def plain_layer() -> Plain:
    return Plain.from_linear(dense(40, 96, torch.bfloat16))  # type: ignore[return-value]


@pytest.mark.parametrize("name", HAZARDS)
def test_a_hazard_of_the_published_pattern_is_absent_here(name: str) -> None:
    assert HAZARDS[name](PUBLISHED)
    assert not HAZARDS[name](OURS)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("leading", [(5,), (2, 3), (2, 0, 3)])
def test_a_layer_computes_the_same_bits_by_its_id(
    dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    layer = layer_of(dtype)
    x = draw(*leading, 96).to(dtype)
    expected = layer(x)
    layer.use_runner("same bits")
    with record_launches() as launches:
        actual = layer(x)
    assert same_bits(actual, expected)
    assert actual.is_contiguous()
    assert len(launches) == (2 if x.numel() else 0)


@pytest.mark.usefixtures("emulated")
def test_a_result_that_nobody_keeps_is_not_copied() -> None:
    class Watched(NVFP4Linear):
        def run(self, x: Tensor) -> Tensor:
            made = super().run(x)
            self.address = made.data_ptr()
            return made

    layer = Watched.from_linear(dense(40, 96, torch.float16))
    layer.use_runner("not copied")
    assert layer(draw(2, 3, 96).half()).data_ptr() == layer.address


@pytest.mark.usefixtures("emulated")
def test_torch_compile_sees_one_op_whose_rows_are_symbolic() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    layer = layer_of()
    inputs = [draw(*leading, 96).bfloat16() for leading in ((2, 3), (2, 5), (0, 3))]
    expected = [layer(x) for x in inputs]
    layer.use_runner("compiled")
    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    assert all(same_bits(compiled(x), y) for x, y in zip(inputs, expected, strict=True))
    calls = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert torch.ops.nvfp4.linear_gemm.default in calls
    assert not any("kernel_parity" in str(each) for each in calls)


def test_a_compiled_layer_follows_its_new_id() -> None:
    """The old one is a constant of a graph, guarded by the attribute that it was read from."""
    layer = plain_layer()
    x = draw(3, 96).bfloat16()
    layer.use_runner("before")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    expected = compiled(x)
    layer.use_runner("after")
    assert same_bits(compiled(x), expected)
    layer.release_runner()
    assert same_bits(compiled(x), expected)


def test_layers_compiled_one_by_one_share_a_graph_by_tensors_and_not_by_ids() -> None:
    """Why a layer has no runner unless it is asked to: ids are constants, eight are the limit."""

    class Layer(nn.Module):
        def __init__(self, at: int | None) -> None:
            super().__init__()
            self.at = at
            self.register_buffer("weight", torch.ones(OUT, IN))

        def forward(self, x: Tensor) -> Tensor:
            if self.at is None:
                return x @ self.weight.to(x.dtype).T  # type: ignore[operator]
            return runners.linear_gemm(x, self.at, OUT)

    def graphs(layers: list[Layer]) -> int:
        torch.compiler.reset()
        counted = []

        def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
            counted.append(graph)
            return graph

        for layer in layers:
            torch.compile(layer, fullgraph=True, backend=backend)(torch.ones(2, IN).half())
        return len(counted)

    kept = Dense()
    ids = [runners.register_linear(kept, f"one by one {i}", keep=False) for i in range(3)]
    assert graphs([Layer(None) for _ in ids]) == 1
    assert graphs([Layer(at) for at in ids]) == len(ids)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("strict", [True, False])
def test_an_export_carries_the_weights_and_no_id(strict: bool) -> None:  # noqa: FBT001
    layer = layer_of()
    x = draw(3, 96).bfloat16()
    layer.use_runner("exported")
    saved = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,), strict=strict), saved)
    expected = layer(x)
    del layer
    gc.collect()
    saved.seek(0)
    program = torch.export.load(saved)
    assert not any("linear_gemm" in str(node.target) for node in program.graph.nodes)
    assert same_bits(program.module()(x), expected)


def test_an_exported_id_is_refused_where_its_name_is_not_registered() -> None:
    kept = Dense()
    at = runners.register_linear(kept, "by hand")
    x = torch.ones(2, IN).half()

    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return runners.linear_gemm(x, at, OUT)

    exported = torch.export.export(ByHand(), (x,)).module()
    assert same_bits(exported(x), kept.run(x))
    runners.release(at)
    with pytest.raises(UnknownRunner, match=f"runner_id={at} was the linear runner 'by hand', wh"):
        exported(x)


@pytest.mark.parametrize("how", ["deepcopy", "copy", "save"])
def test_a_copy_has_an_id_of_its_own(how: str) -> None:
    def saved(layer: NVFP4Linear) -> NVFP4Linear:
        written = io.BytesIO()
        torch.save(layer, written)
        written.seek(0)
        loaded: NVFP4Linear = torch.load(written, weights_only=False)
        return loaded

    layer = plain_layer()
    x = draw(3, 96).bfloat16()
    at = layer.use_runner(f"copied by {how}")
    expected = layer(x)
    ways: dict[str, Callable[[NVFP4Linear], NVFP4Linear]]
    ways = {"deepcopy": deepcopy, "copy": copy, "save": saved}
    made = ways[how](layer)
    assert made.runner_name == layer.runner_name
    assert made.runner_id == at + 1  # the next generation
    del layer
    gc.collect()
    assert same_bits(made(x), expected)
    with pytest.raises(UnknownRunner, match=f"the name is {made.runner_id} now"):
        runners.linear_gemm(x, at, 40)


def test_a_runner_has_the_present_state_of_its_layer() -> None:
    layer, other = plain_layer(), plain_layer()
    with torch.no_grad():
        other.weight_codes.bitwise_xor_(0x88)  # all signs
    x = draw(3, 96).bfloat16()
    layer.use_runner("present")
    for assign in (False, True):
        state = {key: value.clone() for key, value in other.state_dict().items()}
        layer.load_state_dict(state, assign=assign)
        assert same_bits(layer(x), other(x))
        layer.weight_codes.bitwise_xor_(0x08)
        assert not same_bits(layer(x), other(x))
    assert list(layer.state_dict()) == list(other.state_dict())


def test_a_gradient_is_refused_by_the_op_too() -> None:
    layer = plain_layer()
    layer.use_runner("gradient")
    with pytest.raises(RuntimeError, match="autograd"):
        layer(draw(2, 96).bfloat16().requires_grad_()).sum().backward()


def test_a_new_name_releases_the_old_one() -> None:
    layer = plain_layer()
    x = draw(3, 96).bfloat16()
    ids = [layer.use_runner(name) for name in ("old", "new", "new")]
    for at in ids[:-1]:
        with pytest.raises(UnknownRunner, match="is released"):
            runners.linear_gemm(x, at, 40)
    layer.release_runner()
    with pytest.raises(UnknownRunner, match="'new', which is released"):
        runners.linear_gemm(x, ids[-1], 40)
    assert layer.runner_id is None


def test_a_models_layers_are_named_by_their_place() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(layer_of(), nn.Sequential(nn.ReLU(), layer_of()))

    first, second = model(), model()
    ids = use_runners(first, scope="places")
    assert list(ids) == ["places.0", "places.1.1"]
    assert {layer.runner_id for layer in first.modules() if isinstance(layer, RunnerModule)} == {
        *ids.values()
    }
    assert not {*use_runners(second, scope="places").values()} & {*ids.values()}
    assert use_runners(layer_of()).keys() == {"NVFP4Linear"}
    assert "runner_name='places.0'" in repr(first)


def test_the_mixture_of_experts_goes_through_its_op() -> None:
    kept = DenseExperts()
    at = runners.register_moe(kept, "experts", keep=False)
    x = torch.ones(2, 3, IN).half()
    ids = torch.tensor([0, 3]).expand(2, 3, 2)
    y = runners.moe_gemm(x, torch.full((2, 3, 2), 0.5), ids, at, OUT)
    assert (y.shape, y.dtype) == ((2, 3, OUT), torch.float16)
    assert bool((y == 2.5 * IN).all())


def test_a_new_process_has_the_same_ids() -> None:
    """Spelled out, because saved graphs have them."""
    fresh = Registry()
    kept = Dense()
    ids = [fresh.register("linear", name, kept) for name in ("model.0", "model.1", "model.0")]
    assert ids == [4895171761750933504, 5800757867530158080, 4895171761750933505]


def test_threads_register_call_and_release_at_once() -> None:
    start = threading.Barrier(4)

    def work(worker: int) -> int:
        start.wait()
        for turn in range(60):
            factor = 1.0 + worker + turn % 5
            kept = Dense(factor)
            at = runners.register_linear(kept, f"shared {turn % 3}", keep=turn % 2 == 0)
            y = runners.linear_gemm(torch.ones(2, IN).half(), at, OUT)
            assert bool((y == IN * factor).all())
            if turn % 2 == 0:
                runners.release(at)
            del kept
            with pytest.raises(UnknownRunner, match="is released"):
                runners.linear_gemm(torch.ones(2, IN).half(), at, OUT)
        return worker

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == list(range(4))
    assert not [each for each in runners.REGISTRY.known() if each.name.startswith("shared")]


def test_a_call_that_has_begun_ends_with_its_runner() -> None:
    class Releasing(Dense):
        def run(self, x: Tensor) -> Tensor:
            runners.release(at)
            gc.collect()
            return super().run(x)

    at = runners.register_linear(Releasing(), "releasing")
    x = torch.ones(2, IN).half()
    assert bool((runners.linear_gemm(x, at, OUT) == IN).all())
    with pytest.raises(UnknownRunner):
        runners.linear_gemm(x, at, OUT)


def test_a_finalizer_may_run_while_the_registry_is_at_work() -> None:
    """Garbage is collected anywhere: here, while the registry looks at a name's hash."""
    fresh = Registry()
    kept = Dense()
    garbage = [Dense() for _ in range(3)]
    for each in garbage:
        fresh.register("linear", "garbage", each, keep=False)
    del each

    class Collecting(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            garbage.clear()
            gc.collect()
            return super().__eq__(other)

        __hash__ = str.__hash__

    at = fresh.register("linear", Collecting("garbage"), kept)
    assert [each.id for each in fresh.known()] == [at]
    assert not garbage
