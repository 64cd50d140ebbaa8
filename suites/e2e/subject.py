"""The model under test end to end, for every kernel of the ops that its layers run."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from harness import subject
from kernels.svdq.linear import OPS

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from suites.e2e.judge import E2EResult


@subject(ops=OPS, dtypes=("bfloat16", "float16"), layer="e2e")
def sentence_encoder(
    *, backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None
) -> E2EResult:
    """all-MiniLM-L6-v2 with its linear layers replaced, on real sentences.

    The quantizer and the GEMM are judged by the same run: it is made once a process.
    """
    return _run(backend, dtype, device, folder)


@cache
def _run(backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None) -> E2EResult:
    from suites.e2e import evaluate, model

    return evaluate.check(model.load(folder), backend=backend, device=device, dtype=dtype)
