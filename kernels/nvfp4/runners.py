"""Layers behind an integer id, as one opaque op each: ``nvfp4::linear_gemm``, ``nvfp4::moe_gemm``.

An op looks its runner up when it runs, never when it is traced: a fake result follows from the
arguments alone, whose dtype is that of the result. The runner gets rows, ``[m, features]``, and at
least one; leading dimensions are the op's affair. What it returns must be what the fake promised,
and becomes a tensor of its own: memory that a runner keeps is copied.

What a graph with ids does not have are the weights. They are neither saved nor exported with it,
and whoever replaces them while a CUDA graph holds their addresses must record it anew.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final, Protocol, cast

import torch
from torch import Tensor

from kernels import contract
from kernels.nvfp4.domain import DTYPES, K_STEP, MAX_K, MAX_M, MAX_N
from kernels.nvfp4.moe_arguments import check_ids
from kernels.nvfp4.runner_registry import Registered, Registry

if TYPE_CHECKING:
    from collections.abc import Callable

LINEAR: Final = "linear"
MOE: Final = "moe"
REGISTRY: Final = Registry()
"""The one that both ops ask."""


class LinearRunner(Protocol):
    """What ``nvfp4::linear_gemm`` calls."""

    @property
    def in_features(self) -> int:
        """The last dimension of ``x``."""

    @property
    def out_features(self) -> int:
        """The last dimension of the result."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def run(self, x: Tensor) -> Tensor:
        """Map ``x [m, in_features]`` to ``[m, out_features]`` of its dtype; no host sync."""


