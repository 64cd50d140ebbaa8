"""Which errors say that memory ran out, on the host or on a device, whoever raised them."""

from __future__ import annotations

from typing import Final

# Of the CUDA runtime, the driver, Triton's launcher, and torch's allocator on the CPU; the last is
# torch's for more bytes than 63 bits count.
_WORDS: Final = (
    "out of memory",
    "out_of_memory",
    "can't allocate memory",
    "storage size calculation overflowed",
)
_REFUSALS: Final = (TypeError, ValueError, NotImplementedError)


def is_exhaustion(error: BaseException | None) -> bool:
    """Whether ``error`` says that memory ran out.

    Only Python's and torch's own errors have a type for it; of others the words are looked at,
    unless it is a type with which a kernel refuses arguments.
    """
    import torch

    if error is None or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return error is not None
    said = str(error).lower()
    return not isinstance(error, _REFUSALS) and any(words in said for words in _WORDS)
