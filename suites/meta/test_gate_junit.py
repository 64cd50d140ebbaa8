"""JUnit's file follows its rules, and fails for what gates and for nothing else."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from harness.gate.holes import Hole, Status
from harness.gate.judge import Judgement
from harness.gate.reports import junit, text
from suites.meta.gate_samples import EVIL, FAILURE, finding, merged, narrow, record, small

# The rules that Jenkins's and the windyroad schema of JUnit have in common, and pytest keeps.
CHILDREN: Final = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],
    "properties": ["property"],
    "property": [],
    "testcase": ["properties", "skipped", "error", "failure", "system-out"],
    "skipped": [],
    "error": [],
    "failure": [],
    "system-out": [],
}
REQUIRED: Final = {
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"name", "classname", "time"},
    "property": {"name", "value"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
}


def checked(document: str) -> ET.Element:
    """The document, after a look at its elements, attributes, order, counts and times."""
    root = ET.fromstring(document)  # noqa: S314 - our own text
    assert root.tag == "testsuites"
    for element in root.iter():
        order = [CHILDREN[element.tag].index(child.tag) for child in element]
        assert order == sorted(order), element.tag
        assert REQUIRED.get(element.tag, set()) <= set(element.keys())
        assert float(element.get("time", "0")) >= 0
    for suite in root:
        counts = Counter(child.tag for case in suite.iter("testcase") for child in case)
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name, "")) == counts[tag]
        assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)?", suite.get("timestamp", ""))
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(name, "")) == sum(int(suite.get(name, "")) for suite in root)
    return root


def test_junit_has_a_case_for_each_record_with_its_facts() -> None:
    root = checked(junit.render(*small()))
    (case,) = [c for c in root.iter("testcase") if c.find("failure[@type='wrong']") is not None]
    assert (case.get("classname"), case.get("name")) == (
        "norm.triton.sm90.numeric",
        "test_numeric[float16]",
    )
    assert {p.get("name"): p.get("value") for p in case.iter("property")} == {
        "evidence": "device",
        "outcome": "wrong",
        "cases": "96",
        "worst_in_budget": "0.5",
        "launched": "triton:kernels.norm.triton.norm",
        "source": "0123456789abcdef",
    }
    assert case.findtext("failure") == FAILURE


def test_junit_fails_for_what_gates_and_for_nothing_else() -> None:
    root = checked(junit.render(*small()))
    failed = [
        (case.get("classname"), case.get("name"))
        for case in root.iter("testcase")
        if {"failure", "error"} & {child.tag for child in case}
    ]
    assert failed == [
        ("norm.triton.sm90.numeric", "test_numeric[float16]"),
        ("gate.silu.triton.sm100.numeric", "skipped float16"),
        ("gate.silu.triton.sm100.boundary", "uncovered"),
        ("gate.run", "unfinished"),
    ]
    (excused,) = [s for s in root.iter("skipped") if "signal 6" in s.get("message", "")]
    assert excused.get("message", "").startswith("does not gate: ")


def results(document: str) -> dict[str, str]:
    """What is beside its properties in each test case: the element and its message."""
    return {
        f"{case.get('classname')} {case.get('name')}": "".join(
            f"{found.tag}: {found.get('message')}" for found in case if found.tag != "properties"
        )
        for case in checked(document).iter("testcase")
    }


@pytest.mark.parametrize("hole", [Hole.FAILED, Hole.EXPIRED])
def test_junit_takes_a_cell_s_dtypes_apart(hole: Hole) -> None:
    known = record(outcome="wrong", message="known")
    new = record(outcome="wrong", message="new", dtype="float32")
    judged = (finding(known, Status.EXCUSED, Hole.FAILED), finding(new, Status.RED, hole))
    assert results(junit.render(Judgement(judged), merged([known, new]), ())) == {
        "norm.triton.sm90.numeric test_numeric[float16]": "skipped: does not gate: known",
        "norm.triton.sm90.numeric test_numeric[float32]": "failure: new",
    }


def test_junit_tells_of_a_skip_whose_exception_expired() -> None:
    away = record(outcome="unavailable", message="not here")
    judged = (finding(away, Status.RED, Hole.EXPIRED, "expired on 2026-01-01"),)
    said = results(junit.render(Judgement(judged), merged([away]), ()))
    assert said["norm.triton.sm90.numeric test_numeric[float16]"] == "skipped: not here"
    assert said["gate.norm.triton.sm90.numeric expired float16"].startswith("failure: expired on ")


def test_junit_survives_any_text() -> None:
    root = checked(junit.render(*small(EVIL)))
    (case,) = [c for c in root.iter("testcase") if "uncovered" in c.get("name", "")]
    assert text.clean(EVIL) in case.get("classname", "")


def test_junit_skips_what_was_not_asked_for() -> None:
    said = results(junit.render(*narrow()))
    assert said["norm.triton.sm120.compile test_compile[float16]"] == "skipped: not asked for: "
    assert said["norm.triton.cpu.module test_module[float16]"] == "skipped: does not gate: "
