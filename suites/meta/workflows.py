"""What is wrong with a CI workflow, in words: rights, pins, limits, commands that do not exist."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

import harness
import harness.__main__ as harness_cli
import harness.gate.__main__ as gate_cli

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

ROOT: Final = Path(harness.__file__).parents[1]
PARSERS: Final[dict[str, Callable[[], argparse.ArgumentParser]]] = {
    "harness": harness_cli.parser,
    "harness.gate": gate_cli._parser,  # noqa: SLF001 - its options are asked for, not its verdict
}
_PINNED: Final = re.compile(r"uses:\s+\S+@[0-9a-f]{40}\s+# v\d+\.\d+\.\d+$")
_FOREIGN: Final = ("pull_request", "pull_request_target", "issue_comment", "workflow_run")
_ENDS: Final = ("&&", "||", ";", "|", ">", ">>")


def problems(text: str) -> list[str]:
    """What is wrong with a workflow of GitHub Actions."""
    found = yaml.safe_load(text)
    triggers = found.get("on", found.get(True))  # YAML 1.1 reads `on` as a truth value
    wrong = list(_pins(text))
    if found.get("permissions") != {}:
        wrong.append("permissions of the workflow are not {}: each job asks for its own")
    if "concurrency" not in found:
        wrong.append("no concurrency group")
    for name, job in found["jobs"].items():
        wrong += [f"{name}: {words}" for words in _of_job(job, triggers)]
    wrong += _archs(found["jobs"])
    return wrong


def _pins(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if "uses:" in line and not _PINNED.search(line):
            yield f"{line.strip()!r} is not pinned to a full SHA with its version as a comment"


def _of_job(job: dict[str, Any], triggers: dict[str, object]) -> Iterator[str]:
    if "timeout-minutes" not in job:
        yield "no timeout-minutes"
    if any(access == "write" for access in job.get("permissions", {"all": "write"}).values()):
        yield "may write, or names no permissions"
    foreign = [each for each in _FOREIGN if each in triggers]
    if "self-hosted" in job["runs-on"] and foreign:
        yield f"runs on a machine of ours what {foreign[0]} brings, a stranger's code"
    for step in job["steps"]:
        if "checkout@" in step.get("uses", "") and step["with"]["persist-credentials"]:
            yield "checkout leaves its token behind"
        if "${{" in step.get("run", ""):
            yield "an expression stands in a script; hand it over by env"
        yield from wrong_commands(step.get("run", ""))


def _archs(jobs: dict[str, Any]) -> Iterator[str]:
    """A gate of some archs asks for those of the matrix, or a lane is made for nothing."""
    made = set(jobs.get("gpu", {}).get("strategy", {}).get("matrix", {}).get("arch", ()))
    script = "\n".join(step.get("run", "") for step in jobs.get("gate", {}).get("steps", ()))
    asked = set(re.findall(r"--arch (\S+)", script))
    if asked and made != asked:
        yield f"the gate asks for {sorted(asked)}, the matrix makes {sorted(made)}"


def wrong_commands(script: str) -> Iterator[str]:
    """Our commands of a shell script that would not start: unknown sessions, options, files."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        for command in _commands(words):
            if words_of := _wrong(command):
                yield f"{shlex.join(command)!r}: {words_of}"


def _commands(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _ENDS:
            command.append(word)
            continue
        if command:
            yield command
        command = []


def _wrong(command: list[str]) -> str:
    if "nox" in command and "install" not in command:
        asked = [b for a, b in itertools.pairwise(command) if a in {"-s", "--session"}]
        if missing := [session for session in asked if session not in sessions()]:
            return f"no session {missing[0]!r} in noxfile.py"
    if command[0] == "bash" and not (ROOT / command[1]).is_file():
        return f"no file {command[1]!r}"
    if "-m" in command and (module := command[command.index("-m") + 1]) in PARSERS:
        return _refused(PARSERS[module](), command[command.index("-m") + 2 :])
    return ""


def sessions() -> set[str]:
    """The sessions of noxfile.py."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    marked = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.decorator_list)
    return {node.name for node in marked}


def _refused(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """What a command line says of its options, which are parsed and not obeyed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, rest = parser.parse_known_args(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    if rest and not getattr(options, "takes_sizes", False):
        return f"unrecognized arguments: {' '.join(rest)}"
    return ""
