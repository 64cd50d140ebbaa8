"""C++ source as tokens that know their place, patterns over them, and edits of nothing but code.

A pattern is C++ with holes. ``$a`` stands for one token, ``$$a`` for an expression (brackets match,
no comma or semicolon outside of them), ``$$$a`` for anything whose brackets match; a hole that
occurs twice stands for the same tokens. Comments, strings, preprocessor lines and static assertions
are no code: no pattern sees them, and no edit reaches over one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.power.syntax import FAMILIES, Edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.power.syntax import Rules, Span

    Found = Iterator[tuple[Span, str]]

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
    | (?P<directive>\#(?:\\\n|/\*.*?\*/|[^\n])*)
    | (?P<string>(?:u8|[uUL])?R"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"
                |(?:u8|[uUL])?"(?:\\.|[^"\\\n])*"
                |(?:u8|[uUL])?'(?:\\.|[^'\\\n])*')
    | (?P<hole>\${1,3}\w+)
    | (?P<number>\.?\d(?:[eEpP][-+]|'(?=\w)|[\w.])*)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>(?:<<=|>>=|\.\.\.|->\*|::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=)
              |[^"'\w\s])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}
_CLOSING: Final = frozenset(_OPENING.values())
_APART: Final = frozenset({"comment", "directive", "string"})


class Token(NamedTuple):
    """A piece of source; ``kind`` is a group of the pattern above."""

    kind: str
    text: str
    start: int
    end: int


def tokens(text: str, at: int = 0) -> Iterator[Token]:
    """The tokens of a text from a place on, comments among them.

    Raises SyntaxError where there can be none.
    """
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            line = text.count("\n", 0, at) + 1
            msg = f"line {line}: {text[at : at + 20]!r} begins no token of C++"
            raise SyntaxError(msg)
        if match.lastgroup != "space":
            yield Token(match.lastgroup, match[0], at, match.end())
        at = match.end()


def check(source: str, changed: str) -> None:
    """Raise SyntaxError unless ``changed`` has other code than ``source``, and nothing else.

    Its brackets match, and comments, strings and preprocessor lines are what they were.
    """
    if _is_other_code(_read(source), changed):
        return
    before, after = _read(source), Code(changed)
    if [each.text for each in before.words] == [each.text for each in after.words]:
        msg = "its tokens are those of the original"
        raise SyntaxError(msg)
    for one, other in zip(before.apart, after.apart, strict=False):
        if one.text != other.text:
            msg = f"{one.text!r} became {other.text!r}: comments, strings and directives stay"
            raise SyntaxError(msg)
    if len(before.apart) != len(after.apart):
        msg = f"{len(before.apart)} comments, strings and directives became {len(after.apart)}"
        raise SyntaxError(msg)


def _is_other_code(before: Code, changed: str) -> bool:
    """Whether that is plain from the tokens around the change: most of a text need not be read."""
    old, new = map(_kinds, _around(before, changed))
    return old.words != new.words and (old.apart, old.brackets) == (new.apart, new.brackets)


class _Kinds(NamedTuple):
    """Texts of tokens; of brackets those that have no partner among them."""

    words: list[str]
    apart: list[str]
    brackets: list[str]


def _kinds(found: Sequence[Token]) -> _Kinds:
    kinds = _Kinds([], [], [])
    for each in found:
        (kinds.apart if each.kind in _APART else kinds.words).append(each.text)
    for text in kinds.words:
        if kinds.brackets and _OPENING.get(kinds.brackets[-1]) == text:
            kinds.brackets.pop()
        elif text in _OPENING or text in _CLOSING:
            kinds.brackets.append(text)
    return kinds


def _around(before: Code, changed: str) -> tuple[Sequence[Token], Sequence[Token]]:
    """The tokens of either text from the last one before they differ until they agree again.

    What follows a place where both have a token and the same text is the same in both.
    """
    text, later = before.text, len(changed) - len(before.text)
    differs = _shared(text, changed)
    agrees = len(text) - _shared(text[:differs:-1], changed[:differs:-1])
    first = max(bisect_left(before.tokens, differs, key=lambda token: token.end) - 1, 0)
    found = list[Token]()
    for token in tokens(changed, before.tokens[first].start if before.tokens else 0):
        last = before.starts.get(token.start - later)
        if last is not None and token.start - later >= agrees:
            return before.tokens[first:last], found
        found.append(token)
    return before.tokens[first:], found


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with."""
    length = min(len(one), len(other))
    return bisect_left(range(length), 1, key=lambda at: one[: at + 1] != other[: at + 1])


@dataclass(frozen=True)
class Match:
    """Where a pattern was found, and the source text of its holes."""

    span: Span
    holes: Mapping[str, str]

    def fill(self, template: str) -> str:
        """``template`` with the text of every hole in its place."""
        return re.sub(r"\${1,3}\w+", lambda hole: self.holes[hole[0]], template)


