"""What runners' ops refuse, before the runner is called, and what a runner must not return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.nvfp4 import runners
from kernels.nvfp4.domain import MAX_M
from kernels.nvfp4.linear import NVFP4Linear
from kernels.nvfp4.runner_registry import Registry, UnknownRunner
from suites.module.runner_patterns import IN, OUT, Dense, DenseExperts

if TYPE_CHECKING:
    from collections.abc import Callable

HALF = torch.float16


class Counting(Dense):
    """Counts calls, and lives wherever it says."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.calls = 0

    def run(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().run(x)


class CountingExperts(DenseExperts):
    def __init__(self) -> None:
        self.calls = 0

    def run(self, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
        self.calls += 1
        return super().run(hidden_states, topk_weights, topk_ids)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=HALF)


# What replaces arguments of a legal call, the exception, what its message says, and whether the
# arguments alone tell, so that a fake refuses the call as well.
Refusal = tuple[dict[str, Any], type[Exception], str, bool]
LINEAR: dict[str, Refusal] = {
    "x of float32": (
        {"x": torch.ones(2, IN)},
        TypeError,
        "x.dtype=torch.float32 is not supported; convert x to torch.float16 or torch.bfloat16",
        True,
    ),
    "x of rank 0": ({"x": ones()}, ValueError, r"x has shape \[\], of rank 0; reshape", True),
    "another k": (
        {"x": ones(2, 64)},
        ValueError,
        r"x has shape \[2, 64\]; the runner 'refusing' needs \[\.\.\., in_features=32\]",
        False,
    ),
    "k of 48": ({"x": ones(2, 48)}, ValueError, "k=48 is not a multiple of 32", True),
    "no k": ({"x": ones(2, 0)}, ValueError, r"k=0 is outside 32\.\.", True),
    "m beyond the last": (
        {"x": ones(1, IN).expand(MAX_M + 1, -1)},
        ValueError,
        r"m=1048577 is outside 0\.\.1048576; split",
        True,
    ),
    "another n": (
        {"out_features": 16},
        ValueError,
        "out_features=16 is not that of the runner 'refusing'; pass 8",
        False,
    ),
    "n of 12": ({"out_features": 12}, ValueError, "out_features=12 is not a multiple of 8", True),
    "an unknown id": (
        {"runner_id": 12345},
        UnknownRunner,
        r"runner_id=12345 is not registered in this process; .*'refusing' \(\d+\).*: register the",
        False,
    ),
    "a negative id": (
        {"runner_id": -1},
        UnknownRunner,
        "runner_id=-1 is not registered in this process",
        False,
    ),
}
MOE: dict[str, Refusal] = {
    "hidden states of float32": (
        {"hidden_states": torch.ones(2, IN)},
        TypeError,
        "hidden_states.dtype=torch.float32 is not supported",
        True,
    ),
    "another k": (
        {"hidden_states": ones(2, 64)},
        ValueError,
        r"hidden_states has shape \[2, 64\]; the runner 'refusing' needs .*in_features=32",
        False,
    ),
    "another hidden size": (
        {"hidden_size": 16},
        ValueError,
        "hidden_size=16 is not that of the runner 'refusing'; pass 8",
        False,
    ),
    "weights of bfloat16": (
        {"topk_weights": torch.ones(2, 2).bfloat16()},
        TypeError,
        "topk_weights.dtype=torch.bfloat16 is not supported; convert .* torch.float32",
        True,
    ),
    "ids of int16": (
        {"topk_ids": torch.zeros(2, 2, dtype=torch.int16)},
        TypeError,
        "topk_ids.dtype=torch.int16 is not supported",
        True,
    ),
    "ids of other tokens": (
        {"topk_ids": torch.zeros(3, 2, dtype=torch.int64)},
        ValueError,
        r"topk_ids has shape \[3, 2\]; .* need \[2, 2\]",
        True,
    ),
    "weights of another top-k": (
        {"topk_weights": torch.ones(2, 3)},
        ValueError,
        r"topk_weights has shape \[2, 3\]; .* need \[2, 2\]",
        True,
    ),
    "no expert": (
        {"topk_ids": torch.zeros(2, 0, dtype=torch.int64), "topk_weights": torch.ones(2, 0)},
        ValueError,
        r"topk_ids has shape \[2, 0\]; give every token at least one expert",
        True,
    ),
    "an expert beyond the last": (
        {"topk_ids": torch.tensor([[0, 1], [4, 1]])},
        ValueError,
        r"topk_ids has 4 at \[1, 0\]; with e=4 experts an id is in 0\.\.3",
        False,
    ),
    "a negative expert": (
        {"topk_ids": torch.tensor([[0, 1], [-1, 1]], dtype=torch.int32)},
        ValueError,
        r"topk_ids has -1 at \[1, 0\]",
        False,
    ),
    "an unknown id": ({"runner_id": 7}, UnknownRunner, "runner_id=7 is not registered", False),
}


def check(call: Callable[..., Tensor], legal: dict[str, Any], refusal: Refusal, calls: Any) -> None:  # noqa: ANN401
    replaced, error, words, told = refusal
    with pytest.raises(error, match=words):
        call(**(legal | replaced))
    assert not calls()
    with FakeTensorMode(allow_non_fake_inputs=True):
        if told:
            with pytest.raises(error, match=words):
                call(**(legal | replaced))
        else:
            call(**(legal | replaced))
    call(**legal)
    assert calls() == 1


@pytest.mark.parametrize("name", LINEAR)
def test_the_linear_op_refuses(name: str) -> None:
    kept = Counting()
    at = runners.register_linear(kept, "refusing", keep=False)
    legal = {"x": ones(2, IN), "runner_id": at, "out_features": OUT}
    check(runners.linear_gemm, legal, LINEAR[name], lambda: kept.calls)


@pytest.mark.parametrize("name", MOE)
def test_the_op_of_experts_refuses(name: str) -> None:
    kept = CountingExperts()
    legal = {
        "hidden_states": ones(2, IN),
        "topk_weights": torch.ones(2, 2),
        "topk_ids": torch.tensor([[0, 3], [1, 1]]),
        "runner_id": runners.register_moe(kept, "refusing", keep=False),
        "hidden_size": OUT,
    }
    check(runners.moe_gemm, legal, MOE[name], lambda: kept.calls)


def test_a_runner_of_another_device_is_refused() -> None:
    kept = Counting("cuda:1")
    at = runners.register_linear(kept, "elsewhere", keep=False)
    with pytest.raises(ValueError, match="x is on device 'cpu' and the runner 'elsewhere' on 'cu"):
        runners.linear_gemm(ones(2, IN), at, OUT)
    assert not kept.calls
    with FakeTensorMode(), pytest.raises(ValueError, match="topk_ids is on device 'cpu' and hidd"):
        runners.moe_gemm(
            ones(2, IN).to("cuda:0"),
            torch.ones(2, 2, device="cuda:0"),
            torch.zeros(2, 2, dtype=torch.int64),
            at,
            OUT,
        )


def test_a_runner_of_the_other_op_is_refused() -> None:
    experts = DenseExperts()
    at = runners.register_moe(experts, "experts", keep=False)
    words = f"runner_id={at} is the moe runner 'experts'; this op calls linear runners"
    with pytest.raises(TypeError, match=words):
        runners.linear_gemm(ones(2, IN), at, OUT)
    assert at != runners.register_linear(Dense(), "experts", keep=False)


@pytest.mark.parametrize("refused", [1.0, ones(2, IN).to("meta")])
def test_what_is_no_tensor_with_data_is_refused(refused: Any) -> None:  # noqa: ANN401
    with pytest.raises((TypeError, ValueError), match=r"x=1\.0 is a float|x is on device 'meta'"):
        runners.linear_gemm(refused, 1, OUT)


def _returning(value: Any) -> int:  # noqa: ANN401
    class Broken(Dense):
        def run(self, x: Tensor) -> Tensor:
            del x
            return value  # type: ignore[no-any-return]

    return runners.register_linear(Broken(), "broken")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.ones(2, OUT), RuntimeError, r"returned torch.float32 \[2, 8\] .* torch.float16"),
        (ones(3, OUT), RuntimeError, r"\[3, 8\] on 'cpu'; traced graphs count on .*\[2, 8\]"),
        (ones(1, 2, OUT), RuntimeError, r"returned torch.float16 \[1, 2, 8\]"),
        (None, TypeError, "'broken' returned a NoneType; it must return a tensor"),
    ],
)
def test_a_runner_that_breaks_the_promise_of_the_fake_is_named(
    value: object, error: type[Exception], words: str
) -> None:
    at = _returning(value)
    with pytest.raises(error, match=words):
        runners.linear_gemm(ones(2, IN), at, OUT)
    runners.release(at)


