"""A picture shows every wrong element, is whole or not there, and comes with the failure."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from harness.budget import Budget
from harness.picture import Panel, panel
from harness.reference import Truth
from suites.meta.users_project import (
    BAD,
    GOOD,
    NUMERIC,
    RECORDS,
    Project,
    failure,
    ran,
    refusal,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

pytest_plugins = ("pytester",)

CASE = "toy.triton/m=4,n=4,dtype=float16,values=normal,layout=contiguous,config=default,seed=1"


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """What draws is imported for good, before ``pytester`` is there, which forgets later ones."""
    import harness.drawing  # noqa: F401


def rounded(*shape: int, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Truth]:
    """A correct output, and the truth of it."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return values.to(dtype), Truth(values, values.abs(), Budget(dtype=dtype))


def codes(*shape: int) -> tuple[Tensor, Truth]:
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(7))
    values = values.to(torch.uint8)
    return values.clone(), Truth(values, values.double(), None, oracle="exact")


def drawn(path: Path, *panels: Panel) -> NDArray[np.float64]:
    from matplotlib import image

    from harness.drawing import write

    write(path, "toy.triton on cpu, numeric, float16", CASE, panels)
    pixels: NDArray[np.float64] = image.imread(path)[:, :, :3]
    return pixels


def is_wrong(pixels: NDArray[np.float64]) -> int:
    """How many pixels have a colour of what is wrong: orange to dark red."""
    red, green, blue = pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2]
    return int(((red - blue > 0.1) & (red - green > 0.1)).sum())


def is_ring(pixels: NDArray[np.float64]) -> int:
    return int((pixels[:, :, 2] - pixels[:, :, 0] > 0.4).sum())


