"""A kernel less accurate than what it was ported from is told so, and the original is emulated."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch import Tensor

from harness import Upstream, kernel, layers, op, registry, size
from harness.arch import CPU
from harness.budget import Expected
from harness.case import Case
from harness.cells import Cell, Layer
from harness.check import Check, Settings
from harness.compare import InvalidReference
from harness.judge import ParityFailure
from harness.launches import Launch, report_launch
from harness.record import Record
from harness.soundness import InvalidDeclaration
from harness.table import accuracies
from harness.upstream import Ledger, Point, measure, ratio, round_once
from references import svdq_gemm, svdq_gemm_upstream

if TYPE_CHECKING:
    from collections.abc import Callable

HALVES: Final = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_tie_of_float32_is_rounded_by_what_float32_drops(dtype: torch.dtype) -> None:
    ulp = torch.finfo(dtype).eps
    beyond = torch.tensor(
        [1 + ulp / 2 + 2**-40, 1 + ulp / 2, 1 + ulp * 1.5 - 2**-40], dtype=torch.float64
    )
    assert round_once(beyond, dtype).double().tolist() == [1 + ulp, 1, 1 + ulp]
    assert round_once(-beyond, dtype).double().tolist() == [-1 - ulp, -1, -1 - ulp]
    assert beyond.to(dtype).double().tolist() == [1, 1, 1 + 2 * ulp]  # rounded twice


@pytest.mark.parametrize("dtype", HALVES)
def test_one_rounding_goes_to_the_nearest(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(4000, generator=generator, dtype=torch.float64)
    wide *= 2.0 ** torch.randint(-12, 12, (4000,), generator=generator)
    found = round_once(wide, dtype)
    below = torch.nextafter(found, torch.full_like(found, -math.inf))
    above = torch.nextafter(found, torch.full_like(found, math.inf))
    for value, near, low, high in zip(
        *(t.tolist() for t in (wide, found, below, above)), strict=True
    ):
        distance = abs(Fraction(value) - Fraction(near))
        assert distance <= min(abs(Fraction(value) - Fraction(other)) for other in (low, high))


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_no_number_stays_so(dtype: torch.dtype) -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, 1e-300, -1e-50])
    found = round_once(odd.double(), dtype)
    assert found[0].isnan()
    assert found[1:].tolist() == [math.inf, -math.inf, 0, 0, math.inf, 0, 0]


def product(k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Gaussian operands in int4 codes and scales, as in the table that this is compared with."""
    generator = torch.Generator().manual_seed(1)
    made: dict[str, Any] = {}
    for codes, scales, rows in (("codes", "ascales", 64), ("wcodes", "wscales", 128)):
        x = torch.randn(rows, k // 64, 64, generator=generator, dtype=torch.float64)
        scale = x.abs().amax(2, keepdim=True) / 7
        nibbles = ((x / scale).round().clamp(-7, 7).to(torch.int8).view(rows, k) & 15).byte()
        made[codes] = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        made[scales] = scale.squeeze(2).T.to(dtype)
    absent = dict.fromkeys(("lora_act", "lora_up", "bias", "wcscales", "out_dtype"))
    return {**made, **absent, "alpha": 1.0, "act_unsigned": False, "dtype": dtype}


def exact_and_original(k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The float64 product, and what the original makes of it."""
    given = product(k, dtype)
    wide = given | {name: given[name].double() for name in ("ascales", "wscales")}
    original = svdq_gemm_upstream.svdq_gemm_w4a4(**given)
    assert original is not None
    assert original.dtype is dtype
    return svdq_gemm.svdq_gemm_w4a4(**wide).value, original


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "k", "figure", "best"),
    [
        (torch.bfloat16, 128, 2.6e-3, 1.65e-3),
        (torch.bfloat16, 3072, 8.6e-3, 1.65e-3),
        (torch.float16, 128, 3.3e-4, 2.1e-4),
        (torch.float16, 3072, 1.0e-3, 2.1e-4),
    ],
)
def test_the_original_loses_what_was_measured_of_it(
    dtype: torch.dtype, k: int, figure: float, best: float
) -> None:
    expected, original = exact_and_original(k, dtype)
    assert relative(original, expected) == pytest.approx(figure, rel=0.05)
    assert relative(expected.to(dtype), expected) == pytest.approx(best, rel=0.05)
    assert torch.equal(exact_and_original(k, dtype)[1], original)


def test_the_original_rounds_a_group_before_it_is_scaled() -> None:
    given = product(64, torch.bfloat16)
    given["codes"] = torch.full((1, 32), 0x77, dtype=torch.uint8)
    given["wcodes"] = torch.full((1, 32), 0x77, dtype=torch.uint8)
    given["wcodes"][0, 0] = 0x17  # 63 x 49 + 7 = 3094, which bfloat16 has not
    below = 1 - 2**-8
    given |= {name: torch.ones(1, 1).bfloat16() for name in ("ascales", "wscales")}
    given["ascales"] *= below
    wide = given | {name: given[name].double() for name in ("ascales", "wscales")}
    assert float(svdq_gemm.svdq_gemm_w4a4(**wide).value) == 3094 * below  # nearest is 3088
    assert float(svdq_gemm_upstream.svdq_gemm_w4a4(**given)) == 3072  # type: ignore[arg-type]


def test_the_original_adds_the_rest_in_its_order() -> None:
    given = product(64, torch.float16)
    given["codes"] = torch.zeros(1, 32, dtype=torch.uint8)
    given["codes"][0, 0] = 1
    given["wcodes"] = given["codes"].clone()
    half = torch.float16
    given |= {"ascales": torch.ones(1, 1).half(), "wscales": torch.full((1, 1), 3.0).half()}
    given |= {"wcscales": torch.tensor([2 / 3]).to(half), "bias": torch.tensor([1024.0]).to(half)}
    given |= {"lora_act": torch.full((1, 16), 100 / 3), "lora_up": torch.ones(1, 16).to(half)}
    third = float(torch.tensor(100 / 3).half())
    scaled = float((torch.tensor(3.0).half() * given["wcscales"][0]).half())
    with_bias = float((torch.tensor(scaled).half() + 1024).half())
    expected = float(torch.tensor(with_bias + 16 * third).half())
    assert float(svdq_gemm_upstream.svdq_gemm_w4a4(**given)) == expected  # type: ignore[arg-type]
    given["bias"] = torch.tensor([65504.0]).to(half)
    given["lora_act"] *= 1e4
    assert float(svdq_gemm_upstream.svdq_gemm_w4a4(**given)) == 65504  # type: ignore[arg-type]


def test_what_the_original_aborts_on_or_misreads_has_no_result() -> None:
    given = product(64, torch.float16)
    assert svdq_gemm_upstream.svdq_gemm_w4a4(**given | {"alpha": 0.75}) is None
    assert svdq_gemm_upstream.svdq_gemm_w4a4(**given | {"out_dtype": torch.bfloat16}) is None
    assert svdq_gemm_upstream.svdq_gemm_w4a4(**given | {"out_dtype": torch.float16}) is not None


def in_halves(x: Tensor) -> Tensor:
    """What the toy's original does: a running sum in 16 bits."""
    total = torch.zeros_like(x[:, 0])
    for column in x.unbind(1):
        total = total + column
    return total


def precise(x: Tensor) -> Tensor:
    report_launch(Launch("cuda", "precise", __name__, None, (1,), {}))
    return x.double().sum(1).to(x.dtype)


def coarse(x: Tensor) -> Tensor:
    """As the original, but that its result loses a bit: rounded to one bit less at the end."""
    report_launch(Launch("cuda", "coarse", __name__, None, (1,), {}))
    total = in_halves(x)
    return (total.view(torch.int16) & ~7).view(x.dtype)


def checked(
    function: Callable[..., object], upstream: Upstream | None, only: str | None = None
) -> Check:
    """The check, having run over a toy op; raises ParityFailure."""
    with registry.scratch():

        def row_sums(x: Tensor) -> Tensor:
            return x.sum(1)

        op(
            inputs={"x": "m n"},
            outputs={"y": "m"},
            domain={"m": size(256, 300), "n": size(8, 64)},
            dtypes=("bfloat16",),
            sums_over="n",
            upstream=upstream,
        )(row_sums)
        kernel("row_sums", backend="cuda", arch="sm90")(function)
        check = Check(
            cell=Cell("row_sums.cuda", CPU, Layer.NUMERIC),
            dtype="bfloat16",
            settings=Settings(cases=12, only=only),
            reproduce=lambda case: f"pytest --case {case}",
        )
        layers.is_as_accurate_as_upstream(check)
        return check


ORIGINAL: Final = Upstream(function=in_halves, source="a loop", at_most=1.05)


def test_a_kernel_as_accurate_as_its_original_passes_with_figures() -> None:
    check = checked(precise, ORIGINAL)
    families = check.figures["of_upstream_error"]
    assert isinstance(families, dict)
    assert 0 < families["normal"] < 0.8
    assert max(families.values()) <= 1
    assert str(check.figures["worst_of_upstream"]).startswith("row_sums.cuda/m=")
    assert check.case == f"{check.figures['worst_of_upstream']}/upstream"
    json.dumps(check.figures, allow_nan=False)


def test_a_worse_kernel_is_red_and_its_worst_case_is_named() -> None:
    with pytest.raises(ParityFailure, match="less accurate than what it was ported from") as caught:
        checked(coarse, ORIGINAL)
    failure = caught.value
    assert "(a loop): over values=" in str(failure)
    assert "at most 1.05 x is declared" in str(failure)
    assert failure.case.endswith("/upstream")
    with pytest.raises(ParityFailure, match="less accurate") as again:
        checked(coarse, ORIGINAL, only=failure.case)
    assert again.value.case == failure.case


def test_a_worse_kernel_is_only_reported_where_no_limit_is_declared() -> None:
    check = checked(coarse, Upstream(function=in_halves, source="a loop"))
    families = check.figures["of_upstream_error"]
    assert isinstance(families, dict)
    assert families["normal"] > 1.05


def test_an_original_without_a_result_is_counted() -> None:
    check = checked(precise, Upstream(function=lambda x: x.sum() and None, source="none"))
    assert check.figures["upstream_refused"] == check.figures["cases"]
    assert "of_upstream_error" not in check.figures


def test_a_kernel_that_fails_or_launches_nothing_is_red_here_too() -> None:
    def raises(x: Tensor) -> Tensor:
        raise OSError(x.shape)

    with pytest.raises(ParityFailure, match="raised OSError"):
        checked(raises, ORIGINAL)
    with pytest.raises(ParityFailure, match="no launch was seen"):
        checked(lambda x: x.sum(1), ORIGINAL)


@pytest.mark.parametrize("result", [torch.zeros(3), {"z": torch.zeros(3)}, 1.5])
def test_an_original_of_another_shape_or_name_is_refused(result: object) -> None:
    with pytest.raises(InvalidReference, match="upstream of row_sums returned"):
        checked(precise, Upstream(function=lambda x: result, source="wrong"))  # noqa: ARG005


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        (in_halves, "upstream is <function in_halves"),
        (Upstream(function=lambda y: y, source="wrong"), "takes ['y'], not ['x']"),
        (Upstream(function=in_halves, source="a loop", at_most=0.0), "at_most=0.0; need"),
        (Upstream(function=in_halves, source="a loop", at_most=math.nan), "at_most=nan; need"),
    ],
)
def test_a_wrong_declaration_is_refused(upstream: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(InvalidDeclaration) as caught:
        checked(precise, upstream)
    assert words in str(caught.value)


CASE: Final = Case(kernel="k.cuda", sizes=(("n", 4),), dtype="float16")


def point_of(actual: list[float], original: list[float], expected: list[float]) -> Point | None:
    wide = torch.tensor(expected, dtype=torch.float64)
    halves = [torch.tensor(values).half() for values in (actual, original)]
    return measure(CASE, "y", halves[0], halves[1], Expected(wide, wide.abs()))


def test_errors_are_relative_to_the_magnitude() -> None:
    point = point_of([3.0, 5.0], [3.0, 7.0], [3.0, 4.0])
    assert point is not None
    assert point.kernel == pytest.approx(1 / 5)
    assert point.ratio == pytest.approx(1 / 3)
    assert point.elements == 2


def test_what_only_the_original_loses_hides_nothing_else() -> None:
    point = point_of([3.0, 2.0, 9.0], [3.5, math.inf, math.nan], [4.0, 1.0, 9.0])
    assert point is not None
    assert point.ratio == pytest.approx(2)
    assert point.elements == 1


def test_a_number_that_the_kernel_loses_is_an_error_without_bound() -> None:
    for lost in (math.nan, math.inf):
        point = point_of([3.0, lost], [3.5, 1.0], [4.0, 1.0])
        assert point is not None
        assert point.ratio == math.inf


def test_nothing_to_measure_is_no_point() -> None:
    assert point_of([], [], []) is None
    assert point_of([0.0], [0.0], [0.0]) is None
    assert point_of([math.inf], [math.inf], [1e6]) is None  # does not fit float16


def test_two_exact_results_are_alike_and_one_is_not() -> None:
    assert ratio([Point("a", "normal", "y", 300, 0.0, 0.0)]) == 1
    assert ratio([Point("a", "normal", "y", 300, 0.1, 0.0)]) == math.inf


def test_a_family_in_which_the_original_fails_hides_no_other() -> None:
    ledger = Ledger()
    ledger.points.append(Point("a", "huge", "y", 300, 0.0, 1.0))
    ledger.points.append(Point("b", "normal", "y", 300, 0.02, 0.01))
    ledger.points.append(Point("c", "normal", "y", 300, 0.01, 0.01))
    ledger.points.append(Point("d", "normal", "y", 8, 0.09, 0.01))  # too few to say anything
    assert ledger.families == {"huge": 0, "normal": pytest.approx(math.sqrt(5 / 2))}
    assert ledger.worst.case == "b"
    assert ledger.verdict(Upstream(function=in_halves, source="s", at_most=1.0))
    assert not ledger.verdict(Upstream(function=in_halves, source="s", at_most=1.6))


def test_the_summary_has_a_line_for_each_check_that_measured() -> None:
    figures = {
        "of_upstream_error": {"normal": 0.52, "huge": 0.1},
        "worst_of_upstream_error": 0.6,
        "worst_of_upstream": CASE.id,
    }
    one = Record(
        kernel="k.cuda",
        arch="sm90",
        layer="numeric",
        check="c",
        verdict="passed",
        outcome="passed",
        evidence="device",
        figures=figures,
    )
    (line,) = accuracies([one, Record(**(vars(one) | {"figures": {}}))])
    assert line == (
        "rms error of k.cuda on sm90, c: at most 0.52 x the original's, over values=normal; "
        f"worst case 0.6 x, {CASE.id}"
    )
