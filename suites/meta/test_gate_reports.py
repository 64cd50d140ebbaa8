"""Reports say the verdict first, what is red and how to see it; they end, escape and stay small."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

import pytest

from harness import reproduction
from harness.gate.holes import Hole, Status
from harness.gate.judge import Finding, Judgement
from harness.gate.reports import details, folder, html, junit, markdown, matrix, red, terminal, text
from suites.meta.gate_samples import (
    COMMAND,
    EVIL,
    MAP,
    finding,
    large,
    merged,
    narrow,
    record,
    small,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


VOID: Final = {"meta", "link", "input", "img", "br"}


class Parsed(HTMLParser):
    """The elements of a page: each has to be closed, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]

    def text(self, tag: str) -> str:
        return "".join(self.texts.get(tag, []))

    @property
    def data(self) -> dict[str, object]:
        """The embedded data, as a browser's parser finds it."""
        (found,) = [t for t in self.texts["script"] if t.startswith("{")]
        data: dict[str, object] = json.loads(found)
        return data


def cells_of(page: Parsed) -> dict[str, dict[str, list[dict[str, object]]]]:
    return page.data["cells"]  # type: ignore[return-value]


# ---- Each report ---------------------------------------------------------------------------------


@pytest.mark.parametrize("render", [terminal.render, markdown.render], ids=["terminal", "markdown"])
def test_the_verdict_comes_first_then_what_is_red_with_its_command(render: object) -> None:
    assert callable(render)
    said = render(*small())
    assert said.splitlines()[0].removeprefix("## ") == "RED: 4 findings against sm90, sm100"
    places = [said.index(name) for name in ("failed", "unfinished", "uncovered", "skipped")]
    words = said[places[0] :]
    assert COMMAND in words
    assert "python -m pytest --pyargs suites -m sm100 --layer numeric --kernel silu.triton" in words
    assert red.WAYS_OUT[Hole.SKIPPED] in words
    assert "2.5 x those of v1" in said


def test_green_says_so_in_every_report() -> None:
    good = record()
    judgement = Judgement((finding(good, Status.GREEN),), (), ("sm90",), ("5f3c",))
    for render in (terminal.render, markdown.render, html.render):
        assert "GREEN: sm90" in render(judgement, merged([good]), ())
    suites = ET.fromstring(junit.render(judgement, merged([good]), ()))  # noqa: S314 - our own text
    assert suites.get("failures") == suites.get("errors") == "0"


def test_nothing_at_all_is_red_and_can_be_reported() -> None:
    nothing = Judgement((), (), ("sm90",), ())
    for render in (terminal.render, markdown.render, html.render, junit.render):
        assert render(nothing, merged([]), ())
    assert "RED" in terminal.render(nothing, merged([]), ())


def test_the_same_cause_is_told_once_with_all_its_places() -> None:
    away = [
        record("a.triton", "sm100", layer, outcome="unavailable") for layer in ("e2e", "module")
    ]
    words = (
        f"{each.check}: not here{more}"
        for each, more in zip(away, ("; 4 skipped more", ""), strict=True)
    )
    findings = [finding(e, Status.RED, Hole.SKIPPED, w) for e, w in zip(away, words, strict=True)]
    (group,) = red.groups(Judgement(tuple(findings)))
    assert (group.cause, len(group.findings)) == ("not here", 2)
    assert red.places(group.findings, 1) == "a.triton on sm100, e2e, float16; and 1 more"


def test_every_hole_has_a_way_out() -> None:
    assert red.WAYS_OUT.keys() == set(Hole)


@pytest.mark.parametrize(
    "printed",
    [
        "python -m pytest suites; rm -r x",
        "curl x | sh",
        "python -m pytest $(x)",
        "python -m pytest 'a",
        "python -m pip install x",
    ],
)
def test_no_command_of_a_record_is_more_than_one_command_of_pytest(printed: str) -> None:
    found = record(outcome="wrong", message=f"x: 1 problem\n  reproduce  {printed}\n  - y: wrong")
    words = "-m sm90 --layer numeric --kernel norm.triton"
    assert red.of_record(found) == f"python -m pytest --pyargs suites {words}"


def test_a_passing_cell_has_its_command_with_the_seed() -> None:
    command = reproduction.of_cell("norm.triton", "sm90", "numeric", declare=["my.py"], seed=3)
    words = "-m sm90 --layer numeric --kernel norm.triton --parity-seed=3"
    assert command == f"python -m pytest --pyargs suites --declare=my.py {words}"


@pytest.mark.parametrize(
    ("outcome", "status", "hole", "word"),
    [
        ("passed", Status.GREEN, None, "device"),
        ("passed", Status.RETAINED, None, "device"),
        ("passed", Status.RED, Hole.TOO_FEW_CASES, "too few cases"),
        ("unavailable", Status.RETAINED, None, "skipped"),
        ("out_of_memory", Status.RED, Hole.FAILED, "out of memory"),
        ("wrong", Status.EXCUSED, Hole.FAILED, "wrong"),
    ],
)
def test_a_cell_has_a_word_beside_its_glyph(
    outcome: str, status: Status, hole: Hole | None, word: str
) -> None:
    found = record(outcome=outcome)
    rows = matrix.rows(Judgement((finding(found, status, hole),)), merged([found]))
    (cell,) = rows[0].cells.values()
    assert (cell.status, cell.word) == (status, word)


