"""Modules that may run as one opaque op, under a name: they own a runner as long as they live."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernels.nvfp4.runners import release


class RunnerModule(nn.Module):
    """A module that is a runner too; `use_runner` makes its forward pass one opaque op.

    The registry knows the module itself and does not keep it alive, so the runner has the module's
    present state and device and is released with it. A copy, also one by way of pickle, registers
    itself by the same name and has an id of its own. ``state_dict`` has neither name nor id.
    """

    runner_name: str | None = None
    runner_id: int | None = None

    def use_runner(self, name: str) -> int:
        """Run as one opaque op from now on, registered by ``name``; returns the id."""
        made = self.register_as(name)
        self.release_runner()
        self.runner_name, self.runner_id = name, made
        return made

    def release_runner(self) -> None:
        """Run as the module's own ops again; a graph that has the id can no longer run."""
        if self.runner_id is not None:
            release(self.runner_id)
        self.runner_name = self.runner_id = None

    def register_as(self, name: str) -> int:
        """Check the state and register the module, weakly, with the op that it runs as."""
        raise NotImplementedError

    def runner_to_call(self) -> int | None:
        """The id; None without a runner, and in an export, which is to carry the weights."""
        return None if torch.compiler.is_exporting() else self.runner_id

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.runner_name is not None:  # the id is the original's
            self.runner_id = self.register_as(self.runner_name)


def use_runners(model: nn.Module, *, scope: str = "") -> dict[str, int]:
    """Let every module of a model that can run as one opaque op; returns the ids by name.

    A runner's name is that of the module in the model, behind ``scope``. Two models in one process,
    or two checkpoints whose graphs are saved, are told apart by scopes.
    """
    ids = dict[str, int]()
    for path, module in model.named_modules():
        if isinstance(module, RunnerModule):
            name = ".".join(filter(None, (scope, path))) or type(module).__name__
            ids[name] = module.use_runner(name)
    return ids