class MoERunner(Protocol):
    """What ``nvfp4::moe_gemm`` calls."""

    @property
    def in_features(self) -> int:
        """The last dimension of ``hidden_states``."""

    @property
    def out_features(self) -> int:
        """The last dimension of the result."""

    @property
    def experts(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def run(self, hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
        """Map ``[m, in_features]`` and two times ``[m, t]`` to ``[m, out_features]``.

        Ids have been compared with ``experts``, but in the capture of a CUDA graph.
        """


def register_linear(runner: LinearRunner, name: str, *, keep: bool = True) -> int:
    """Register what ``nvfp4::linear_gemm`` may call; see `Registry.register`."""
    _check_features(runner)
    return REGISTRY.register(LINEAR, name, runner, keep=keep)


def register_moe(runner: MoERunner, name: str, *, keep: bool = True) -> int:
    """Register what ``nvfp4::moe_gemm`` may call; see `Registry.register`."""
    _check_features(runner)
    contract.require_size("experts", runner.experts, min=1, max=2**16)
    return REGISTRY.register(MOE, name, runner, keep=keep)


def release(runner_id: int) -> None:
    """Forget a runner of either op; UnknownRunner if there is none of this id."""
    REGISTRY.release(runner_id)


def _check_features(runner: LinearRunner | MoERunner) -> None:
    sizes = {"min": K_STEP, "max": MAX_K, "multiple_of": K_STEP}
    contract.require_size("in_features", runner.in_features, **sizes)
    _check_out_features("out_features", runner.out_features)


def _check_out_features(name: str, value: int) -> None:
    contract.require_size(name, value, min=8, max=MAX_N, multiple_of=8)


def _check_rows(name: str, x: Tensor) -> None:
    """What every runner asks of its rows, and a fake can tell."""
    contract.require_dtype(name, x, DTYPES)
    if x.dim() == 0:
        msg = f"{name} has shape [], of rank 0; reshape it to [..., k]"
        raise ValueError(msg)
    sizes = {"min": K_STEP, "max": MAX_K, "multiple_of": K_STEP}
    contract.require_size("k", x.shape[-1], **sizes)
    contract.require_size("m", math.prod(x.shape[:-1]), max=MAX_M)


def _check_fits(
    name: str, x: Tensor, at: Registered, runner: LinearRunner | MoERunner, out: tuple[str, int]
) -> None:
    """What only this runner asks of its rows."""
    if x.shape[-1] != runner.in_features:
        msg = (
            f"{name} has shape {list(x.shape)}; the runner {at.name!r} needs "
            f"[..., in_features={runner.in_features}]"
        )
        raise ValueError(msg)
    if out[1] != runner.out_features:
        msg = f"{out[0]}={out[1]} is not that of the runner {at.name!r}; pass {runner.out_features}"
        raise ValueError(msg)
    if x.device != runner.device:
        msg = (
            f"{name} is on device {str(x.device)!r} and the runner {at.name!r} on "
            f"{str(runner.device)!r}; move one of them"
        )
        raise ValueError(msg)


@torch.library.custom_op("nvfp4::linear_gemm", mutates_args=())
def _linear_gemm(x: Tensor, runner_id: int, out_features: int) -> Tensor:
    shape = _linear_shape(x, out_features)
    at, found = REGISTRY.find(runner_id, LINEAR)
    runner = cast("LinearRunner", found)
    _check_fits("x", x, at, runner, ("out_features", out_features))
    if x.numel() == 0:
        return x.new_empty(shape)
    rows = x.reshape(-1, x.shape[-1])
    return _promised(at, x, shape, _owned(lambda: runner.run(rows)))


@_linear_gemm.register_fake
def _fake_linear_gemm(x: Tensor, runner_id: int, out_features: int) -> Tensor:
    del runner_id  # may be symbolic, and registered only where the graph runs
    return x.new_empty(_linear_shape(x, out_features))


def _linear_shape(x: Tensor, out_features: int) -> tuple[int, ...]:
    _check_rows("x", x)
    _check_out_features("out_features", out_features)
    return (*x.shape[:-1], out_features)


@torch.library.custom_op("nvfp4::moe_gemm", mutates_args=())
def _moe_gemm(
    hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor, runner_id: int, hidden_size: int
) -> Tensor:
    shape = _moe_shape(hidden_states, topk_weights, topk_ids, hidden_size)
    at, found = REGISTRY.find(runner_id, MOE)
    runner = cast("MoERunner", found)
    _check_fits("hidden_states", hidden_states, at, runner, ("hidden_size", hidden_size))
    check_ids(topk_ids, runner.experts)
    if hidden_states.numel() == 0:
        return hidden_states.new_empty(shape)
    rows = [each.reshape(-1, each.shape[-1]) for each in (hidden_states, topk_weights, topk_ids)]
    return _promised(at, hidden_states, shape, _owned(lambda: runner.run(*rows)))


@_moe_gemm.register_fake
def _fake_moe_gemm(
    hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor, runner_id: int, hidden_size: int
) -> Tensor:
    del runner_id
    shape = _moe_shape(hidden_states, topk_weights, topk_ids, hidden_size)
    return hidden_states.new_empty(shape)


def _moe_shape(
    hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor, hidden_size: int
) -> tuple[int, ...]:
    _check_rows("hidden_states", hidden_states)
    _check_routing(hidden_states, topk_weights, topk_ids)
    _check_out_features("hidden_size", hidden_size)
    return (*hidden_states.shape[:-1], hidden_size)


def _check_routing(hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
    contract.require_dtype("topk_weights", topk_weights, (torch.float32,))
    contract.require_dtype("topk_ids", topk_ids, (torch.int32, torch.int64))
    if topk_ids.dim() == 0 or topk_ids.shape[-1] == 0:
        msg = f"topk_ids has shape {list(topk_ids.shape)}; give every token at least one expert"
        raise ValueError(msg)
    wanted = [*hidden_states.shape[:-1], topk_ids.shape[-1]]
    for name, value in {"topk_weights": topk_weights, "topk_ids": topk_ids}.items():
        if list(value.shape) != wanted:
            msg = (
                f"{name} has shape {list(value.shape)}; hidden_states {list(hidden_states.shape)} "
                f"and topk_ids {list(topk_ids.shape)} need {wanted}"
            )
            raise ValueError(msg)
    contract.require_one_device(
        hidden_states=hidden_states, topk_weights=topk_weights, topk_ids=topk_ids
    )


def _owned(run: Callable[[], object]) -> object:
    """What ``run`` returns, in memory that nothing else holds: else a copy of it."""
    made = run()
    if isinstance(made, Tensor) and (_holders(made) != _alone() or not made.is_contiguous()):
        return made.clone(memory_format=torch.contiguous_format)
    return made


def _holders(made: Tensor) -> tuple[int, int, bool]:
    """References to the tensor, to its memory, and whether it begins where that does."""
    storage = made.untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)  # noqa: SLF001 - no public spelling
    return sys.getrefcount(made), users, made.storage_offset() == 0


def _alone() -> tuple[int, int, bool]:
    """`_holders` of a tensor that was just made, counted from as deep as `_owned` does."""
    made = torch.empty(1)
    return _holders(made)


def _promised(at: Registered, x: Tensor, shape: tuple[int, ...], made: object) -> Tensor:
    """``made`` as what the fake has promised for ``x``; TypeError or RuntimeError if it is not."""
    if not isinstance(made, Tensor):
        msg = f"the runner {at.name!r} returned a {type(made).__name__}; it must return a tensor"
        raise TypeError(msg)
    wanted = (math.prod(shape[:-1]), shape[-1])
    if (tuple(made.shape), made.dtype, made.device) != (wanted, x.dtype, x.device):
        msg = (
            f"the runner {at.name!r} returned {made.dtype} {list(made.shape)} on "
            f"{str(made.device)!r}; traced graphs count on {x.dtype} {list(wanted)} on "
            f"{str(x.device)!r}: repair its run()"
        )
        raise RuntimeError(msg)
    return made.view(shape)


def linear_gemm(x: Tensor, runner_id: int, out_features: int) -> Tensor:
    """``nvfp4::linear_gemm``: what the runner makes of ``x [..., k]``, ``[..., out_features]``.

    The result is contiguous and has the dtype of ``x``, float16 or bfloat16. Raises UnknownRunner
    for an id without a runner; TypeError for a dtype or a runner of the other op; ValueError for a
    shape or device that is not the runner's. All of it before a launch.
    """
    contract.require_tensors(x=x)
    y: Tensor = _linear_gemm(x, runner_id, out_features)
    return y


def moe_gemm(
    hidden_states: Tensor, topk_weights: Tensor, topk_ids: Tensor, runner_id: int, hidden_size: int
) -> Tensor:
    """``nvfp4::moe_gemm``: what the runner makes of ``hidden_states [..., k]`` and its routing.

    ``topk_weights [..., t]`` is float32, ``topk_ids [..., t]`` int32 or int64. The result
    ``[..., hidden_size]`` is contiguous and has the dtype of ``hidden_states``. Raises as
    `linear_gemm` does, and ValueError for an expert that the runner does not have.
    """
    contract.require_tensors(
        hidden_states=hidden_states, topk_weights=topk_weights, topk_ids=topk_ids
    )
    y: Tensor = _moe_gemm(hidden_states, topk_weights, topk_ids, runner_id, hidden_size)
    return y
