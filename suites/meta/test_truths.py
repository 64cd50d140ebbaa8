"""A case's reference is evaluated once for all kernels of its op, and never by a kernel's hand."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import FunctionType
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import Expected, kernel, op, output, registry, size, tensor
from harness.arch import CPU
from harness.case import Case
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.execute import execute
from harness.launches import Launch, report_launch
from harness.reference import evaluate
from harness.truths import TruthCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.declare import Op

HOST = torch.device("cpu")
asked: list[tuple[int, ...]] = []


def doubled(x: Tensor) -> Tensor:
    asked.append(tuple(x.shape))
    return 2 * x


def launching(backend: str) -> Callable[..., Tensor]:
    def run(x: Tensor, config: str | None = None) -> Tensor:
        del config
        report_launch(Launch(backend, "doubled", __name__, None, (1,), {}))
        return x + x

    return run


@contextmanager
def two_kernels() -> Iterator[None]:
    """One op; its kernels have other names of configurations, and other arithmetic."""
    asked.clear()
    with registry.scratch():
        op(
            inputs={"x": "m n"},
            outputs={"y": "m n"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32", "float16"),
            sums_over="n",
        )(doubled)
        kernel("doubled", backend="cuda", arch="sm90", configs=("narrow", "wide"))(
            launching("cuda")
        )
        kernel(
            "doubled",
            backend="triton",
            arch="sm90",
            configs=("rows", "columns"),
            accumulates="tensor_core",
        )(launching("triton"))
        yield


def search(name: str, cache: TruthCache, dtype: str = "float32") -> Check:
    check = Check(
        cell=Cell(name, CPU, Layer.NUMERIC),
        dtype=dtype,
        settings=Settings(cases=24),
        reproduce=str,
        truths=cache,
    )
    check.explore(check.judge_against_reference)
    return check


def test_the_second_kernel_of_an_op_asks_the_reference_nothing() -> None:
    cache = TruthCache()
    with two_kernels():
        first = search("doubled.cuda", cache)
        calls = len(asked)
        assert cache.misses == first.counts["cases"] - cache.hits
        hits = cache.hits
        second = search("doubled.triton", cache)
    assert second.counts["cases"] == first.counts["cases"] >= 20
    assert cache.hits - hits == second.counts["cases"]
    assert len(asked) == calls


def test_another_dtype_has_cases_and_truths_of_its_own() -> None:
    cache = TruthCache()
    with two_kernels():
        search("doubled.cuda", cache)
        misses = cache.misses
        search("doubled.cuda", cache, "float16")
    assert cache.misses > misses


CASE = Case(kernel="doubled.cuda", sizes=(("m", 4), ("n", 8)), dtype="float32")


def test_the_budget_is_each_kernels_own() -> None:
    cache = TruthCache()
    with two_kernels():
        declared = registry.op("doubled")
        found = [
            evaluate(declared, each, CASE, {"x": torch.ones(4, 8)}, cache=cache)["y"].budget
            for each in registry.kernels()
        ]
    assert (cache.hits, cache.misses) == (1, 1)
    assert [budget and budget.tensor_core for budget in found] == [False, True]


def test_a_layout_that_keeps_the_values_shares_and_one_that_does_not_does_not() -> None:
    cache = TruthCache()
    with two_kernels():
        declared, each = registry.op("doubled"), registry.kernel("doubled.cuda")
        for layout in ("contiguous", "rows", "offset", "expanded"):
            case = replace(CASE, layout=layout)
            call, _ = execute(declared, each, case, HOST)
            truth = evaluate(declared, each, case, call.tensors, cache=cache)["y"]
            x = call.tensors["x"]
            assert x is not None
            assert torch.equal(truth.expected, 2 * x.double())
    assert (cache.hits, cache.misses) == (2, 2)


def op_of(name: str) -> Op:
    """An op that is no other's equal."""
    with registry.scratch():
        reference = FunctionType(doubled.__code__, globals(), name)
        op(
            inputs={"x": "m n"},
            outputs={"y": "m n"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32",),
        )(reference)
        return registry.op(name)


def expected_of(elements: int) -> dict[str, Expected]:
    value = torch.zeros(elements, dtype=torch.float64)
    return {"y": Expected(value, value)}


def test_the_cache_is_bounded_in_bytes_and_other_ops_go_first() -> None:
    cache, one, two = TruthCache({"cpu": 800}), op_of("one"), op_of("two")
    x = {"x": torch.ones(1)}

    def ask(declared: Op, seed: int, elements: int = 25) -> int:
        before = cache.misses
        cache.get(declared, replace(CASE, seed=seed), x, lambda: expected_of(elements))
        return cache.misses - before

    assert [ask(one, seed) for seed in range(4)] == [1, 1, 1, 1]  # 4 x 200 bytes
    assert [ask(one, seed) for seed in range(4)] == [0, 0, 0, 0]
    assert ask(one, 9) == 1  # no room among its own
    assert ask(one, 9) == 1
    assert [ask(two, seed) for seed in range(2)] == [1, 1]
    assert [ask(one, seed) for seed in (2, 3)] == [0, 0]  # the oldest two went
    assert [ask(two, seed) for seed in range(2)] == [0, 0]
    assert ask(two, 7, elements=1000) == 1  # more than there is room for
    assert ask(two, 7, elements=1000) == 1


def test_what_a_reference_gets_wrong_is_not_kept() -> None:
    cache = TruthCache()

    def fails() -> dict[str, Expected]:
        msg = "no such axis"
        raise LookupError(msg)

    for _ in range(2):
        with pytest.raises(LookupError, match="no such axis"):
            cache.get(op_of("one"), CASE, {}, fails)
    assert (cache.hits, cache.misses) == (0, 2)


def test_a_truth_shares_no_storage_with_an_input_that_a_kernel_returns() -> None:
    def moved(x: Tensor, codes: Tensor) -> dict[str, Tensor]:
        return {"y": x, "copied": codes}

    with registry.scratch():
        op(
            inputs={"x": "m n", "codes": tensor("m n", dtype="uint8", role="code")},
            outputs={"y": "m n", "copied": output("m n", dtype="uint8", exact=True)},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float64",),
        )(moved)
        kernel("moved", backend="cuda", arch="sm90")(lambda x, codes: (x, codes))
        declared, each = registry.op("moved"), registry.kernel("moved.cuda")
        case = replace(CASE, kernel="moved.cuda", dtype="float64")
        call, seen = execute(declared, each, case, HOST)
        truths = evaluate(declared, each, case, call.tensors)
    assert sorted(truths) == ["copied", "y"]
    for name, truth in truths.items():
        actual = seen.outputs[name]
        assert truth.expected.untyped_storage().data_ptr() != actual.untyped_storage().data_ptr()
        assert truth.scale.untyped_storage().data_ptr() != actual.untyped_storage().data_ptr()
