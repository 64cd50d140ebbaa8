"""What leaks from one row into another is found by spoiling a row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from harness import kernel, layers, op, registry, size, tensor
from harness.case import parse
from harness.judge import ParityFailure
from harness.neighbours import LEAST, check_case, widened
from suites.meta.scaling import check_of, computed, declared, failure_of, launch, right

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
keeps_apart = layers.keeps_neighbours_apart
CASE = (
    "scaled.cuda/m={m},n=4,dtype=float32,sign=plus,values=normal,"
    "layout={layout},config=default,seed=1"
)


def masks_by_zero(x: Tensor, **rest: object) -> Tensor:
    """Rows of a tile that are not this one's are multiplied by zero instead of left out."""
    y = right(x, **rest)  # type: ignore[arg-type]
    return y + 0 * x.sum(0, keepdim=True)


def scales_by_the_whole(x: Tensor, **rest: object) -> Tensor:
    """A shared scale: right up to rounding, and no NaN gets through."""
    launch()
    top = 3 * x.float().nan_to_num(0.0).abs().amax() if x.numel() else torch.ones(())
    scale = float(top.clamp(1e-30, 1e30))
    return (computed(x.float() / scale, **(rest | {"bias": None})) * scale).to(x.dtype)  # type: ignore[arg-type]


def stops_at_nan(x: Tensor, **rest: object) -> Tensor:
    if bool(x.isnan().any()):
        msg = "x has a NaN"
        raise ValueError(msg)
    return right(x, **rest)  # type: ignore[arg-type]


FAULTS = {
    "mask by zero": (masks_by_zero, r"y: with NaN at m=\d+ of \d+, other indices change: exact: "),
    "shared scale": (scales_by_the_whole, r"y: with huge at m=\d+ of \d+, other indices change"),
    "error": (stops_at_nan, r"with NaN at m=\d+ of \d+: raised ValueError before launch: x has a "),
}


@pytest.mark.parametrize(("function", "says"), FAULTS.values(), ids=FAULTS)
def test_a_leak_is_found_and_reproduced_by_its_id(
    function: Callable[..., Tensor], says: str
) -> None:
    words = failure_of(keeps_apart, function)
    assert re.search(says, words), words
    assert "/neighbour\n" in words


def test_a_sound_kernel_passes() -> None:
    with declared(right):
        check = check_of()
        keeps_apart(check)
    assert check.counts["cases"] >= 4


@pytest.mark.parametrize("layout", ["contiguous", "rows", "offset", "transposed"])
def test_only_the_row_is_spoiled_and_its_layout_is_kept(layout: str) -> None:
    seen: list[Tensor] = []

    def run(x: Tensor, **rest: object) -> Tensor:
        seen.append(x)
        return right(x, **rest)  # type: ignore[arg-type]

    with declared(run):
        check, case = check_of(), parse(CASE.format(m=5, layout=layout))
        assert check_case(check.op, check.kernel, case, CPU) == ()
    first, nan, huge = seen
    (index,) = torch.nonzero(nan.isnan().any(1)).flatten().tolist()
    assert nan[index].isnan().all()
    for spoiled in (nan, huge):
        assert spoiled.stride() == first.stride()
        assert spoiled.storage_offset() == first.storage_offset()
        assert torch.equal(spoiled.ne(first).any(1).nonzero().flatten(), torch.tensor([index]))


def test_a_short_axis_is_made_long_enough_and_rows_get_memory_of_their_own() -> None:
    with declared(right):
        check = check_of()
        case = widened(check.op, parse(CASE.format(m=0, layout="expanded")))
        assert (case.size_of["m"], case.layout) == (LEAST, "contiguous")
        assert widened(check.op, case) == case


def test_codes_are_spoiled_and_indices_are_not() -> None:
    """Byte 0xFF and 0x77 in every code of the row; an index must stay within its table."""
    seen: list[tuple[Tensor, Tensor]] = []

    def shifted(codes: Tensor, places: Tensor) -> Tensor:
        return codes.long() + places[:, None]

    def run(codes: Tensor, places: Tensor) -> Tensor:
        launch()
        seen.append((codes, places))
        leaked = codes[:1] // 0x77 if len(codes) else 0
        return codes.long() + places[:, None] + leaked

    with registry.scratch():
        op(
            inputs={
                "codes": tensor("m n", dtype="uint8", role="code"),
                "places": tensor("m", dtype="int64"),
            },
            outputs={"y": "m n"},
            domain={"m": size(0, 8), "n": size(1, 8)},
            dtypes=("int64",),
            independent=("m",),
        )(shifted)
        kernel("shifted", backend="cuda", arch="sm90")(run)
        with pytest.raises(ParityFailure, match="other indices change"):
            keeps_apart(check_of("shifted.cuda", dtype="int64"))
    first, nan, huge = seen[:3]
    assert int(nan[0].max()) == 0xFF
    for codes, places in (nan, huge):
        assert torch.equal(places, first[1])
        assert int((codes != first[0]).any(1).sum()) <= 1
