"""An op that scales rows, and checks of host functions that stand for kernels of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness import Expected, kernel, op, registry, size, tensor
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import ParityFailure
from harness.launches import Launch, report_launch
from harness.truths import TruthCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def scaled(x: Tensor, weight: Tensor, bias: Tensor | None, sign: float) -> Expected:
    """The reference: every column by its weight, plus a bias."""
    product = sign * x * weight
    added = torch.zeros_like(weight) if bias is None else bias
    return Expected(product + added, product.abs() + added.abs())


def launch() -> None:
    """What a launcher says right before it launches."""
    report_launch(Launch("cuda", "scaled", __name__, None, (1,), {}))


def right(x: Tensor, weight: Tensor, bias: Tensor | None, sign: float) -> Tensor:
    """A correct kernel: float32 arithmetic into memory of its own."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch()
    y.copy_(computed(x, weight, bias, sign))
    return y


def computed(x: Tensor, weight: Tensor, bias: Tensor | None, sign: float) -> Tensor:
    """The values of a correct kernel, float32."""
    return sign * x.float() * weight.float() + (0 if bias is None else bias.float())


@contextmanager
def declared(function: Callable[..., object], **options: Any) -> Iterator[None]:  # noqa: ANN401 - passed on
    """The op and the kernel ``scaled.cuda``, in a registry of their own."""
    with registry.scratch():
        op(
            inputs={
                "x": "m n",
                "weight": tensor("n", role="weight"),
                "bias": tensor("n", role="weight", optional="bias"),
            },
            outputs={"y": "m n"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32", "float16"),
            params={"sign": {"plus": 1.0, "minus": -1.0}},
            independent=("m",),
        )(scaled)
        kernel("scaled", backend="cuda", arch="sm90", **options)(function)
        yield


def check_of(
    name: str = "scaled.cuda", *, only: str | None = None, dtype: str = "float32", cases: int = 24
) -> Check:
    """A check of the kernel's emulated numeric cell, with a cache of its own."""
    return Check(
        cell=Cell(name, CPU, Layer.NUMERIC),
        dtype=dtype,
        settings=Settings(only=only, cases=cases),
        reproduce=lambda case: f"pytest --case {case}",
        truths=TruthCache(),
    )


def failure_of(
    run: Callable[[Check], None],
    function: Callable[..., object],
    **options: Any,  # noqa: ANN401 - passed on
) -> str:
    """What a layer's check says of ``function``, and again of the one case that failed; or ''."""
    with declared(function, **options):
        try:
            run(check_of())
        except ParityFailure as failure:
            again = check_of(only=failure.case)
        else:
            return ""
        try:
            run(again)
        except ParityFailure as failure:
            assert again.counts["cases"] == 1
            return str(failure)
    msg = f"{again.settings.only} does not fail again"
    raise AssertionError(msg)
