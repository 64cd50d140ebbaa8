"""What a kernel does in a call is seen and classified: outputs, refusals, launches, damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import kernel, op, registry, size, tensor
from harness.buffers import POISONS
from harness.case import Case
from harness.device import require_arch
from harness.emulation import is_active
from harness.execute import ReturnedWrongKind, build, execute, generator, name_outputs, source_hash
from harness.judge import judge
from harness.launches import Launch, report_launch
from harness.reference import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.execute import Observation
    from harness.judge import Judgement

CPU = torch.device("cpu")
SIZES = (("m", 4), ("n", 6))


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    with registry.scratch():
        op(
            inputs={
                "x": "m n",
                "scale": tensor("n", dtype="float32", role="scale"),
                "bias": tensor("n", role="weight", optional="bias"),
            },
            outputs={"y": "m n", "flags": "m"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32", "float16"),
            params={"sign": {"plus": 1.0, "minus": -1.0}},
        )(affine)
        yield


def affine(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> dict[str, Tensor]:
    y = sign * x * scale
    return {"y": y if bias is None else y + bias, "flags": torch.zeros_like(x[:, 0])}


def launch() -> None:
    """What a launcher says right before it launches."""
    assert report_launch(Launch("cuda", "affine", __name__, None, (1,), {}))


def right(x: Tensor, scale: Tensor, bias: Tensor | None, sign: float) -> tuple[Tensor, Tensor]:
    y, flags = torch.empty_like(x), torch.empty_like(x[:, 0])
    launch()
    y.copy_(sign * x * scale + (0 if bias is None else bias))
    flags.zero_()
    return y, flags


def run(function: Callable[..., object], *, seed: int = 0, **fields: object) -> Observation:
    return run_and_judge(function, seed=seed, **fields)[0]


def run_and_judge(
    function: Callable[..., object],
    *,
    seed: int = 0,
    may_refuse: bool = False,
    **fields: object,
) -> tuple[Observation, Judgement]:
    kernel("affine", backend="cuda", arch="sm90", configs=("wide",))(configured(function))
    subject, case = registry.kernel("affine.cuda"), case_of(seed=seed, **fields)
    call, seen = execute(registry.op("affine"), subject, case, CPU)
    truths = evaluate(registry.op("affine"), subject, case, call.tensors)
    return seen, judge(registry.op("affine"), seen, truths, may_refuse=may_refuse)


def case_of(**fields: object) -> Case:
    defaults: dict[str, object] = {
        "kernel": "affine.cuda",
        "sizes": SIZES,
        "dtype": "float32",
        "params": (("sign", "plus"),),
    }
    return Case(**(defaults | fields))  # type: ignore[arg-type]


def configured(function: Callable[..., object]) -> Callable[..., object]:
    def call(*, config: str | None = None, **arguments: object) -> object:
        configs.append(config)
        return function(**arguments)

    configs: list[str | None] = []
    call.configs = configs  # type: ignore[attr-defined]
    return call


@pytest.mark.parametrize("seed", range(len(POISONS)))
def test_a_right_kernel_passes_with_every_poison(seed: int) -> None:
    seen, verdict = run_and_judge(right, seed=seed)
    assert (seen.error, seen.damage, seen.poison) == (None, "", POISONS[seed])
    assert list(seen.outputs) == ["y", "flags"]
    assert [each.name for each in seen.launches] == ["affine"]
    assert verdict.problems == ()


def test_a_wrong_kernel_fails_by_the_name_of_its_output() -> None:
    def without_sign(x: Tensor, sign: float, **rest: Tensor) -> object:
        del sign
        return right(x, sign=1.0, **rest)

    assert run_and_judge(without_sign)[1].problems == ()
    (problem,) = run_and_judge_again(without_sign, params=(("sign", "minus"),)).problems
    assert problem.startswith("y: budget: ")
    assert "of 24 elements wrong" in problem


def run_and_judge_again(function: Callable[..., object], **fields: object) -> Judgement:
    with registry.scratch():
        op(
            inputs=registry_inputs(),
            outputs={"y": "m n", "flags": "m"},
            domain={"m": size(0, 64), "n": size(1, 64)},
            dtypes=("float32", "float16"),
            params={"sign": {"plus": 1.0, "minus": -1.0}},
        )(affine)
        return run_and_judge(function, **fields)[1]
