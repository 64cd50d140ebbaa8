"""Probes of a check: all run, and what is missing for one hides no failure of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import kernel, op, registry, size
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import ParityFailure
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def same(x: Tensor) -> Tensor:
    return x


@pytest.fixture
def check() -> Iterator[Check]:
    with registry.scratch():
        op(inputs={"x": "n"}, outputs={"y": "n"}, domain={"n": size()}, dtypes=("float32",))(same)
        kernel("same", backend="cuda", arch=">=sm80")(same)
        cell = Cell("same.cuda", CPU, Layer.E2E)
        yield Check(cell=cell, dtype=None, settings=Settings(), reproduce=str)


def absent() -> str:
    msg = "the model is not here; pip install it"
    raise Unavailable(msg)


def wrong() -> str:
    return "it is wrong"


def right() -> str:
    return ""


@pytest.mark.parametrize("order", [("absent", "wrong"), ("wrong", "absent")])
def test_what_is_missing_hides_no_failure(check: Check, order: tuple[str, str]) -> None:
    probes = {"absent": absent, "wrong": wrong}

    with pytest.raises(ParityFailure, match="probe=wrong"):
        check.each({name: probes[name] for name in order})


def test_what_is_missing_is_said_once_the_others_passed(check: Check) -> None:
    with pytest.raises(Unavailable, match="the model is not here"):
        check.each({"absent": absent, "right": right})

    assert check.counts["cases"] == 2
