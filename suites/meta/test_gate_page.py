"""The page of a gate in a real browser: by mouse, keyboard and address, on a phone, in the dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from harness.gate.reports import html
from suites.meta.browser import Page, browser
from suites.meta.gate_samples import EVIL, large, small

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.browser

CELL: Final = "#cell=norm.triton/sm90/numeric"
OPEN: Final = "document.getElementById('cell').open"
SHOWN: Final = "document.getElementById('shown').textContent"
LINKS: Final = """[...document.querySelectorAll('.matrix td > a')]
    .filter((link) => link.checkVisibility({ visibilityProperty: true }))
    .map((link) => decodeURIComponent(link.hash.slice(6)))"""
# The luminance of a text's colour against that of the nearest ground behind it, as WCAG has it;
# a canvas turns any notation of a colour into bytes.
CONTRASTS: Final = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const bytes = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (colour) => {
    const [r, g, b] = [...bytes(colour)].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (bytes(colour)[3] === 255) return colour;
    }
    return 'white';
  };
  const worst = {};
  for (const node of document.querySelectorAll('body *')) {
    const text = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!text || !node.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(colour), luminance(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst[`${node.tagName} ${node.textContent.slice(0, 30)}`] = ratio;
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.render(*small()), encoding="utf-8")
    return path


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """A window as it is on a desk; in the end it must not have complained, or left the page."""
    window.resize(1280, 900)
    window.prefer(prefers_color_scheme="light")
    window.complaints.clear()
    yield window
    assert window.complaints == []
    assert all(asked.startswith(("file:", "data:")) for asked in window.requests)
    assert len([asked for asked in window.requests if asked.startswith("file:")]) == 1


def key(place: str) -> str:
    """The key of the cell that has the focus, or whatever else has it."""
    focused = "document.activeElement"
    return f"decodeURIComponent({focused}.hash?.slice(6) ?? {focused}.id) === {place!r}"


def test_filters_filter_and_stand_in_the_address(page: Page, report: Path) -> None:
    page.open(report)
    assert page.ask(SHOWN) == "21 cells of 5 lines are shown."
    page.ask(
        "document.querySelector('[name=status]').value = 'red';"
        "document.querySelector('[name=status]').dispatchEvent(new Event('input', {bubbles: true}))"
    )
    page.until("location.hash === '#status=red'")
    assert page.ask(LINKS) == [
        "norm.triton/sm90/numeric",
        "silu.triton/sm100/numeric",
        "silu.triton/sm100/boundary",
    ]
    page.ask("document.querySelector('[name=kernel]').focus()")
    page.type("SILU")
    page.until("location.hash.includes('kernel=SILU')")
    assert len(page.ask(LINKS)) == 2
    page.ask("document.querySelector('[type=reset]').click()")
    page.until("location.hash === ''")
    assert len(page.ask(LINKS)) == 21


@pytest.mark.parametrize(
    ("fragment", "cells"),
    [
        ("#kernel=silu&arch=sm90", 6),
        ("#layer=compile", 4),
        ("#status=not_asked_for", 1),
        ("#evidence=compiled", 4),
        ("#status=excused", 1),
        ("#kernel=nothing", 0),
    ],
)
def test_a_filter_can_be_shared(page: Page, report: Path, fragment: str, cells: int) -> None:
    page.open(report, fragment)
    assert len(page.ask(LINKS)) == cells


def test_the_keyboard_goes_through_the_matrix_and_opens_a_cell(page: Page, report: Path) -> None:
    page.open(report)
    page.ask("document.querySelector('[type=reset]').focus()")
    page.press("Tab")
    page.until(key("norm.triton/cpu/import_safety"))
    for pressed, place in (
        ("ArrowRight", "norm.triton/cpu/fake_shape"),
        ("ArrowDown", "norm.triton/sm90/fake_shape"),
        ("ArrowDown", "silu.triton/sm90/fake_shape"),
        ("End", "silu.triton/sm90/boundary"),
        ("ArrowDown", "silu.triton/sm100/boundary"),
        ("ArrowLeft", "silu.triton/sm100/numeric"),  # what is not claimed is passed over
        ("ArrowUp", "silu.triton/sm90/numeric"),
    ):
        page.press(pressed)
        assert page.ask(key(place)), (pressed, place)
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.until(OPEN)
    assert page.ask("document.activeElement.textContent") == "silu.triton on sm90, numeric"
    page.press("Escape")
    page.until(f"!{OPEN}")
    page.until(f"location.hash === '' && {key('silu.triton/sm90/numeric')}")


def test_an_address_opens_a_cell_with_all_that_is_behind_it(page: Page, report: Path) -> None:
    page.open(report, CELL)
    page.until(OPEN)
    text = page.ask("document.getElementById('cell').innerText")
    for words in (
        "norm.triton on sm90, numeric",
        "gating, and not shown to be right",
        "28 of 6720 elements wrong",
        "pytest suites/numeric/test_numeric.py -m sm90 --case norm.triton/",
        "in columns 64 to 95",
        "Worst error of each of 96 cases, in units of the budget; 28 beyond it",
        "triton:kernels.norm.triton.norm",
        "NVIDIA H200",
        "580.159.04",
        "worse beyond chance",
    ):
        assert words in text
    pictures = (
        "[...document.querySelectorAll('#cell svg')].map((s) => s.querySelectorAll('*').length)"
    )
    assert all(count > 10 for count in page.ask(pictures))
    assert len(page.ask(pictures)) == 4  # a map, a histogram for each of two checks, a drift
    page.ask("document.getElementById('close').click()")
    page.until(f"!{OPEN} && location.hash === ''")


def test_the_way_back_closes_a_cell_and_keeps_the_filter(page: Page, report: Path) -> None:
    page.open(report, "#status=red")
    page.ask(f"document.querySelector('.matrix a[href=\"{CELL}\"]').click()")
    page.until(OPEN)
    assert page.ask("location.hash") == "#status=red&cell=norm.triton/sm90/numeric"
    page.ask("history.back()")
    page.until(f"!{OPEN}")
    assert page.ask("location.hash") == "#status=red"
    page.ask("history.forward()")
    page.until(OPEN)
    assert len(page.ask(LINKS)) == 3


def test_an_address_of_nothing_says_so(page: Page, report: Path) -> None:
    page.open(report, "#cell=gone/sm90/numeric")
    page.until(OPEN)
    assert "No such cell" in page.ask("document.getElementById('cell').innerText")


def test_what_is_wrong_with_a_page_is_seen(window: Page, report: Path) -> None:
    window.resize(320, 700, touch=True)
    window.prefer(prefers_color_scheme="light")
    window.open(report)
    window.ask("document.querySelector('footer p').style.color = '#909090'")
    assert [*window.ask(CONTRASTS)] == ["P Made by kernel-parity 0.1.0 fr"]
    window.ask("document.querySelector('footer p').style.width = '400px'")
    assert window.ask("document.documentElement.scrollWidth") > 320
    window.ask("document.body.append(Object.assign(new Image(), { src: 'https://example.org/x' }))")
    window.ask("console.error('seen')")
    window.until("true")
    assert any("Content Security Policy" in words for words in window.complaints)
    assert any("seen" in words for words in window.complaints)
    window.complaints.clear()


@pytest.mark.parametrize("width", [320, 390, 768])
@pytest.mark.parametrize("fragment", ["", CELL], ids=["page", "cell"])
def test_nothing_is_wider_than_a_phone(page: Page, report: Path, width: int, fragment: str) -> None:
    page.resize(width, 700, touch=True)
    page.open(report, fragment)
    assert page.ask("document.documentElement.scrollWidth") <= width
    dialog = "document.getElementById('cell')"
    assert page.ask(f"{dialog}.scrollWidth <= {dialog}.clientWidth")
    links = "[...document.querySelectorAll('.matrix td > a')].map((a) => a.getBoundingClientRect())"
    assert page.ask(f"{links}.every((box) => box.left >= 0 && box.right <= innerWidth)")
    if width < 768:
        assert page.ask(f"{links}.every((box) => box.height >= 24)")


@pytest.mark.parametrize("fragment", ["", CELL], ids=["page", "cell"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    page: Page, report: Path, scheme: str, fragment: str
) -> None:
    page.prefer(prefers_color_scheme=scheme)
    page.open(report, fragment)
    page.ask("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.ask(CONTRASTS) == {}


def test_colours_can_be_switched_and_stay(page: Page, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.open(report)
    light = page.ask(ground)
    page.ask(
        "document.getElementById('theme').value = 'dark';"
        "document.getElementById('theme').dispatchEvent(new Event('change'))"
    )
    assert page.ask(ground) != light
    page.open(report)
    assert page.ask(ground) != light
    page.ask("localStorage.clear()")


def test_motion_is_for_those_who_want_it(page: Page, report: Path) -> None:
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    page.prefer(prefers_reduced_motion="reduce")
    page.open(report)
    assert page.ask(behaviour) == "auto"


def test_without_scripts_the_essentials_are_there(page: Page, report: Path) -> None:
    page.allow_scripts(allowed=False)
    try:
        page.open(report, CELL)
    finally:
        page.allow_scripts(allowed=True)
    text = page.ask("document.body.innerText")
    for words in ("RED: 4 findings", "28 of 6720 elements wrong", "✗ skipped", "NVIDIA H200"):
        assert words in text
    assert not page.ask("document.getElementById('filters').checkVisibility()")
    target = "document.querySelector(':target')"
    assert page.ask(f"{target}.textContent") == "norm.triton on sm90, numeric, float16"


def test_no_script_of_a_record_runs(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(html.render(*small(EVIL)), encoding="utf-8")
    page.open(path)
    keys = page.ask(LINKS)
    assert any("onerror" in each for each in keys)
    for place in range(len(keys)):
        page.ask(f"document.querySelectorAll('.matrix td > a')[{place}].click()")
        page.until(OPEN)
        assert page.ask("document.querySelectorAll('main img, #cell img').length") == 0
        page.ask("document.getElementById('close').click()")
        page.until(f"!{OPEN} && location.hash === ''")


def test_a_page_of_many_records_opens(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(html.render(*large(12_000)), encoding="utf-8")
    page.open(path, "#status=red")
    assert page.ask(SHOWN) == "240 cells of 240 lines are shown."
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert page.ask(timing) < 20_000  # milliseconds, on a machine that is busy with other tests
