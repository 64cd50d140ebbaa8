"""A process that may hold little of a device has smaller cases, says so, and keeps fewer truths."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from harness import Expected, device, registry
from harness.arch import CPU
from harness.case import Case
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import Judgement
from harness.machine import ROOMS, VISIBLE
from harness.strategies import DEVICE, EMULATED, Limits, within
from harness.truths import TruthCache
from harness.workers import ALONE, GIB, NEED, Place
from suites.meta.scaling import declared, right

if TYPE_CHECKING:
    from collections.abc import Mapping

ELEMENTS = 1000
LITTLE = str(ELEMENTS * 256 * 2)


@pytest.fixture(autouse=True)
def _no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set first, so that what a test's process takes is given back."""
    for name in (VISIBLE, ROOMS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def largest(arch: str) -> tuple[int, Mapping[str, object]]:
    """Elements of the largest case that a check on ``arch`` draws, and its figures."""
    seen = []

    def judged(case: Case) -> Judgement:
        seen.append(registry.op("scaled").elements(dict(case.sizes)))
        return Judgement((), {})

    check = Check(
        cell=Cell("scaled.cuda", arch, Layer.NUMERIC),
        dtype="float32",
        settings=Settings(cases=60),
        reproduce=str,
    )
    with declared(right):
        check.explore(judged)
    return max(seen), check.figures


def test_a_little_room_makes_small_cases_and_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, figures = largest("sm90")
    assert usual > ELEMENTS
    assert "elements_at_most" not in figures
    monkeypatch.setenv(ROOMS, f"{GIB},{LITTLE}")
    bounded, figures = largest("sm90")
    assert bounded <= ELEMENTS
    assert figures["elements_at_most"] == ELEMENTS


def test_what_needs_no_device_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOMS, LITTLE)
    found, figures = largest(CPU)
    assert found > ELEMENTS
    assert "elements_at_most" not in figures


def test_limits_fit_into_half_of_the_room() -> None:
    assert within(DEVICE, None) == DEVICE
    assert within(DEVICE, NEED) == DEVICE
    assert within(DEVICE, NEED // 4) == Limits(DEVICE.axis, DEVICE.elements // 4)
    assert within(EMULATED, NEED // 4) == EMULATED


def test_a_process_takes_its_place_and_its_children_inherit_it() -> None:
    device.take(Place(("GPU-2", "GPU-0"), (3, 2)))
    assert (os.environ[VISIBLE], os.environ[ROOMS]) == ("GPU-2,GPU-0", "3,2")  # noqa: TID251
    assert device.room() == 2
    device.see_only("GPU-1")
    assert os.environ[VISIBLE] == "GPU-1"  # noqa: TID251
    assert device.room() is None
    device.take(ALONE)
    assert os.environ[VISIBLE] == "GPU-1"  # noqa: TID251


@pytest.mark.parametrize(("room", "kept"), [(None, True), (4 * 4000, True), (4 * 4000 - 1, False)])
def test_truths_have_a_quarter_of_the_room(
    monkeypatch: pytest.MonkeyPatch, room: int | None, *, kept: bool
) -> None:
    if room is not None:
        monkeypatch.setenv(ROOMS, str(room))
    cache = TruthCache({"meta": 10_000})
    case = Case(kernel="scaled.cuda", sizes=(("m", 1), ("n", 1)), dtype="float32")

    def made() -> dict[str, Expected]:
        value = torch.zeros(500, dtype=torch.float64)
        return {"y": Expected(value, value)}

    with declared(right):
        for _ in range(2):
            cache.get(registry.op("scaled"), case, {"x": torch.empty(1, device="meta")}, made)
    assert cache.hits == int(kept)