class Code:
    """A source of C++; raises SyntaxError for one without matching brackets."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tuple(tokens(text))
        self.apart = tuple(each for each in self.tokens if each.kind in _APART)
        self.words = tuple(each for each in self.tokens if each.kind not in _APART)
        self._partners = _partners(self.words)
        self.looked_for = dict[str, int]()  # patterns, and how often each was found

    @cached_property
    def starts(self) -> Mapping[int, int]:
        """The numbers of the tokens, by where they begin."""
        return {token.start: number for number, token in enumerate(self.tokens)}

    @cached_property
    def _fixed(self) -> tuple[Span, ...]:
        """What no edit may overlap: all that is no code, and static assertions."""
        asserted = [
            (each.start, self.words[self._partners[index + 1]].end)
            for index, each in enumerate(self.words)
            if each.text == "static_assert"
        ]
        return (*((each.start, each.end) for each in self.apart), *asserted)

    @cached_property
    def _places(self) -> Mapping[str, Sequence[int]]:
        """The numbers of the words of code, by their text."""
        found = dict[str, list[int]]()
        for number, word in enumerate(self.words):
            found.setdefault(word.text, []).append(number)
        return found

    def like(self, pattern: str, after: str) -> Found:
        """Every place of a pattern, with what shall stand there."""
        return ((match.span, match.fill(after)) for match in self.find(pattern))

    def find(self, pattern: str) -> Iterator[Match]:
        """Every place of a pattern, the shortest at each beginning."""
        wanted = tuple(tokens(pattern))
        head = wanted[0]
        self.looked_for.setdefault(pattern, 0)
        everywhere = range(len(self.words))
        for first in everywhere if head.kind == "hole" else self._places.get(head.text, ()):
            found = self._match(wanted, first, {})
            if found is not None:
                last, holes = found
                span = self.words[first].start, self.words[last - 1].end
                if not any(start < span[1] and span[0] < end for start, end in self._fixed):
                    self.looked_for[pattern] += 1
                    texts = {name: self._between(*place) for name, place in holes.items()}
                    yield Match(span, texts)

    def _between(self, first: int, last: int) -> str:
        return self.text[self.words[first].start : self.words[last - 1].end]

    def _match(
        self, wanted: Sequence[Token], at: int, holes: Mapping[str, Span]
    ) -> tuple[int, Mapping[str, Span]] | None:
        """Where a match that begins at a token ends, and its holes."""
        if not wanted:
            return at, holes
        head, rest = wanted[0], wanted[1:]
        if head.kind != "hole":
            same = at < len(self.words) and self.words[at].text == head.text
            return self._match(rest, at + 1, holes) if same else None
        for end in self._ends(head.text, at):
            known = holes.get(head.text)
            if known is not None and not self._same(known, (at, end)):
                continue
            found = self._match(rest, end, {**holes, head.text: known or (at, end)})
            if found is not None:
                return found
        return None

    def _ends(self, hole: str, at: int) -> Iterator[int]:
        """Where what fills a hole from a token on may end, nearest first."""
        if not hole.startswith("$$"):
            if at < len(self.words) and self.words[at].kind in {"name", "number"}:
                yield at + 1
            return
        stops = _CLOSING if hole.startswith("$$$") else _CLOSING | {",", ";"}
        while at < len(self.words) and self.words[at].text not in stops:
            at = self._partners.get(at, at) + 1
            yield at

    def _same(self, one: Span, other: Span) -> bool:
        words = [[each.text for each in self.words[slice(*place)]] for place in (one, other)]
        return words[0] == words[1]


@lru_cache(maxsize=1)
def _read(text: str) -> Code:
    """Of the original, once for all its mutants."""
    return Code(text)


def _partners(words: Sequence[Token]) -> dict[int, int]:
    """The closing bracket of every opening one, by their numbers."""
    found, open_ = dict[int, int](), list[int]()
    for index, each in enumerate(words):
        if each.text in _OPENING:
            open_.append(index)
        elif each.text in _CLOSING:
            if not open_ or _OPENING[words[open_[-1]].text] != each.text:
                msg = f"offset {each.start}: {each.text!r} closes nothing"
                raise SyntaxError(msg)
            found[open_.pop()] = index
    if open_:
        msg = f"offset {words[open_[-1]].start}: {words[open_[-1]].text!r} is never closed"
        raise SyntaxError(msg)
    return found


@dataclass(frozen=True)
class Rule:
    """One kind of fault: where it can stand in a source, and what stands there then."""

    family: str
    name: str
    find: Callable[[Code], Found]

    def edits(self, code: Code) -> Iterator[Edit]:
        """The fault at every place where it is possible."""
        for (start, end), after in self.find(code):
            yield Edit(self.family, self.name, start, end, after)


def rule(family: str) -> Callable[[Callable[[Code], Found]], Rule]:
    """Make a rule of a function; its name is the rule's."""
    if family not in FAMILIES:
        msg = f"family={family!r} is unknown; families: {', '.join(FAMILIES)}"
        raise ValueError(msg)

    def make(find: Callable[[Code], Found]) -> Rule:
        return Rule(family, find.__name__, find)

    return make


def edits_by(rules: Iterable[Rule]) -> Rules:
    """The edits of several rules to a text, which is read once."""
    known = tuple(rules)

    def edits(text: str) -> Iterator[Edit]:
        code = Code(text)
        for each in known:
            yield from each.edits(code)

    return edits


def idle(rules: Iterable[Rule], texts: Iterable[str]) -> list[str]:
    """The patterns that stand in none of the texts: a fault that would be made nowhere.

    Each with its rule: ``rule: pattern``.
    """
    read = [Code(text) for text in texts]
    found = []
    for each in rules:
        for code in read:
            code.looked_for.clear()
            tuple(each.edits(code))
        patterns = dict.fromkeys(name for code in read for name in code.looked_for)
        gone = [name for name in patterns if not any(code.looked_for[name] for code in read)]
        found += [f"{each.name}: {name}" for name in gone]
    return found
