"""Where the wrong elements of an output lie, in words: rows, columns, the tail, a period."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

_PERIODS: Final = (2, 4, 8, 16, 32, 64, 128)
_ORDINALS: Final = {2: "2nd", 32: "32nd"}


def describe(wrong: Tensor) -> str:
    """Words for the true elements of a boolean tensor of any rank; empty if there are none."""
    if not bool(wrong.any()):
        return ""
    flat = wrong.reshape(-1, wrong.shape[-1]) if wrong.ndim > 1 else wrong.reshape(1, -1)
    if bool(wrong.all()):
        return "every element is wrong"
    rows, columns = flat.any(1), flat.any(0)
    words = [_axis("row", rows), _axis("column", columns)]
    filled = flat[rows][:, columns].float().mean()
    density = "all of them" if filled == 1 else f"{100 * float(filled):.0f} % of them"
    return f"in {' and '.join(w for w in words if w)} ({density})"


def _axis(name: str, wrong: Tensor) -> str:
    length, indices = wrong.numel(), torch.nonzero(wrong).reshape(-1).tolist()
    if length == 1:
        return ""
    first, last, count = indices[0], indices[-1], len(indices)
    if count == length:
        return f"all {length} {name}s"
    if count == 1:
        return f"{name} {first} of {length}" + (" (the last)" if first == length - 1 else "")
    if count == last - first + 1:
        tail = " (the tail)" if last == length - 1 else ""
        return f"{name}s {first}..{last} of {length}{tail}"
    if period := _period(indices, length):
        ordinal = _ORDINALS.get(period[0], f"{period[0]}th")
        return f"every {ordinal} {name} from {period[1]} of {length}"
    return f"{count} of {length} {name}s, from {first} to {last}"


def _period(indices: list[int], length: int) -> tuple[int, int] | None:
    for period in _PERIODS:
        start = indices[0] % period
        if indices == list(range(start, length, period)):
            return period, start
    return None
