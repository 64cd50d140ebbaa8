"""The fused comparison counts what the one on the CPU counts, in the interpreter and on a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from harness import compare_device, compare_host
from harness.budget import Budget
from harness.emulation import emulate
from harness.launches import capture_launches
from harness.tally import Operands, Tally
from harness.triton_aot import compile_launch

SHAPE = (70, 200)  # neither a whole tile nor a whole band
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass(frozen=True)
class Kind:
    """What is compared: the output's dtype, the reference's, and what goes with it."""

    actual: torch.dtype
    expected: torch.dtype
    magnitude: bool = False
    near_ties: bool = False

    def operands(self, device: str) -> Operands:
        generator = torch.Generator().manual_seed(0)
        exact = torch.randn(SHAPE, dtype=torch.float64, generator=generator)
        noise = torch.randn(SHAPE, dtype=torch.float64, generator=generator)
        actual = (exact * (1 + noise * 2.0**-24)).to(self.actual)
        if self.actual == self.expected and self.actual.itemsize == 2:
            actual[:, ::7] = (actual[:, ::7].view(torch.int16) ^ 1).view(self.actual)
        narrow, reach = exact.to(self.expected), exact.abs() * 30
        return Operands(
            actual.to(device),
            narrow.to(device),
            reach.to(self.expected).to(device) if self.magnitude else None,
            torch.full(SHAPE, 2.0**-12, dtype=torch.float64).to(device) if self.near_ties else None,
            Budget(dtype=self.actual, terms_summed=64),
        )


KINDS = [
    Kind(torch.bfloat16, torch.bfloat16),
    Kind(torch.float16, torch.float16),
    Kind(torch.float32, torch.float32),
    Kind(torch.bfloat16, torch.float32),
    Kind(torch.bfloat16, torch.float64, magnitude=True),
    Kind(torch.float16, torch.float64, magnitude=True, near_ties=True),
    Kind(torch.float32, torch.float64),
]


def spoil(actual: Tensor, expected: Tensor) -> None:
    """A wrong value, one past the next binade, zeros, signs, NaN and infinities on either side."""
    actual[3, 5] *= 1.5
    actual[69, 199] = torch.nan
    expected[40, 64:80] = actual[40, 64:80] = torch.inf
    expected[41, 0] = torch.nan
    expected[42, 1], actual[42, 1] = torch.nan, torch.nan
    expected[43, 2], actual[43, 2] = 0.0, -0.0
    expected[44, 3], actual[44, 3] = 0.0, 2.0**-20
    actual[45] = -actual[45]
    actual[50, 7] = torch.inf


def tally(operands: Operands) -> Tally:
    interpreted = emulate() if operands.actual.device.type == "cpu" else nullcontext()
    with interpreted:
        return compare_device.enqueue(operands).tally()


def assert_same(mine: Tally, its: Tally) -> None:
    for each in fields(Tally):
        one, other = getattr(mine, each.name), getattr(its, each.name)
        if each.name == "tiles":
            assert one.shape == other.shape
        elif isinstance(other, float):
            assert one == pytest.approx(other, rel=2e-3, abs=2e-3, nan_ok=True), each.name
        else:
            assert one == other, each.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_right_result_is_counted_as_on_the_cpu(kind: Kind, device: str) -> None:
    its = compare_host.measure(kind.operands("cpu"))
    assert its.violations == 0
    assert 0.1 < its.worst <= 1
    mine = tally(kind.operands(device))
    assert mine.worst >= its.worst * 15 / 16  # the screen of equal dtypes may take another place
    for each in ("violations", "mismatches", "counted"):
        assert getattr(mine, each) == getattr(its, each)
    for each in ("steps", "steps_outward", "squared_steps", "absolute", "squared", "allowance"):
        assert getattr(mine, each) == pytest.approx(getattr(its, each), rel=1e-3, abs=1e-3), each


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_wrong_one_too(kind: Kind, device: str) -> None:
    here, there = kind.operands("cpu"), kind.operands(device)
    spoil(here.actual, here.expected)
    spoil(there.actual, there.expected)
    its = compare_host.measure(here)
    assert its.violations >= 202
    assert its.mismatches >= 3
    assert_same(tally(there), its)


@pytest.mark.parametrize(("kind", "arch"), [(KINDS[0], "sm90"), (KINDS[5], "sm100")], ids=str)
def test_its_kernels_compile_and_the_pass_does_not_spill(kind: Kind, arch: str) -> None:
    """What the interpreter takes, the compiler may not."""
    with capture_launches() as launches:
        pending = compare_device.enqueue(kind.operands("cpu"))
        pending.judge()
    made = [compile_launch(launch, arch) for launch in launches]
    kernels = ["screen_kernel", "finish_kernel", "judge_kernel"]
    assert [found.kernel.rpartition(".")[2] for found in made] == kernels
    assert made[0].spill_stores == made[0].spill_loads == 0


@pytest.mark.parametrize("ulps", [0.9, 1.1])
def test_the_flat_screen_judges_what_it_suspects(ulps: float) -> None:
    """Half an ulp for the result, half for the reference, and no more."""
    expected = torch.full(SHAPE, 1.5, dtype=torch.bfloat16)
    actual = expected.clone()
    actual[20, 30] += 2.0**-7 * (1 if ulps < 1 else 2)
    found = tally(
        Operands(actual, expected, None, None, Budget(dtype=torch.bfloat16, terms_summed=64))
    )
    assert found.violations == (ulps > 1)
    assert found.index == 20 * SHAPE[1] + 30


@pytest.mark.parametrize("share", [0.99, 1.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_screen_lets_nothing_beyond_the_budget_pass(dtype: torch.dtype, share: float) -> None:
    budget = Budget(dtype=torch.bfloat16, terms_summed=4096)
    factor = budget.of_magnitude + budget.of_expected
    distance = (2.0**-8 + 1.5 * factor) / (1 - factor)  # half an ulp and what accumulates
    actual = torch.full(SHAPE, 1.5, dtype=torch.bfloat16)
    expected = torch.full(SHAPE, 1.5, dtype=dtype)
    expected[20, 30] += share * distance
    found = tally(Operands(actual, expected, None, None, budget))
    assert found.violations == (share > 1)
    assert found.worst == pytest.approx(share, rel=1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bound_beyond_float32_in_units_of_a_subnormal_clears_nothing(
    dtype: torch.dtype, device: str
) -> None:
    expected = torch.zeros(SHAPE, dtype=dtype, device=device)
    actual = torch.zeros(SHAPE, dtype=torch.bfloat16, device=device)
    magnitude = torch.full(SHAPE, 4.0, dtype=dtype, device=device)
    actual[20, 30] = 2.0**-10
    budget = Budget(dtype=torch.bfloat16, terms_summed=1)
    found = tally(Operands(actual, expected, magnitude, None, budget))
    assert (found.violations, found.index) == (1, 20 * SHAPE[1] + 30)


@pytest.mark.parametrize("device", DEVICES)
def test_an_output_of_nothing_but_nan_is_not_read_beyond_its_end(device: str) -> None:
    """No tile has a largest error then, and what comes behind the last tile is another's."""
    memory = torch.full((2, 512), 7.0, dtype=torch.bfloat16, device=device)
    memory[0, :200] = torch.nan
    actual, expected = memory[0, :200].view(1, 200), memory[1, :200].view(1, 200)
    budget = Budget(dtype=torch.bfloat16, terms_summed=64)
    with emulate() if device == "cpu" else nullcontext():
        pending = compare_device.enqueue(Operands(actual, expected, None, None, budget))
        assert 7.0 not in pending.result[12:16].tolist()
        assert pending.tally().violations == 200