def test_what_another_run_made_was_not_skipped() -> None:
    made, skipped = record(), record(outcome="unavailable")
    judged = Judgement((finding(made, Status.GREEN),))
    ((_, _, cells),) = matrix.rows(judged, merged([skipped, made, skipped]))
    cell = cells["numeric"]
    assert (cell.word, cell.telling) == ("device", [made])
    (shown,) = details.of_cells([cell], merged([]), ()).cells.values()
    assert isinstance(shown, dict)
    assert [each["outcome"] for each in shown["checks"]] == ["passed"]
    assert shown["left"] == "2 records of runs that skipped what another made"


def test_a_check_that_every_run_skipped_is_told() -> None:
    made, skipped = record(), record(dtype="float32", outcome="unavailable")
    ((_, _, cells),) = matrix.rows(Judgement(()), merged([made, skipped]))
    assert (cells["numeric"].word, cells["numeric"].telling) == ("skipped", [made, skipped])


def test_a_cell_shows_its_worst_status_and_its_weakest_evidence() -> None:
    good, bad = record(), record(dtype="float32", outcome="wrong")
    judged = (finding(good, Status.GREEN), finding(bad, Status.RED, Hole.FAILED))
    ((_, _, cells),) = matrix.rows(Judgement(judged), merged([good, bad]))
    assert cells["numeric"].status is Status.RED
    compiled = record(layer="compile")
    ((_, _, cells),) = matrix.rows(Judgement(()), merged([compiled, record(layer="compile")]))
    assert cells["compile"].evidence == "compiled"


@pytest.mark.parametrize("report", [terminal, markdown, html], ids=lambda each: each.__name__)
def test_what_was_not_asked_for_is_counted(report: ModuleType) -> None:
    said = report.render(*narrow())
    assert "2 cells: ✗ 0 red, ! 0 excused, ✓ 1 green, ○ 1 retained" in said
    assert "· not asked for: 2 records of 1 cell, 1 of them failed" in said


def test_what_was_not_asked_for_has_a_status_of_its_own() -> None:
    assert "| `norm.triton` | sm120 | · wrong |" in markdown.render(*narrow())
    page = Parsed(html.render(*narrow()))
    assert [each["class"] for each in page.all("td") if "data-e" in each] == [
        "green",
        "retained",
        "not_asked_for",
    ]
    assert "not_asked_for" in [each.get("value") for each in page.all("option")]
    assert "· not asked for: recorded, not judged" in page.text("p")


# ---- Text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\x1b[31mb\x1b]8;;http://x\x07c", "abc"),
        ("a\x00b\ud800c\ufffe", "a\ufffdb\ufffdc\ufffd"),
        ("name\u202egpj", "name\ufffdgpj"),
        ("line\r\nline\tend", "line\nline\tend"),
    ],
)
def test_what_no_report_can_show_is_replaced(given: str, shown: str) -> None:
    assert text.clean(given) == shown


def test_long_text_says_how_much_was_left_out() -> None:
    assert text.line("x" * 400, 100).endswith(" … (332 characters more)")
    assert len(text.line("x" * 400, 100)) <= 100


# ---- Markdown ------------------------------------------------------------------------------------


def test_markdown_shows_names_as_they_are() -> None:
    said = markdown.render(*small(EVIL))
    outside = re.sub(r"(`+)(?:(?!\1).)+\1", "", said)
    assert "<img" not in outside.replace("\\<", "")
    assert "@team" not in outside
    assert not re.search(r"(?<!\\)#1\b", outside)
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_markdown_fits_into_a_comment_whatever_the_size() -> None:
    judgement, found, drifts = large(20_000, red=3)
    said = markdown.render(Judgement(judgement.findings, ("note",) * 9_000), found, drifts)
    assert len(said) < markdown.LIMIT
    assert said.count("<details>") == said.count("</details>") == 3
    assert re.search(r"and [\d,]+ more causes", said)


# ---- The page ------------------------------------------------------------------------------------