@pytest.mark.parametrize("kept", [ones(2, OUT), ones(2, 2 * OUT)[:, ::2], ones(3, OUT)[1:]])
def test_memory_that_a_runner_keeps_is_copied(kept: Tensor) -> None:
    results = {
        "itself": lambda: kept,
        "a view": lambda: kept[:],
        "detached": kept.detach,
    }
    for result in results.values():

        class Keeping(Dense):
            def run(self, x: Tensor) -> Tensor:
                del x
                return result()  # noqa: B023 - called within the turn

        keeping = Keeping()
        at = runners.register_linear(keeping, "keeping", keep=False)
        y = runners.linear_gemm(ones(2, IN), at, OUT)
        assert y.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr()
        assert y.is_contiguous()
        assert torch.equal(y, kept)


def test_a_result_that_is_the_input_is_copied() -> None:
    class Identity(Dense):
        in_features = out_features = IN

        def run(self, x: Tensor) -> Tensor:
            return x

    at = runners.register_linear(Identity(), "identity")
    x = ones(2, IN)
    assert runners.linear_gemm(x, at, IN).data_ptr() != x.data_ptr()
    runners.release(at)


def _layer() -> NVFP4Linear:
    return NVFP4Linear.from_linear(nn.Linear(96, 40, dtype=HALF))


