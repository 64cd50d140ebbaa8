"""A silent fallback is red: a result counts where launches show that the kernel computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import layers
from harness.cells import Outcome
from harness.judge import ParityFailure
from harness.launches import Launch, report_launch
from suites.meta import scaling

if TYPE_CHECKING:
    from collections.abc import Callable


def launched(module: str, *arguments: Tensor, backend: str = "cuda") -> None:
    """A launch of ``module`` with these arguments."""
    named = {f"p{index}": value for index, value in enumerate(arguments)}
    report_launch(Launch(backend, "scaled", module, None, (1,), named))


def into_its_output(x: Tensor, **rest: object) -> Tensor:
    y = torch.empty_like(x)
    launched(__name__, x, y)
    return y.copy_(scaling.computed(x, **rest))  # type: ignore[arg-type]


def by_way_of_a_workspace(x: Tensor, **rest: object) -> Tensor:
    workspace = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    launched(__name__, x, workspace)
    workspace.copy_(scaling.computed(x, **rest))  # type: ignore[arg-type]
    return (workspace.view(-1) + 0).reshape(x.shape).to(x.dtype)


def told_without_arguments(x: Tensor, **rest: object) -> Tensor:
    launched(__name__)
    return scaling.computed(x, **rest).to(x.dtype)  # type: ignore[arg-type]


def in_torch_above_16_columns(x: Tensor, **rest: object) -> Tensor:
    if x.shape[1] <= 16:
        return into_its_output(x, **rest)
    return scaling.computed(x, **rest).to(x.dtype)  # type: ignore[arg-type]


def by_another_backend(x: Tensor, **rest: object) -> Tensor:
    launched(__name__, x, backend="triton")
    return scaling.computed(x, **rest).to(x.dtype)  # type: ignore[arg-type]


def by_another_family(x: Tensor, **rest: object) -> Tensor:
    y = torch.empty_like(x)
    launched("kernels.norm.cuda", x, y)
    return y.copy_(scaling.computed(x, **rest))  # type: ignore[arg-type]


def behind_a_trivial_launch(x: Tensor, **rest: object) -> Tensor:
    launched(__name__, torch.empty(8, dtype=x.dtype, device=x.device))
    return scaling.computed(x, **rest).to(x.dtype)  # type: ignore[arg-type]


SOUND = (into_its_output, by_way_of_a_workspace, told_without_arguments)
FALLBACKS = {
    in_torch_above_16_columns: "no launch was seen: a fallback computed this",
    by_another_backend: "launched triton:suites.meta.test_provenance.scaled and nothing of backend="
    "'cuda' in suites.meta: a fallback computed this",
    by_another_family: "launched cuda:kernels.norm.cuda.scaled and nothing of backend='cuda' in "
    "suites.meta: a fallback computed this",
    behind_a_trivial_launch: "y: neither its memory nor anything that it was computed from was an "
    "argument of scaled: other code computed this",
}


@pytest.mark.parametrize("function", SOUND)
def test_a_kernel_that_ran_passes(function: Callable[..., object]) -> None:
    with scaling.declared(function):
        check = scaling.check_of(cases=4)
        layers.matches_the_reference(check)


@pytest.mark.parametrize(("function", "words"), FALLBACKS.items(), ids=lambda v: str(v)[:40])
def test_a_silent_fallback_is_red(function: Callable[..., object], words: str) -> None:
    with scaling.declared(function), pytest.raises(ParityFailure) as caught:
        layers.matches_the_reference(scaling.check_of(cases=12))
    (problem,) = caught.value.problems
    assert problem.startswith(words)
    assert caught.value.outcome is Outcome.WRONG
    if function is in_torch_above_16_columns:
        assert "n=17," in caught.value.case  # the first shape that falls back


def test_a_declaration_names_whose_launches_count() -> None:
    with scaling.declared(by_another_family, launches="kernels.norm"):
        layers.matches_the_reference(scaling.check_of(cases=4))
    words = r"nothing of backend='cuda' in kernels\.norm"
    with (
        scaling.declared(into_its_output, launches=["kernels.norm"]),
        pytest.raises(ParityFailure, match=words),
    ):
        layers.matches_the_reference(scaling.check_of(cases=4))