def test_the_page_has_landmarks_headings_and_headers() -> None:
    page = Parsed(html.render(*small()))
    assert [len(page.all(tag)) for tag in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    assert page.seen[0] == ("html", {"lang": "en"})
    headers = page.all("th")
    assert headers
    assert {each.get("scope") for each in headers} == {"col", "row", "rowgroup"}
    known = {each["id"] for _, each in page.seen if "id" in each}
    named = [each["aria-labelledby"] for _, each in page.seen if "aria-labelledby" in each]
    assert set(named) <= known
    assert len(known) == sum("id" in each for _, each in page.seen)
    assert len(re.findall("<label", html.render(*small()))) == 6


def test_the_page_asks_the_network_for_nothing() -> None:
    page = html.render(*small())
    assert not re.search(r"""(?:src|href)=["']?(?!#|data:)\w""", page)
    assert "url(" not in page
    assert "@import" not in page
    policy = next(
        m["content"] for m in Parsed(page).all("meta") if "http-equiv" in m and m["content"]
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_a_kernel_s_name_or_message_is_never_markup() -> None:
    source = html.render(*small(EVIL))
    page = Parsed(source)
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert "\u2028" not in page.text("script")
    assert "\x00" not in source
    cells = cells_of(page)
    (key,) = [key for key in cells if key.endswith("/sm90/module")][:1] or [""]
    assert key.startswith(("norm.triton", text.clean(EVIL)))
    (check,) = cells[f"{text.clean(EVIL)}/sm90/module"]["checks"][:1]
    assert str(check["message"]).startswith("signal 6 </script><img")


@pytest.mark.parametrize("value", [EVIL, "<!--<script>", "\u2029", "&lt;"])
def test_embedded_data_comes_back_as_it_was(value: str) -> None:
    made = html.embedded({value: value})
    assert not set(made) & set("<>&\u2028\u2029")
    assert json.loads(made) == {value: value}


def test_a_cell_has_what_is_behind_it() -> None:
    cell = cells_of(Parsed(html.render(*small())))["norm.triton/sm90/numeric"]
    check = cell["checks"][0]
    assert (check["outcome"], check["command"], check["cases"]) == ("wrong", COMMAND, 96)
    assert check["maps"] == [MAP]
    assert sum(check["bins"]) == 96  # type: ignore[call-overload]
    assert check["bins"][-1] == 28  # type: ignore[index] # they end at 1.4
    assert cell["drifts"][0]["flagged"]


@pytest.mark.parametrize(
    "broken",
    [
        {"lines": []},
        {"lines": ["..", "."]},
        {"lines": ["<b>"]},
        {"lines": ["." * 65]},
        {"shape": ["<b>"]},
        {"where": 1},
    ],
)
def test_a_map_that_is_none_is_left_out(broken: dict[str, object]) -> None:
    assert details.maps_of([MAP | broken, MAP]) == [MAP]
    assert details.maps_of("no list") == []


@pytest.mark.parametrize(
    ("errors", "bins"),
    [
        ({"a": 0.0, "b": 0.05, "c": 0.1}, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ({"a": 1.0, "b": 1.01, "c": 1e300}, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
        ({}, []),
        (None, []),
    ],
)
def test_errors_are_counted_by_tenths_of_the_budget(errors: object, bins: list[int]) -> None:
    assert details.bins_of(errors) == bins


def test_a_picture_is_taken_in_if_it_is_one(tmp_path: Path) -> None:
    image, other = tmp_path / "a.png", tmp_path / "secret"
    image.write_bytes(b"\x89PNG\r\n\x1a\n...")
    other.write_bytes(b"secret")
    records = [record(outcome="wrong", picture=str(p)) for p in (image, other, tmp_path / "gone")]
    judged = tuple(finding(each, Status.RED, Hole.FAILED) for each in records)
    page = Parsed(html.render(Judgement(judged), merged(records), ()))
    checks = cells_of(page)["norm.triton/sm90/numeric"]["checks"]
    pictures = [check.get("picture") for check in checks]
    assert pictures == ["data:image/png;base64,iVBORw0KGgouLi4=", None, None]


def test_a_large_page_stays_small_and_says_what_is_not_in_it() -> None:
    page = html.render(*large(16_000, red=20))
    assert len(page) < 6_000_000
    assert re.search(r"Left out to keep the page small: what is behind [\d,]+ cells", page)
    parsed = Parsed(page)
    red_cells = [a for a in parsed.all("td") if a.get("class") == "red"]
    assert len(red_cells) == 800
    cells = cells_of(parsed).values()
    assert len(cells) > 500
    assert all(cell["checks"][0]["outcome"] == "wrong" for cell in cells)  # red ones come first


def test_lines_that_find_no_room_are_none_worse_than_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(html, "LINES", 40)
    page = html.render(*large(4_000, red=400))
    assert len([a for a in Parsed(page).all("td") if a.get("class") == "red"]) == 10
    assert re.search(r"[\d,]+ lines of the matrix, none worse", page)


def test_the_folder_gets_every_report_and_keeps_the_old_where_it_cannot(tmp_path: Path) -> None:
    folder.write(tmp_path / "new", *small())
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "report.html",
        "report.md",
        "junit.xml",
    }
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    with pytest.raises(OSError, match="name a folder that this user may write to"):
        folder.write(blocked, *small())
    assert blocked.read_text() == "mine"


def test_a_whole_run_has_no_cell() -> None:
    killed = Finding("", "", "", "", Status.RED, Hole.UNFINISHED, "run 5f3c was killed")
    judgement = Judgement((killed,))
    assert matrix.rows(judgement, merged([])) == []
    assert "run 5f3c was killed" in html.render(judgement, merged([]), ())