def _bf16(layer: NVFP4Linear) -> None:
    layer.input_global_encode_scale = torch.ones(1, dtype=torch.bfloat16)


def _strided(layer: NVFP4Linear) -> None:
    layer.weight_scales = layer.weight_scales.t().contiguous().t()


def _in_rows(layer: NVFP4Linear) -> None:
    layer.weight_scales = layer.weight_scales[:40, :6].contiguous()


def _elsewhere(layer: NVFP4Linear) -> None:
    layer.weight_codes = layer.weight_codes.to("meta")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_bf16, TypeError, "input_global_encode_scale.dtype=torch.bfloat16 .* torch.float32"),
        (_strided, ValueError, r"weight_scales has strides .*weight_scales.contiguous\(\)"),
        (_in_rows, ValueError, r"weight_scales has shape \(40, 6\); it must be \(128, 8\)"),
        (_elsewhere, ValueError, "is on device 'cpu' and weight_codes on 'meta'"),
    ],
)
def test_a_layer_whose_state_is_none_gets_no_id(
    change: Callable[[NVFP4Linear], None], error: type[Exception], words: str
) -> None:
    layer = _layer()
    change(layer)
    with pytest.raises(error, match=words):
        layer.use_runner("no state")
    assert layer.runner_id is None
    assert not [each for each in runners.REGISTRY.known() if each.name == "no state"]


def test_a_refused_name_leaves_the_runner_there_is() -> None:
    layer = _layer()
    at = layer.use_runner("as it was")
    with pytest.raises(ValueError, match="name='' is empty; pass what tells the runner"):
        layer.use_runner("")
    assert (layer.runner_id, layer.runner_name) == (at, "as it was")
    with pytest.raises(TypeError, match="name=3 is a int; pass a string"):
        layer.use_runner(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"in_features": 48}, "in_features=48 is not a multiple of 32"),
        ({"out_features": 12}, "out_features=12 is not a multiple of 8"),
        ({"experts": 0}, r"experts=0 is outside 1\.\."),
    ],
)
def test_a_runner_of_sizes_that_no_call_could_have_is_refused(
    sizes: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        runners.register_moe(type("Odd", (DenseExperts,), sizes)(), "odd")


def test_a_runner_is_released_once() -> None:
    at = runners.register_linear(Dense(), "once")
    runners.release(at)
    with pytest.raises(UnknownRunner, match=r"'once', which is released; .*: register it again"):
        runners.release(at)


def test_many_known_runners_are_counted() -> None:
    fresh = Registry()
    with pytest.raises(UnknownRunner, match="no runner is: register"):
        fresh.find(3, "linear")
    kept = Dense()
    ids = [fresh.register("linear", f"layer {i}", kept) for i in range(10)]
    with pytest.raises(UnknownRunner) as seen:
        fresh.find(3, "linear")
    listed = ", ".join(f"'layer {i}' ({ids[i]})" for i in range(8))
    assert f"registered are {listed} and 2 more: " in str(seen.value)


def test_names_of_one_hash_are_refused() -> None:
    fresh = Registry(hash_bits=0)
    at = fresh.register("linear", "up", Dense())
    with pytest.raises(ValueError, match="name='down' of a linear runner has the hash of 'up' of"):
        fresh.register("linear", "down", Dense())
    with pytest.raises(ValueError, match="name='up' of a moe runner has the hash of 'up' of a lin"):
        fresh.register("moe", "up", Dense())
    assert [each.id for each in fresh.known()] == [at]


def test_a_name_has_an_end() -> None:
    fresh = Registry(generation_bits=1)
    ids = [fresh.register("linear", "again", Dense()) for _ in range(2)]
    assert ids[1] - ids[0] == 1
    with pytest.raises(OverflowError, match="name='again' was registered 2 times; use another"):
        fresh.register("linear", "again", Dense())
