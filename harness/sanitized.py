"""The process that compute-sanitizer watches: it runs cases in allocations of their exact size.

No guard zones and no poison: those are allocated memory, in which the tools would see nothing. The
caller switches off PyTorch's caching, so that each tensor is an allocation of its own.

``python -m harness.sanitized --arch sm90 --declare kernels CASE...`` prints a line when a case
begins and one when it ends, so that the caller knows which one a crash belongs to.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import torch

from harness import device as devices
from harness import registry
from harness.buffers import GUARD
from harness.case import parse
from harness.emulation import emulate
from harness.execute import build, name_outputs
from harness.launches import record_launches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from harness.case import Case

BEGINS: Final = "sanitized-begins "
ENDS: Final = "sanitized-ends "  # and the number of launches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every case; what a kernel raises ends the process."""
    options = _parser().parse_args(arguments)
    registry.load_all(options.declare)
    device = devices.first_device(options.arch)
    for text in options.cases:
        _say(f"{BEGINS}{text}")
        _say(f"{ENDS}{run(parse(text), device)}")
    return 0


def run(case: Case, device: torch.device) -> int:
    """Run one case and read its outputs back; returns how many launches were seen.

    Outputs alone are read: initcheck counts a copy of what was never written as a read of it, and
    of a workspace that may be so.
    """
    op, kernel = case.op(), registry.kernel(case.kernel)
    call = build(op, case, torch.device("cpu"))
    inputs = {
        name: None if value is None else alone(value, device)
        for name, value in call.tensors.items()
    }
    running: AbstractContextManager[object] = emulate() if device.type == "cpu" else nullcontext()
    with torch.no_grad(), running, record_launches() as launches:
        outputs = name_outputs(op, kernel.function(**{**inputs, **call.keywords}))
        devices.synchronize(device)
    for output in outputs.values():
        output.cpu()
    return len(launches)


def alone(guarded: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device`` with the same strides, in storage that ends with its last element."""
    offset = guarded.storage_offset() - GUARD // guarded.element_size()
    reach = [(n - 1) * stride for n, stride in zip(guarded.shape, guarded.stride(), strict=True)]
    extent = offset + (1 + sum(reach) if guarded.numel() else 0)
    # Made on the host: a strided copy on the device would be one more kernel to watch.
    host = torch.zeros(extent, dtype=guarded.dtype)
    view = host.as_strided(guarded.shape, guarded.stride(), offset)
    expanded = bool(guarded.numel()) and 0 in guarded.stride()
    (view[:1] if expanded else view).copy_(guarded[:1] if expanded else guarded)
    return host.to(device).as_strided(guarded.shape, guarded.stride(), offset)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m harness.sanitized", description=main.__doc__)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--declare", action="append", default=[], metavar="TARGET")
    parser.add_argument("cases", nargs="+", metavar="CASE")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