@pytest.mark.parametrize(
    ("shape", "place"),
    [((8192, 600), (8191, 599)), ((700, 1024), (0, 0)), ((3, 2000, 40), (1, 1999, 39))],
)
def test_one_wrong_element_stays_the_largest_of_its_tile(
    shape: tuple[int, ...], place: tuple[int, ...]
) -> None:
    actual, truth = rounded(*shape)
    assert truth.budget is not None
    allowed = truth.budget.allowed(truth.expected, truth.scale)[place]
    actual[place] = truth.expected[place] + 4 * allowed  # a mean would hide it
    found = panel("y", actual, truth, "")
    assert found.units.shape[0] <= 512
    assert found.units.shape[1] <= 512
    wrong = torch.nonzero(found.units > found.limit).tolist()
    row = int(np.ravel_multi_index(place[:-1], shape[:-1]))
    assert wrong == [[row // found.tile[0], place[-1] // found.tile[1]]]


def test_a_place_where_nan_differs_is_infinitely_wrong() -> None:
    actual, truth = rounded(4, 4)
    actual[1, 2] = math.nan
    assert panel("y", actual, truth, "").units[1, 2] == math.inf


def test_any_difference_of_an_exact_output_is_wrong() -> None:
    actual, truth = codes(4, 4)
    actual[1, 2] ^= 1
    found = panel("y", actual, truth, "")
    assert torch.nonzero(found.units > found.limit).tolist() == [[1, 2]]
    zeros = torch.zeros(2, 2, dtype=torch.float16)
    signed = panel("y", -zeros, Truth(zeros, zeros, None, oracle="exact"), "")
    assert bool((signed.units > signed.limit).all())


@pytest.mark.parametrize("top", [2.0, 30.0, 215.0, 1e5])
def test_what_is_right_has_no_colour_of_what_is_wrong(top: float, tmp_path: Path) -> None:
    def reddish(share: float) -> int:
        units = torch.full((300, 300), share, dtype=torch.float64)
        units[0, 0] = top  # decides how many steps of the palette lie below the limit
        found = Panel("y", (300, 300), units, (1, 1), exact=False, where="")
        return is_wrong(drawn(tmp_path / "y.png", found))

    bar = reddish(0.5)  # the bar beside it has all colours
    assert all(abs(reddish(share) - bar) < 200 for share in (0.99, 0.999, 1.0))


def test_one_wrong_element_of_millions_is_ringed(tmp_path: Path) -> None:
    actual, truth = rounded(2048, 2048)
    right = drawn(tmp_path / "right.png", panel("y", actual, truth, ""))
    actual[500, 777] *= 2
    wrong = drawn(tmp_path / "wrong.png", panel("y", actual, truth, ""))
    assert is_ring(wrong) > is_ring(right) + 30


@pytest.mark.parametrize(
    "shape", [(), (1,), (8,), (5000,), (1, 8), (1, 5000), (5000, 1), (12, 16), (2, 900), (40000, 3)]
)
@pytest.mark.parametrize("kind", [rounded, codes], ids=["budget", "exact"])
def test_every_shape_is_drawn(kind: object, shape: tuple[int, ...], tmp_path: Path) -> None:
    actual, truth = kind(*shape)  # type: ignore[operator]
    actual.view(-1)[-1] = 77
    found = panel("y", actual, truth, "in the last element")
    assert drawn(tmp_path / "y.png", found, found).size
    assert [path.name for path in tmp_path.iterdir()] == ["y.png"]


def test_a_picture_leaves_no_trace_in_matplotlib(tmp_path: Path) -> None:
    from matplotlib import rcParams

    before = {name: rcParams[name] for name in rcParams if name != "backend"}
    drawn(tmp_path / "y.png", panel("y", *rounded(8, 8), ""))
    assert {name: rcParams[name] for name in before} == before
    assert "matplotlib.pyplot" not in sys.modules


def test_an_unwritable_place_leaves_no_half_picture(tmp_path: Path) -> None:
    from harness.drawing import write

    (tmp_path / "y.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "y.png", "", CASE, [panel("y", *rounded(8, 8), "")])
    assert [path.name for path in tmp_path.iterdir()] == ["y.png"]


def test_a_failure_names_its_picture_and_so_does_the_record(project: Project) -> None:
    result = project.run(*NUMERIC, BAD, RECORDS, "-k", "matches", "--error-images=pictures")
    assert ran(result) == {"failed": 2}
    folder = project.pytester.path / "pictures"
    names = [f"double.triton.tail-cpu-numeric-{d}.png" for d in ("float16", "float32")]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    said = [r.figures["picture"] for r in project.read()]
    assert sorted(map(str, said)) == [f"pictures/{name}" for name in names]
    for made in project.read():
        assert f"  picture    {made.figures['picture']}" in made.message.splitlines()


def test_what_passes_and_what_is_not_compared_has_no_picture(project: Project) -> None:
    raises = "--kernel=double.triton.raises"
    result = project.run(*NUMERIC, GOOD, raises, "-k", "matches", "--error-images=pictures")
    assert ran(result) == {"passed": 2, "failed": 2}
    assert "  picture  " not in str(result.stdout)
    assert not list(project.pytester.path.glob("pictures/*"))


def test_a_run_without_the_option_has_no_picture(project: Project) -> None:
    result = project.run(*NUMERIC, BAD, "-k", "matches and float32", RECORDS)
    assert not any("picture" in line for line in failure(result))
    assert "picture" not in project.read()[0].figures


def test_a_picture_that_cannot_be_drawn_does_not_hide_the_failure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import drawing

    def broken(*_: object) -> None:
        msg = "the disk is full"
        raise OSError(msg)

    monkeypatch.setattr(drawing, "write", broken)
    result = project.run(*NUMERIC, BAD, "-k", "matches and float32", "--error-images=pictures")
    report = failure(result)
    assert "  picture    none: OSError: the disk is full" in report
    assert re.search(r"1 of 8 elements wrong; worst at \[0, 7\]", "\n".join(report))


def test_without_matplotlib_the_option_says_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refusal(project.run(*NUMERIC, BAD, "--error-images=pictures"))
    assert "needs matplotlib, which is not installed; python -m pip install" in said
    assert "'kernel-parity[picture]'" in said


def test_a_file_is_no_folder_for_pictures(project: Project) -> None:
    said = refusal(project.run(*NUMERIC, BAD, "--error-images=toys.py"))
    assert "--error-images='toys.py' is a file; name a folder" in said
