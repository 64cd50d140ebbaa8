"""The text of PTX as a program: instructions with guards and operands, and where labels are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Instruction:
    """One instruction: its guard, the words of its opcode, its operands, and as it was written."""

    guard: str
    words: tuple[str, ...]
    operands: tuple[str, ...]
    text: str

    @cached_property
    def method(self) -> str:
        """Of `Block`, if there is one for it alone."""
        opcode, *others = self.words
        count = {"ld": 1, "st": 1, "cp": 2}.get(opcode, 0)
        return "_".join(("", opcode, *others[:count]))

    @cached_property
    def goes_on(self) -> bool:
        """Whether the next one is the next for all threads."""
        return self.words[0] not in {"bra", "bar", "ret"}


@dataclass(frozen=True)
class Program:
    """A kernel: its parameters' names, the threads of a block, its code, and where labels are."""

    parameters: tuple[str, ...]
    threads: int
    code: tuple[Instruction, ...]
    labels: dict[str, int]


def parse(ptx: str) -> Program:
    """The only kernel of a PTX module."""
    text = re.sub(r"//[^\n]*", "", ptx)
    head, body = text[text.index(".entry") :].split("{", 1)
    body = re.sub(r"\.(?:reg|pragma)\b[^;]*;", "", body[: body.rindex("}")])
    body = re.sub(r"^[ \t]*[{}][ \t]*$", "", body, flags=re.MULTILINE)  # scopes
    bound = re.search(r"\.reqntid (\d+)", head)
    assert bound is not None, "a kernel of the DSL has a block"
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for label, statement in re.findall(r"(\$\w+):|((?:[^;:]|::)+);", body):
        if label:
            labels[label] = len(code)
            continue
        said = " ".join(statement.split())
        found = re.fullmatch(r"(?:@(!?%\w+) )?(\S+)(?: (.*))?", said)
        assert found is not None, said
        operands = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", found[3] or "")
        code.append(Instruction(found[1] or "", tuple(found[2].split(".")), tuple(operands), said))
    return Program(tuple(re.findall(r"(\w+_param_\d+)", head)), int(bound[1]), tuple(code), labels)


def registers_of(operand: str) -> list[str]:
    """The registers of ``{a, b}``, or the one that stands alone."""
    return operand.strip("{} ").replace(" ", "").split(",")
