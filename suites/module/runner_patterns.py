"""Runners behind an integer: the hazards of the pattern as published, and the pattern itself.

Each hazard is a function that returns words for what is wrong, or none. The published pattern is
here so that every one is seen to be found.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.nvfp4 import runners
from kernels.nvfp4.runner_registry import Registry, UnknownRunner

if TYPE_CHECKING:
    from collections.abc import Callable

IN: Final = 32
OUT: Final = 8
CPU: Final = torch.device("cpu")


class Dense:
    """A runner over a dense weight: every row's sum times ``factor``, in every column."""

    in_features = IN
    out_features = OUT
    device = CPU

    def __init__(self, factor: float = 1.0) -> None:
        self.weight = torch.full((OUT, IN), float(factor))

    def run(self, x: Tensor) -> Tensor:
        return (x.float() @ self.weight.T).to(x.dtype)


class Buffered(Dense):
    """Returns one buffer again and again, as runners made for CUDA graphs do."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(16, OUT, dtype=torch.float16)

    def run(self, x: Tensor) -> Tensor:
        return self.buffer[: len(x)].copy_(super().run(x))


class NeedsRows(Dense):
    """Refuses an empty grid, as a launch does."""

    def run(self, x: Tensor) -> Tensor:
        if len(x) == 0:
            msg = "invalid configuration argument"
            raise RuntimeError(msg)
        return super().run(x)


class DenseExperts:
    """A runner of a mixture: expert e is `Dense` with the factor e + 1."""

    in_features = IN
    out_features = OUT
    experts = 4
    device = CPU

    def run(self, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
        rows = hidden_states.float().sum(1, keepdim=True)
        share = (topk_weights * (topk_ids + 1)).sum(1, keepdim=True)
        return (rows * share).expand(-1, OUT).to(hidden_states.dtype)


class Linear(Protocol):
    def run(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Pattern:
    """A registry of runners and the op that asks it. ``renew`` is what a new process has."""

    op: Callable[[Tensor, int, int], Tensor]
    register: Callable[[Linear, str], int]
    renew: Callable[[], Callable[[object, str], int]]


def _ours() -> Pattern:
    def register(runner: Linear, name: str) -> int:
        return runners.register_linear(runner, name, keep=False)  # type: ignore[arg-type]

    def renew() -> Callable[[object, str], int]:
        fresh = Registry()
        return lambda runner, name: fresh.register("linear", name, runner)

    return Pattern(runners.linear_gemm, register, renew)


class _Numbered:
    """The registry as published."""

    def __init__(self) -> None:
        self.runners: dict[int, object] = {}

    def register(self, runner: object, name: str) -> int:
        del name
        self.runners[len(self.runners)] = runner
        return len(self.runners) - 1


_published: Final = _Numbered()


@torch.library.custom_op("kernel_parity_suites::published_linear_gemm", mutates_args=())
def _published_linear_gemm(x: Tensor, runner_id: int, out_features: int) -> Tensor:
    del out_features
    runner: Linear = _published.runners[runner_id]  # type: ignore[assignment]
    return runner.run(x)


@_published_linear_gemm.register_fake
def _fake_published_linear_gemm(x: Tensor, runner_id: int, out_features: int) -> Tensor:
    del runner_id
    return x.new_empty((x.shape[0], out_features), dtype=torch.bfloat16)


OURS: Final = _ours()
PUBLISHED: Final = Pattern(
    _published_linear_gemm, _published.register, lambda: _Numbered().register
)


def _ones(*shape: int) -> Tensor:
    return torch.ones(*shape, IN, dtype=torch.float16)


def aliased(pattern: Pattern) -> str:
    """The first result is looked at after a second call."""
    runner = Buffered()
    at = pattern.register(runner, "aliased")
    first = pattern.op(_ones(2), at, OUT)
    pattern.op(2 * _ones(2), at, OUT)
    return "" if bool((first == IN).all()) else "the second call changed the first result"


def _described(pattern: Pattern, x: Tensor) -> str:
    runner = Dense()
    at = pattern.register(runner, "described")
    real = pattern.op(x, at, OUT)
    with FakeTensorMode() as mode:
        fake = pattern.op(mode.from_tensor(x), at, OUT)
    seen, said = ((each.shape, each.dtype, each.stride()) for each in (real, fake))
    return "" if seen == said else f"the result is {seen}, the fake says {said}"


def dtype(pattern: Pattern) -> str:
    return _described(pattern, _ones(2))


def rank(pattern: Pattern) -> str:
    return _described(pattern, _ones(2, 3).bfloat16())


def empty(pattern: Pattern) -> str:
    runner = NeedsRows()
    at = pattern.register(runner, "empty")
    try:
        shape = tuple(pattern.op(_ones(0), at, OUT).shape)
    except RuntimeError as error:
        return f"no row reached the runner: {error}"
    return "" if shape == (0, OUT) else f"no row became {shape}"


def unknown(pattern: Pattern) -> str:
    runner = Dense()
    at = pattern.register(runner, "a.layer")
    words = _refusal(pattern, at + 2**32)
    wanted = (f"runner_id={at + 2**32}", "'a.layer'", "register the runner by the name")
    return "" if all(each in words for each in wanted) else f"the message is {words!r}"


def stale(pattern: Pattern) -> str:
    """The owner is gone, and its successor has the same name."""
    runner = Dense(1)
    at = pattern.register(runner, "stale")
    del runner
    gc.collect()
    successor = Dense(2)
    now = pattern.register(successor, "stale")
    words = _refusal(pattern, at)
    return "" if "is released" in words and str(now) in words else f"the old id gave {words}"


def leak(pattern: Pattern) -> str:
    runner = Dense()
    memory = weakref.ref(runner.weight)
    pattern.register(runner, "leak")
    del runner
    gc.collect()
    return "" if memory() is None else "the weights outlive their owner"


def order(pattern: Pattern) -> str:
    """Two processes that make the same layers, in two orders."""
    kept, ids = Dense(), []
    for names in (("up", "down"), ("down", "up")):
        register = pattern.renew()
        ids.append({name: register(kept, name) for name in names})
    return "" if ids[0] == ids[1] else f"ids follow the order: {ids}"


def _refusal(pattern: Pattern, at: int) -> str:
    try:
        return str(pattern.op(_ones(1), at, OUT).tolist())
    except UnknownRunner as error:
        return str(error)
    except KeyError as error:
        return repr(error)


HAZARDS: Final[dict[str, Callable[[Pattern], str]]] = {
    each.__name__: each for each in (aliased, dtype, rank, empty, unknown, stale, leak, order)
}
