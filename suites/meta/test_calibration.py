"""Constants come from measurements, say from which, and stand up to correct results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
import torch

from harness import calibration, registry
from harness.budget import Budget, Constants, InvalidBudget
from harness.calibration import Entry, InvalidCalibration, choose, parse, write
from harness.case import Case
from harness.device import pretend
from harness.execute import build
from harness.reference import evaluate
from suites.calibrate.measure import MODES, Tally, of_products
from suites.calibrate.products import data

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
ENTRY = Entry(
    arch="sm90",
    accumulates="fp32",
    rule="a rule",
    safety=3.0,
    chain_roundoff=1.5,
    chain_depth=8,
    results=100,
    rejected=0,
    worst=0.25,
    quantiles={"sqrt_1": 1.0},
    variants=("eager",),
    command="python -m suites.calibrate",
    device={"device": "a GPU"},
    versions={"torch": "2"},
    date="2026-01-01",
)


def of(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_a_measured_arch_gets_its_own_constants() -> None:
    found = choose([replace(ENTRY, arch="sm100", safety=9.0), ENTRY], "sm90", "fp32")
    assert (found.safety, found.chain_roundoff, found.chain_depth) == (3.0, 1.5, 8)
    assert found.provenance == (
        "c=3 on sm90, fp32: 0 of 100 correct results rejected, worst at 0.25 of its budget"
    )


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("sm89", "sm80"), ("sm100", "sm90"), ("sm120", "sm90"), ("cpu", "cpu")],
)
def test_an_unmeasured_arch_gets_the_nearest_and_says_so(asked: str, nearest: str) -> None:
    known = [replace(ENTRY, arch=arch) for arch in ("cpu", "sm80", "sm90")]
    found = choose(known, asked, "fp32")
    assert f"c=3 on {nearest}" in found.provenance
    said = f"not calibrated on {asked}; constants of {nearest}: "
    assert found.provenance.startswith(said) == (asked != nearest)


def test_without_an_entry_the_defaults_say_so() -> None:
    found = choose([ENTRY], "sm90", "tensor_core")
    assert found == Constants(provenance="not calibrated for tensor_core; default constants")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"safety": -1}, "safety=-1.0"),
        ({"safety": math.nan}, "safety=nan"),
        ({"chain_depth": 0}, "chain_depth=0"),
        ({"chain_depth": 1.5}, "chain_depth=1.5 is no int"),
        ({"worst": "much"}, "could not convert"),
        ({"arch": "gpu"}, "arch='gpu'"),
        ({"rejected": 101}, "rejected=101 of results=100"),
        ({"colour": "red"}, "'colour'"),
    ],
)
def test_a_broken_entry_is_refused_with_its_place(wrong: dict[str, object], words: str) -> None:
    text = json.dumps([asdict(ENTRY), {**asdict(ENTRY), **wrong}])
    with pytest.raises(InvalidCalibration, match=r"calibration\.json: entry 1: ") as refused:
        parse(text, where="calibration.json")
    assert words in str(refused.value)


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("{}", "holds a dict")])
def test_a_broken_file_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidCalibration, match=words):
        parse(text, where="calibration.json")


def test_writing_replaces_the_entry_of_its_arch_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write(path, [ENTRY, replace(ENTRY, accumulates="tensor_core")])
    write(path, [replace(ENTRY, safety=5.0)])
    found = parse(path.read_text(encoding="utf-8"), where=path.name)
    assert [(entry.accumulates, entry.safety) for entry in found] == [
        ("fp32", 5.0),
        ("tensor_core", 3.0),
    ]


def test_what_is_shipped_rejected_nothing_and_leaves_a_margin() -> None:
    shipped = calibration.entries()
    assert {("cpu", "fp32"), ("cpu", "tensor_core")} <= {(e.arch, e.accumulates) for e in shipped}
    for entry in shipped:
        assert entry.rejected == 0
        assert entry.worst <= 3 / 4, entry
        assert entry.command.startswith("python -m suites.calibrate")


def test_a_budget_takes_its_constants() -> None:
    plain = Budget(dtype=torch.float32, terms_summed=64, tensor_core=True)
    known = Constants(safety=8.0, chain_roundoff=5.0)
    doubled = replace(plain, constants=known)
    ratio = doubled.accumulation(of(1.0), of(1.0)) / plain.accumulation(of(1.0), of(1.0))
    assert float(ratio) == pytest.approx(2.0)


@pytest.mark.parametrize("wrong", [math.inf, math.nan, -1.0])
def test_impossible_constants_are_refused(wrong: float) -> None:
    with pytest.raises(InvalidBudget, match="need a finite value >= 0"):
        Constants(safety=wrong)
    with pytest.raises(InvalidBudget, match="need a finite value >= 0"):
        Constants(chain_roundoff=wrong)


def test_the_budget_of_a_case_is_that_of_its_arch() -> None:
    registry.load_all(("references", "kernels"))
    kernel = registry.kernel("rms_norm.triton")
    case = Case(
        kernel=kernel.name,
        sizes=(("m", 2), ("n", 4)),
        dtype="float32",
        params=(("eps", "1e-06"),),
    )
    found = registry.op("rms_norm")
    inputs = build(found, case, CPU).tensors
    for arch in ("cpu", "sm86"):
        with pretend(arch):
            budget = evaluate(found, kernel, case, inputs)["y"].budget
        assert budget is not None
        assert budget.constants == calibration.constants(arch, "fp32")


def _products(constants: Constants, *lengths: int) -> dict[str, Tally]:
    tallies = {mode: Tally(mode, constants) for mode in MODES}
    of_products(tallies, CPU, seed=0, lengths=lengths)
    return tallies


def test_products_of_every_order_and_sign_structure_stay_within_the_budget() -> None:
    for tally in _products(Constants(), 64, 512).values():
        assert tally.results > 50
        assert not tally.rejected


def test_constants_that_are_too_small_reject() -> None:
    assert _products(Constants(safety=0.05), 64)["fp32"].rejected


def test_structured_signs_need_the_magnitude() -> None:
    """Why the sharp scale is for independent draws: partial sums of others leave it behind."""
    generator = torch.Generator().manual_seed(0)
    k = 8192
    found = {d.kind: d for d in data(16, k, torch.bfloat16, generator)}
    shares = {}
    for kind in ("normal", "first half positive"):
        terms = found[kind].a.double()[:, :, None] * found[kind].b.double()
        total = torch.zeros(16, 16)
        for term in terms.float().unbind(1):
            total += term
        exact = terms.sum(1)
        sharp = exact.abs() + 3 * terms.square().sum(1).sqrt()
        budget = Budget(dtype=torch.float32, terms_summed=k)
        for scale, words in ((sharp, "sharp"), (terms.abs().sum(1), "magnitude")):
            allowed = budget.allowed(exact, scale)
            shares[kind, words] = float(((total.double() - exact).abs() / allowed).max())
    assert shares["normal", "sharp"] < 1 / 4
    assert shares["first half positive", "sharp"] > 1
    assert shares["first half positive", "magnitude"] < 1 / 4
