"""The e2e layer: a real model with real weights does its work with its layers replaced."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.arch import CPU
from harness.reference import dtype_of
from suites.e2e import evaluate, isolation, model, sentences
from suites.e2e.moe import evaluate as moe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from harness.check import Check
    from harness.subjects import Subject

DAMAGED = "encoder.layer.3.intermediate.dense"


@pytest.mark.parity(layer="e2e")
def test_does_its_work_with_its_layers_replaced(parity: Check) -> None:
    probes: dict[str, Callable[[], str]] = {}
    for subject in parity.subjects:
        if subject.name in PLANTED:
            probes[f"{subject.name}-planted_fault"] = partial(PLANTED[subject.name], parity)
        # In the interpreter a model takes half a minute: one dtype there, all of them on a GPU.
        for dtype in subject.dtypes[:1] if parity.cell.arch == CPU else subject.dtypes:
            probes[f"{subject.name}-{dtype}"] = partial(_words, parity, subject, dtype)
    parity.each(probes)


def test_transformers_does_not_take_our_kernels_for_another_package() -> None:
    assert not isolation.failures()


def _words(parity: Check, subject: Subject, dtype: str) -> str:
    result: Any = subject.build(
        backend=parity.kernel.implementation,
        dtype=dtype_of(dtype),
        device=parity.device,
        folder=parity.settings.e2e_model,
    )
    parity.figures |= {
        f"{subject.name}, {dtype}: {name}": figure for name, figure in result.figures.items()
    }
    return "; ".join(result.failures())


def _planted(parity: Check) -> str:
    """The model runs all ops of a scheme, so that it is made once a process, as the sound one."""
    ops = evaluate.scheme_of(parity.kernel.op).ops
    where = parity.kernel.implementation, parity.device, parity.settings.e2e_model
    return _planted_in_encoder(ops[0], *where)


@cache
def _planted_in_encoder(op: str, backend: str, device: torch.device, folder: Path | None) -> str:
    """A fault in one layer must fail the run and be named: the judge of layers sees."""
    scheme = evaluate.scheme_of(op)
    result = evaluate.evaluate(
        model.load(folder),
        sentences.few(1),
        scheme=scheme,
        backend=backend,
        device=device,
        dtype=dtype_of("bfloat16"),
        blocks=(3,),
        fault=lambda encoder: evaluate.misread_scale(encoder, scheme=scheme, layer=DAMAGED),
    )
    found = result.first_bad_layer
    return "" if found == DAMAGED else f"a fault planted in {DAMAGED} was blamed on {found}"


def _planted_in_transformer(parity: Check) -> str:
    return _planted_in_experts(parity.kernel.implementation, parity.device)


@cache
def _planted_in_experts(backend: str, device: torch.device) -> str:
    """Experts scaled as their neighbours fail the run and are named; one block is enough."""
    name = "blocks.0.experts"
    result = moe.evaluate(
        backend=backend,
        dtype=dtype_of("bfloat16"),
        device=device,
        blocks=1,
        fault=lambda transformer: moe.misread_alphas(transformer, name),
    )
    found = result.first_bad_part
    return "" if found == name else f"a fault planted in {name} was blamed on {found}"


PLANTED: Final[dict[str, Callable[[Check], str]]] = {
    "sentence_encoder": _planted,
    "sentence_encoder_nvfp4": _planted,
    "moe_transformer": _planted_in_transformer,
}
