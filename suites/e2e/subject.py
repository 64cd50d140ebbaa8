"""The models under test end to end, for every kernel of the ops that their layers run."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from harness import subject
from kernels.nvfp4.linear import OPS as NVFP4_OPS
from kernels.nvfp4.moe import OPS as MOE_OPS
from kernels.svdq.linear import OPS as SVDQ_OPS

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from suites.e2e.judge import E2EResult
    from suites.e2e.moe.judge import MoEResult

HALVES = ("bfloat16", "float16")


@subject(ops=SVDQ_OPS, dtypes=HALVES, layer="e2e")
def sentence_encoder(
    *, backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None
) -> E2EResult:
    """all-MiniLM-L6-v2 with its linear layers in W4A4, on real sentences.

    The quantizer and the GEMM are judged by the same run: it is made once a process.
    """
    return _run(SVDQ_OPS[0], backend, dtype, device, folder)


@subject(ops=NVFP4_OPS, dtypes=HALVES, layer="e2e")
def sentence_encoder_nvfp4(
    *, backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None
) -> E2EResult:
    """The same with its linear layers in NVFP4."""
    return _run(NVFP4_OPS[0], backend, dtype, device, folder)


@subject(ops=(*NVFP4_OPS, *MOE_OPS), dtypes=HALVES, layer="e2e")
def moe_transformer(
    *, backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None
) -> MoEResult:
    """A small transformer with mixtures of experts from a committed seed; it needs no files."""
    del folder
    return _run_transformer(backend, dtype, device)


@cache
def _run_transformer(backend: str, dtype: torch.dtype, device: torch.device) -> MoEResult:
    from suites.e2e.moe.evaluate import evaluate

    return evaluate(backend=backend, dtype=dtype, device=device)


@cache
def _run(
    op: str, backend: str, dtype: torch.dtype, device: torch.device, folder: Path | None
) -> E2EResult:
    from suites.e2e import evaluate, model

    scheme, encoder = evaluate.scheme_of(op), model.load(folder)
    return evaluate.check(encoder, scheme=scheme, backend=backend, device=device, dtype=dtype)
