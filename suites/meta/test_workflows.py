"""The CI workflows ask for few rights, run pinned actions, and name commands that exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from suites.meta.workflows import ROOT, problems, wrong_commands

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GATE: Final = (ROOT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8")
DOCUMENTS: Final = ("authoring.md", "ci-templates.md")

FAULTS: Final = {
    "unpinned": (r"@df4cb1c\w+ # v[\d.]+", "@v6", "is not pinned to a full SHA"),
    "no version": (r" # v6.0.3", "", "is not pinned to a full SHA"),
    "all rights": (r"permissions: \{\}", "permissions: write-all", "of the workflow are not {}"),
    "may write": (r"contents: read", "contents: write", "cpu: may write"),
    "no limit": (r"timeout-minutes: 90", "name: x", "gpu: no timeout-minutes"),
    "strangers": (r"  workflow_dispatch:", "  pull_request:", "a stranger's code"),
    "token": (r"persist-credentials: false", "persist-credentials: true", "leaves its token"),
    "injection": (r'-m "\$ARCH"', "-m ${{ matrix.arch }}", "stands in a script"),
    "session": (r"nox -s parity", "nox -s praity", "no session 'praity' in noxfile.py"),
    "option": (r"--records build/records --", "--record=x build/records --", "arguments"),
    "lost arch": (r"(harness\.gate) ", r"\1 --arch sm80 ", "the matrix makes ['sm90']"),
    "no group": (r"(?m)^concurrency:", "defaults:", "no concurrency group"),
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_right(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("old", "new", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_workflow_is_told(old: str, new: str, words: str) -> None:
    changed, count = re.subn(old, new, GATE)
    assert count, "the fault is not planted"
    assert any(words in each for each in problems(changed)), problems(changed)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_of_the_documents_parse(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    commands = [line.strip() for line in text.splitlines() if re.match(r"\s*(- |\$ )?python", line)]
    assert commands, "no command was found"
    wrong = [words for line in commands for words in wrong_commands(line.removeprefix("- "))]
    assert wrong == []


def test_examples_of_other_systems_are_yaml_with_these_jobs() -> None:
    text = (ROOT / "docs" / "ci-templates.md").read_text(encoding="utf-8")
    gitlab, buildkite = map(yaml.safe_load, re.findall(r"(?s)```yaml\n(.*?)```", text))
    assert set(gitlab) == {"stages", "default", ".records", "cpu", "gpu", "gate"}
    assert [step.get("key", step["label"]) for step in buildkite["steps"]] == ["cpu", "gpu", "gate"]


def test_a_wrong_command_of_a_document_is_told() -> None:
    assert list(wrong_commands("python -m harness chekc rms_norm.triton --m 8"))
    assert list(wrong_commands("python -m nox -s gaet -- --arch sm90"))
