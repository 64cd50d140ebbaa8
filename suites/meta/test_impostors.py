"""A declaration that lets a wrong result pass is named as the one at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness import Expected, Term, kernel, layers, op, output, registry, size, tensor
from harness.arch import CPU
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.judge import ParityFailure

if TYPE_CHECKING:
    from collections.abc import Callable


def said(
    reference: Callable[..., object],
    *,
    only: str | None = None,
    **declaration: Any,  # noqa: ANN401 - passed on
) -> str:
    """What the check says of an op over x [m, n], declared on the spot; nothing if all is well."""
    defaults: dict[str, Any] = {
        "inputs": {"x": "m n"},
        "outputs": {"y": "m n"},
        "domain": {"m": size(0, 256), "n": size(1, 256)},
        "dtypes": ("float32",),
    }
    with registry.scratch():
        op(**(defaults | declaration))(reference)
        kernel(reference.__name__, backend="cuda", arch="sm90")(reference)
        check = Check(
            cell=Cell(f"{reference.__name__}.cuda", CPU, Layer.NUMERIC),
            dtype=registry.op(reference.__name__).dtypes[0],
            settings=Settings(only=only),
            reproduce=lambda case: f"pytest --case {case}",
        )
        try:
            layers.rejects_impostors(check)
        except ParityFailure as failure:
            return str(failure)
    return ""


def centred(x: Tensor) -> Expected:
    return Expected(x - x.mean(1, keepdim=True), x.abs() + x.abs().mean(1, keepdim=True))


def test_a_sound_declaration_passes() -> None:
    assert said(centred, sums_over="n") == ""
    assert said(centred, sums_over="n", dtypes=("bfloat16",)) == ""
    assert said(lambda x: x.exp()) == ""


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "zeros": ({"terms": (Term(relative=4.0, because="to be safe"),)}, "y: all zeros passes"),
    "negated": ({"terms": (Term(relative=4.0, because="as above"),)}, "the negated result passes"),
    "lower": (
        {"terms": (Term(relative=0.05, because="half precision is good enough"),)},
        "y: the result computed in the next lower precision passes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_term_that_allows_too_much_is_at_fault(fault: str) -> None:
    declaration, words = FAULTS[fault]
    report = said(centred, sums_over="n", **declaration)
    assert words in report
    assert f"the declaration of centred at {__file__}:" in report
    case = report.split("--case ")[1].split("\n")[0]
    assert case.endswith(",seed=4/impostor")
    assert said(centred, only=case, sums_over="n", **declaration) == report


def test_a_magnitude_that_bounds_nothing_is_at_fault() -> None:
    def loose(x: Tensor) -> Expected:
        return Expected(2 * x, torch.full_like(x, 1e9))

    report = said(loose)
    for words in ("all zeros", "the negated", "its first element", "one element too far"):
        assert f"{words}" in report


def test_an_impostor_that_is_the_right_result_is_none() -> None:
    assert said(lambda x: x) == ""  # the input
    assert said(lambda x: 0 * x) == ""  # zeros, negated too
    assert said(lambda x: x.sum() * 0 + 3 + 0 * x) == ""  # a constant
    assert said(lambda x: x.abs().amax(1), outputs={"y": "m"}, dtypes=("float16",)) == ""


def test_every_output_is_asked_and_every_value_of_every_parameter() -> None:
    def both(x: Tensor, loose: bool) -> dict[str, Tensor | Expected]:  # noqa: FBT001
        bound = torch.full_like(x, 1e9) if loose else x.abs()
        return {"codes": (x > 0).to(torch.uint8), "y": Expected(-x, bound)}

    report = said(
        both,
        outputs={"codes": output("m n", dtype="uint8", exact=True), "y": "m n"},
        params={"loose": (False, True)},
    )
    assert "1 problem" in report
    assert "loose=True" in report
    assert "y: all zeros passes" in report
    assert "codes: " not in report


def test_couplings_and_roles_are_kept() -> None:
    def picked(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return x * scale + codes.double()

    report = said(
        picked,
        inputs={
            "x": "m n",
            "codes": tensor("m n", dtype="uint8", role="code"),
            "scale": tensor("n", role="scale"),
        },
        domain={"m": size(0, 256), "n": size(1, 256)},
        couplings=("m <= 8",),
    )
    assert report == ""


def test_a_float8_is_negated_too() -> None:
    report = said(
        lambda x: x.to(torch.float8_e4m3fn).double(),
        outputs={"y": output("m n", dtype="float8_e4m3fn", exact=True)},
    )
    assert report == ""
